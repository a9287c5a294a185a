"""Reading .npz files, which are archives of numpy arrays; only floating-point arrays are read.

An array in numpy's format can be a pickle; it is refused by its type before its data is looked at.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.files import reading, require_content, require_finite

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of an .npz file as tensors, in the precision of the file, finite."""
    require_content(path, "expected an .npz file there")
    tensors = {}
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                name = entry.removesuffix(".npy")
                with archive.open(entry) as file:
                    tensors[name] = _array(cast(zipfile.ZipExtFile, file), f"{path}: {name}")
    except InputError:
        raise
    # What zipfile and numpy raise for archives and headers that are not whole, or locked.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a complete .npz file ({error}); it is truncated or damaged, fetch it again"
        ) from error
    require_finite(tensors, path)
    return tensors


def _array(file: zipfile.ZipExtFile, what: str) -> Tensor:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of numpy's format")
    shape, by_columns, dtype = _HEADERS[version](file)
    if dtype.kind != "f" or dtype.itemsize > 8:
        kind = "pickled objects, which are never read because they can run code" if dtype.hasobject else dtype
        raise InputError(f"{what} is of {kind}; expected floating-point weights")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    size = math.prod(shape) * dtype.itemsize
    data = bytearray(file.read(size + 1))
    if len(data) != size:
        raise ValueError(f"an array of shape {shape} without its {size:,} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=False))
