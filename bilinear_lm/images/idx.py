"""Files in the idx format, in which MNIST and its like are published: `read_idx`, `read_idx_folder`.

A file is two zero bytes, a byte for the type of its numbers, a byte for how many axes it has, the axes'
lengths as big-endian 32-bit numbers, then the numbers. Images are [n, height, width] and labels [n], of bytes.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from jaxtyping import UInt8
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.files import reading, require_content, told
from bilinear_lm.images.data import ImageData, numbered

BYTES = 8
"""The type of unsigned bytes."""

_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_KINDS = {3: "images", 1: "labels"}
_CHUNK = 1 << 24
_MOST = 1 << 34
"""Largest number of bytes that is read: a header that asks for more is damaged."""

_PARTS = (("train", "images"), ("train", "labels"), ("t10k", "images"), ("t10k", "labels"))


@checked
def read_idx(path: str | os.PathLike[str], axes: int = 3) -> UInt8[Tensor, "*axes"]:
    """The numbers of an idx file, plain or gzip: images [n, height, width] with 3 axes, labels [n] with 1.

    InputError for a file that is none, is cut off or damaged, goes on after its end, has another type than
    bytes, or another number of axes.

    >>> read_idx("mnist/train-labels-idx1-ubyte.gz", axes=1)[:3]  # doctest: +SKIP
    tensor([5, 0, 4], dtype=torch.uint8)
    """
    path = Path(path)
    require_content(path, "expected an idx file there")
    try:
        with reading(path), _opened(path) as file:
            return _numbers(file, path, axes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: no complete gzip file ({error}); it is damaged, fetch it again") from error


@checked
def read_idx_folder(folder: str | os.PathLike[str]) -> ImageData:
    """The images of a folder with the four idx files of MNIST, Fashion-MNIST and their like.

    They are called train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    t10k-labels-idx1-ubyte, with `.idx` in the place of `-idx` or not, plain or with `.gz`. Classes are called
    by their numbers.

    >>> read_idx_folder("fashion-mnist").image_shape  # doctest: +SKIP
    (28, 28)
    """
    folder = Path(folder)
    paths = [_part(folder, split, kind) for split, kind in _PARTS]
    train, train_labels, test, test_labels = (
        read_idx(path, axes) for path, axes in zip(paths, (3, 1, 3, 1), strict=True)
    )
    names = numbered((train_labels, test_labels))
    return ImageData(train, train_labels.long(), test, test_labels.long(), names, name=told(folder))


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds any of the four files."""
    return any(name.is_file() for part in _PARTS for name in _candidates(folder, *part))


def _candidates(folder: Path, split: str, kind: str) -> Sequence[Path]:
    axes = 3 if kind == "images" else 1
    names = [f"{split}-{kind}{mark}idx{axes}-ubyte" for mark in "-."]
    return [folder / f"{name}{end}" for name in names for end in ("", ".gz")]


def _part(folder: Path, split: str, kind: str) -> Path:
    candidates = _candidates(folder, split, kind)
    with reading(folder):
        there = [path for path in candidates if path.is_file()]
    if len(there) != 1:
        got = f"both {there[0].name} and {there[1].name}" if there else f"no {candidates[0].name}[.gz]"
        raise InputError(f"{folder}: {got}; expected one file with the {split} {kind}")
    return there[0]


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")


def _numbers(file: IO[bytes], path: Path, axes: int) -> Tensor:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
        raise InputError(f"{path}: no idx file; expected the bytes 0, 0, 8 and the number of axes first")
    if start[2] != BYTES:
        raise InputError(f"{path}: {_TYPES[start[2]]} numbers; expected bytes (uint8)")
    if start[3] != axes:
        raise InputError(
            f"{path}: {_said(start[3])}; expected {_said(axes)}: the files may have been exchanged"
        )
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise InputError(f"{path}: cut off within its header; fetch it again")
    shape = [int.from_bytes(lengths[4 * axis : 4 * axis + 4], "big") for axis in range(axes)]
    expected = math.prod(shape)
    if not 0 < expected <= _MOST:
        raise InputError(f"{path}: the header says {shape}; expected images or labels, it may be damaged")
    data = _read(file, expected + 1)
    if len(data) != expected:
        got = f"{len(data)}" if len(data) < expected else "more"
        raise InputError(
            f"{path}: {got} bytes of numbers where its header says {shape}, {expected}; it is cut off or "
            "damaged, fetch it again"
        )
    return torch.frombuffer(data, dtype=torch.uint8).reshape(shape)


def _said(axes: int) -> str:
    return f"{axes} axes" + (f", as {_KINDS[axes]} have" if axes in _KINDS else "")


def _read(file: IO[bytes], most: int) -> bytearray:
    """At most so many bytes, in pieces: a damaged header may ask for more than fits."""
    data = bytearray()
    while len(data) < most and (piece := file.read(min(_CHUNK, most - len(data)))):
        data += piece
    return data
