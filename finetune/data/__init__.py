"""Text to train on: its sources, its rows, and tokens in windows."""
