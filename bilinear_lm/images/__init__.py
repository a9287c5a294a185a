"""Images with classes: idx files, datasets, and digits that are always there."""

from __future__ import annotations

from bilinear_lm.images.data import ImageData, to_floats
from bilinear_lm.images.idx import read_idx, read_idx_folder

__all__ = ["ImageData", "read_idx", "read_idx_folder", "to_floats"]
