"""The strongest of many pairs in the heads of attention, kept while strips of them are computed.

Two sets of directions give a matrix of all their pairs for each attention head. Only its k entries of largest
magnitude are kept; no more than a strip of rows exists at once.
Entries are ranked by |value|, then by head, left and right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.streaming import Strongest
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import exponent
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown


@dataclass(frozen=True)
class HeadPair:
    """The value of one head between two directions."""

    head: int
    left: int
    """The query of an attention score; for an OV circuit, the direction that the head reads."""
    right: int
    """The key of an attention score; for an OV circuit, the direction that reads the head's output."""
    value: float
    offset: int | None = None
    """The relative position at which an attention score takes the value; None for an OV circuit."""


@shown
@dataclass(frozen=True)
class HeadPairs:
    """Pairs in the heads of a layer as columns, strongest first; iterating gives `HeadPair`s."""

    heads: Int[Tensor, " k"]
    left: Int[Tensor, " k"]
    right: Int[Tensor, " k"]
    values: Float[Tensor, " k"]
    offsets: Int[Tensor, " k"] | None = None
    """Relative positions of attention scores; None for OV circuits."""

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[HeadPair]:
        columns = [self.heads, self.left, self.right, self.values]
        columns += [] if self.offsets is None else [self.offsets]
        return (HeadPair(*row) for row in zip(*(column.tolist() for column in columns), strict=True))


def require_products(left: Float[Tensor, "*left d"], right: Float[Tensor, "*right d"], what: str) -> None:
    """Raises InputError where all products of rows are too small for their precision."""
    if not left.any() or not right.any():
        return
    if exponent(left) + exponent(right) + left.shape[-1].bit_length() < _least_exponent(left.dtype):
        raise InputError(
            f"{what} underflow {left.dtype}; expected larger ones: scale the directions up, or compute in "
            "float64"
        )


def _least_exponent(dtype: torch.dtype) -> int:
    return math.frexp(torch.finfo(dtype).tiny)[1]


def strongest_pairs(
    strip: Callable[[int, slice], Float[Tensor, "rows m"]],
    shape: tuple[int, int, int],
    k: int,
    like: Tensor,
    numbers_each: int = 1,
    progress: bool = False,
) -> HeadPairs:
    """The k pairs of largest |value| in matrices [n_heads, n, m] that are given strip by strip.

    `strip(head, rows)` returns the rows of a head's matrix, [rows, m], on the device and in the precision of
    `like`. Each call asks for as many rows as fit a chunk of memory with `numbers_each` float64 numbers an
    entry.
    """
    n_heads, n, m = shape
    most = n_heads * n * m
    require_count(k, f"k={k} pairs", f"1 to the {most:,} that there are", most=most)
    chunk = rows_at_once(8 * numbers_each * m)
    best = Strongest(k, like)
    for head in tqdm(range(n_heads), desc="heads", disable=not progress):
        for start in range(0, n, chunk):
            values = strip(head, slice(start, start + chunk))
            row, column = best.candidates(values.abs())
            best.add(values[row, column], (head * n + start + row) * m + column)
    rows, right = best.places // m, best.places % m
    return HeadPairs(rows // n, rows % n, right, best.values)
