"""A model as its weights, and what directions read by weights alone."""
