"""Gated MLPs made bilinear without end-to-end training."""
