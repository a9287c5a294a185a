"""Toy models read from their weights: gates, hops of two gates, features in superposition, Fourier modes."""
