"""The page about a model, served: a model that answers what one asks on it."""
