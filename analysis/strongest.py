"""The strongest of many numbers, kept while they are computed piece by piece."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.errors import InputError


class Strongest:
    """The k numbers of largest magnitude among those added so far, with the places that tell them apart.

    They are ranked by magnitude, equal ones by place, in whatever order they come in.

    >>> found = Strongest(2, like=torch.empty(0))
    >>> found.add(torch.tensor([1.0, -3.0, 2.0]), torch.tensor([7, 8, 9]))
    >>> found.values, found.places
    (tensor([-3.,  2.]), tensor([8, 9]))
    """

    def __init__(self, k: int, like: Tensor):
        """Of numbers on the device and in the precision of `like`."""
        self.k, self._like = k, like
        self.threshold = 0.0
        """Numbers of a smaller magnitude are not among the k."""
        self._best: tuple[Tensor, Tensor] | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def candidates(self, sizes: Float[Tensor, "*shape"]) -> tuple[Int[Tensor, " n"], ...]:
        """Indices of the magnitudes that may be among the k; of those below 0 none is."""
        least = self.threshold
        if not least and sizes.numel() > self.k:
            least = max(0.0, float(sizes.flatten().topk(self.k, sorted=False).values.min()))
        largest = float(sizes.max()) if sizes.numel() else -math.inf
        if not largest < math.inf:
            raise InputError(
                f"numbers to rank overflow {sizes.dtype} or are NaN; expected finite ones: scale what they "
                "are computed from down, or compute in float64"
            )
        if largest < least or not sizes.numel():
            return tuple(torch.empty(0, dtype=torch.long, device=sizes.device) for _ in sizes.shape)
        return torch.nonzero(sizes >= least, as_tuple=True)

    def add(self, values: Float[Tensor, " n"], places: Int[Tensor, " n"]) -> None:
        """Takes numbers; each place may come once."""
        if not len(values):
            return
        self._waiting.append((values, places))
        held, waiting = len(self._best[0]) if self._best else 0, sum(len(part) for part, _ in self._waiting)
        # Sorting costs as much as what is held; it waits for some more, so that all of it costs as what came.
        if held + waiting >= self.k and (held < self.k or 4 * waiting >= self.k):
            self._merge()

    @property
    def values(self) -> Float[Tensor, " n"]:
        """The numbers, strongest first; fewer than k where fewer came."""
        return self._merge()[0]

    @property
    def places(self) -> Int[Tensor, " n"]:
        """The places of `values`."""
        return self._merge()[1]

    def _merge(self) -> tuple[Tensor, Tensor]:
        if self._waiting:
            parts = ([self._best] if self._best else []) + self._waiting
            values, places = (torch.cat(column) for column in zip(*parts, strict=True))
            by_place = places.argsort()
            by_size = values[by_place].abs().argsort(descending=True, stable=True)
            kept = by_place[by_size[: self.k]]
            self._best, self._waiting = (values[kept], places[kept]), []
            if len(kept) == self.k:
                self.threshold = float(values[kept[-1]].abs())
        return self._best or (self._like.new_empty(0), self._like.new_empty(0, dtype=torch.long))
