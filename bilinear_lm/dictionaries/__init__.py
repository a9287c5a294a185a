"""Dictionaries on disk and on the hub: the formats that are read, and the two that are written."""

from bilinear_lm.dictionaries.load import load_dictionary
from bilinear_lm.dictionaries.save import save_dictionary

__all__ = ["load_dictionary", "save_dictionary"]
