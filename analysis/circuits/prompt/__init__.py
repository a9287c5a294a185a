"""A prompt with the features that are active on it, and what values on it split over."""
