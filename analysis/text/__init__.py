"""Tokens and texts: what tokens are called, directions of tokens, and a text as windows."""
