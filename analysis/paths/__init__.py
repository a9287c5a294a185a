"""A prompt measured, and what a model computes on it as sums over its parts."""
