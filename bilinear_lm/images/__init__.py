"""Images with classes: idx files, and digits that are always there."""

from __future__ import annotations

from bilinear_lm.images.data import ImageData, to_floats
from bilinear_lm.images.digits import read_digits
from bilinear_lm.images.idx import read_idx, read_idx_folder

__all__ = ["ImageData", "read_digits", "read_idx", "read_idx_folder", "to_floats"]
