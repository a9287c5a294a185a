"""Contractions of weights of any size without leaving the range of their precision."""
