"""Tiles of interaction matrices, searched for the output features and for every input feature at once.

The sizes in a tile are |L̃_i · R̃_j| of screened rows (`analysis.features.screening`), halved on the diagonal,
so that values of `analysis.features.interactions` are twice as large, give or take what was left out of the
rows. Tiles of several output directions lie one below the other: where a matrix is small, most of the time
would go into the calls for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from analysis.features.screening import SLACK, Rows, products_of
from bilinear_lm.numerics.memory import rows_at_once

ROWS, ROWS_ON_GPU = 256, 4096
"""Rows of a tile along one direction: enough for fast products."""

ENTRIES, ENTRIES_ON_GPU = 2**21, 2**26
"""Entries of a tile, which a processor's cache holds."""

GROUP = 64
"""Neighbours in a row of which only the largest is looked at to find a threshold."""

LOST = 2.0**24 * torch.finfo(torch.float32).tiny
"""At least what a term of a product loses that the precision cannot hold."""


@dataclass(frozen=True)
class Tile:
    """The sizes of rows of each of some directions beside some columns, in the precision of the products."""

    sizes: Float[Tensor, "n_rows m"]
    """Rows of one direction after those of the other."""
    n: int
    """The number of directions."""
    rows: slice
    """The features that rows are."""
    columns: slice
    """The features that columns are."""
    away: tuple[Float64[Tensor, " n_rows"], Float64[Tensor, " m"]]
    """At least how far |L_i · R_j| in a row, and in a column, is from its size."""
    alive: tuple[Bool[Tensor, " n_rows"], Bool[Tensor, " m"]]
    """Rows and columns that are not zero."""

    @classmethod
    def of(cls, left: Rows, right: Rows, n: int, rows: slice, columns: slice) -> Tile:
        """All products of some features on both sides, along n directions."""
        if n > 1 or rows != slice(0, len(left.norms)):
            of_each = torch.arange(n, device=left.norms.device).unsqueeze(1) * (len(left.norms) // n)
            left = left[(of_each + torch.arange(rows.start, rows.stop, device=of_each.device)).flatten()]
        right = right[columns]
        lost = LOST * left.numbers.shape[1]
        away = (
            (left.distances * right.norms.max() + left.norms * right.distances.max() + lost) * SLACK,
            (right.distances * left.norms.max() + right.norms * left.distances.max() + lost) * SLACK,
        )
        tile = cls(_sizes(left, right), n, rows, columns, away, (left.norms > 0, right.norms > 0))
        if columns.start <= rows.start < columns.stop:
            tile.by_direction.diagonal(rows.start - columns.start, 1, 2).div_(2)
        return tile

    @property
    def by_direction(self) -> Float[Tensor, "n rows m"]:
        """The sizes of each direction."""
        return self.sizes.view(self.n, -1, self.sizes.shape[1])

    def upper(self) -> Tile:
        """The same tile with each pair once: of its first columns, which are its rows, above the diagonal."""
        if self.rows.start == self.columns.start:
            self.by_direction[:, :, : self.rows.stop - self.rows.start].triu_()
        return self

    def at_least(self, sizes: Float[Tensor, "n_rows *k"]) -> Float[Tensor, "n_rows *k"]:
        """The |values| that sizes in each row stand for, at least."""
        away = self.away[0].to(sizes.dtype).view(-1, *[1] * (sizes.ndim - 1)) * SLACK
        return (sizes * (2 - SLACK) - away).clamp_(min=0).mul_(2)

    def at_most(self, sizes: Float[Tensor, " k"], rows: Int[Tensor, " k"]) -> Float64[Tensor, " k"]:
        """The |values| that sizes in some rows stand for, at most."""
        return 2 * (sizes.double() * SLACK + self.away[0][rows])

    def largest(self) -> Float[Tensor, "n_rows groups"]:
        """The largest sizes of neighbours in each row."""
        whole = self.sizes.shape[1] // GROUP * GROUP
        parts = [self.sizes[:, :whole].unflatten(1, (-1, GROUP)).amax(2)] if whole else []
        if whole < self.sizes.shape[1]:
            parts.append(self.sizes[:, whole:].amax(1, keepdim=True))
        return torch.cat(parts, dim=1)

    def in_reach(
        self,
        largest: Float[Tensor, " n_rows"],
        of_rows: Float64[Tensor, " n_rows"],
        of_columns: Float64[Tensor, " m"],
    ) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
        """Rows and columns whose |value| may be as large as what is given for the row or for the column.

        `largest` are the largest sizes of rows.
        """
        rows, columns = (
            torch.where(alive, (needed / 2 - away) / SLACK, torch.inf).to(self.sizes.dtype)
            for needed, away, alive in zip((of_rows, of_columns), self.away, self.alive, strict=True)
        )
        if bool((columns <= 0).any()):
            hot = self.alive[0]
        else:
            # What is large for its column is so in a row as well, which lies side by side in memory.
            hot = (largest >= rows) | ((self.sizes / columns).amax(1) >= 2 - SLACK)
        searched = torch.nonzero(hot).squeeze(1)
        bounds = torch.minimum(rows[searched, None], columns)
        row, column = torch.nonzero(self.sizes[searched] >= bounds, as_tuple=True)
        row = searched[row]
        if self.rows.start == self.columns.start:
            upper = row % (self.rows.stop - self.rows.start) <= column
            row, column = row[upper], column[upper]
        return row, column


def directions_at_once(features: int, like: Tensor) -> int:
    """How many directions share a tile."""
    rows, _, entries = _shape(like)
    return max(1, entries // (min(rows, features) * features))


def tiles(left: Rows, right: Rows, n: int) -> Iterator[Tile]:
    """The tiles that hold each pair of features once, along n directions."""
    features = len(right.norms)
    most, columns, _ = _shape(right.norms)
    for start in range(0, features, most):
        rows = slice(start, min(start + most, features))
        for first in range(start, features, columns):
            yield Tile.of(left, right, n, rows, slice(first, min(first + columns, features))).upper()


def largest_of_features(left: Rows, right: Rows, n: int, k: int) -> Float64[Tensor, "n_feat k"]:
    """The |values| that k pairs of each feature have along n directions, at least; k ≤ n_feat."""
    features, parts = len(right.norms), []
    at_once = rows_at_once(4 * n * features * 8)
    for start in range(0, features, at_once):
        rows = slice(start, min(start + at_once, features))
        tile = Tile.of(left, right, n, rows, slice(0, features))
        of_each = tile.at_least(tile.sizes.topk(k, dim=1, sorted=False).values).unflatten(0, (n, -1))
        parts.append(of_each.transpose(0, 1).flatten(1).topk(k, dim=1, sorted=False).values)
    return torch.cat(parts).double()


def _shape(like: Tensor) -> tuple[int, int, int]:
    """Rows of a tile, columns of one that is as wide as can be, and entries."""
    rows, entries = (ROWS, ENTRIES) if like.device.type == "cpu" else (ROWS_ON_GPU, ENTRIES_ON_GPU)
    return rows, max(rows, entries // rows), entries


def _sizes(left: Rows, right: Rows) -> Tensor:
    products = products_of(left.numbers, right.numbers)
    if products.dtype != torch.int32:
        return products.abs_()
    rows, columns = (part.steps.to(torch.float32) for part in (left, right))
    return (products * rows.unsqueeze(1)).mul_(columns).abs_()
