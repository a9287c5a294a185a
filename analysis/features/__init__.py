"""A layer between two dictionaries: interactions of features, their passages, and what explains them."""
