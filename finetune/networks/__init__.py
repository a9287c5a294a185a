"""Training of the small networks of `bilinear_lm.networks`."""
