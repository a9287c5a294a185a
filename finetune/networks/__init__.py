"""Training of small networks: image classifiers."""
