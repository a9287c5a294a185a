"""A model as its weights, and the sources of directions by weights alone."""
