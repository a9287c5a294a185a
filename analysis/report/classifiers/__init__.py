"""The page of an image classifier: what it computes, from its weights, and what that is worth on images."""
