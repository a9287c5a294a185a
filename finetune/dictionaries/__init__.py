"""Training of dictionaries (sparse autoencoders) and how faithful they are."""
