"""Gated language models trained into bilinear ones."""
