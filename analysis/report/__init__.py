"""The page about a model: what it shows, computed, and its sections as HTML."""
