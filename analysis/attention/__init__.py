"""QK and OV circuits between directions of the residual stream, from weights."""
