"""Graphs grown down from a target, on a prompt or by weights alone, and their causal checks."""
