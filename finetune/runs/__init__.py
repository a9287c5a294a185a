"""A run on disk: its folder, log, checkpoints and figure."""
