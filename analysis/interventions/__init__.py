"""A model with an MLP replaced, interactions taken out, or attention and norms frozen."""
