"""Colours of the figures: one for values above 0 and one for those below."""

POSITIVE = "#3b7dd8"

NEGATIVE = "#e2711d"
