"""Running results of numbers that stream by: the strongest, and the moments of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from bilinear_lm.checks import require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import ROOM, sizes, times_two_to
from bilinear_lm.shown import shown


class Strongest:
    """The k numbers of largest magnitude among those added so far, with the places that tell them apart.

    They are ranked by magnitude, equal ones by place, in whatever order they come in.

    >>> strongest = Strongest(2, like=torch.empty(0))
    >>> strongest.add(torch.tensor([1.0, -3.0, 2.0]), torch.tensor([7, 8, 9]))
    >>> strongest.values, strongest.places
    (tensor([-3.,  2.]), tensor([8, 9]))
    """

    def __init__(self, k: int, like: Tensor):
        """Start empty, for numbers on the device and in the precision of `like`."""
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
        require_rankable(largest, sizes.dtype)
        if largest < least or not sizes.numel():
            return tuple(torch.empty(0, dtype=torch.long, device=sizes.device) for _ in sizes.shape)
        return torch.nonzero(sizes >= least, as_tuple=True)

    def candidates_of_rows(self, sizes: Float[Tensor, "n m"]) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
        """`candidates` of a matrix; only rows are searched whose largest magnitude may be among the k."""
        largest, least = sizes.amax(1), self.threshold
        require_rankable(float(largest.max()), sizes.dtype)
        if not least and len(largest) > self.k:
            least = max(0.0, float(largest.topk(self.k, sorted=False).values.min()))
        rows = torch.nonzero(largest >= least).squeeze(1)
        at, column = self.candidates(sizes[rows])
        return rows[at], column

    def add(self, values: Float[Tensor, " n"], places: Int[Tensor, " n"]) -> None:
        """Takes numbers; each place may come once."""
        if not len(values):
            return
        self._waiting.append((values, places))
        n_best, waiting = len(self._best[0]) if self._best else 0, sum(len(part) for part, _ in self._waiting)
        # Sorting costs as much as what is kept; it waits for some more, so that all of it costs as what came.
        if n_best + waiting >= self.k and (n_best < self.k or 4 * waiting >= self.k):
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


class StrongestOfEach:
    """The k numbers of largest magnitude of each of n groups among those added so far.

    They are ranked by magnitude, equal ones by place, in whatever order they come in. Zeros do not count: a
    group with fewer than k numbers is filled up with them.

    >>> strongest = StrongestOfEach(2, 1, like=torch.empty(0))
    >>> strongest.add(torch.tensor([1, 0, 1]), torch.tensor([1.0, 2.0, -3.0]), torch.tensor([7, 8, 9]))
    >>> strongest.merge()
    >>> strongest.values, strongest.places
    (tensor([[ 2.],
            [-3.]]), tensor([[8],
            [9]]))
    """

    def __init__(self, n: int, k: int, like: Tensor):
        """Start empty, for numbers on the device and in the precision of `like`."""
        self.values: Float[Tensor, "n k"] = like.new_zeros(n, k)
        """The numbers of each group, strongest first, as of the last `merge`."""
        self.places: Int[Tensor, "n k"] = torch.zeros_like(self.values, dtype=torch.long)
        self.least: Float64[Tensor, " n"] = like.new_zeros(n, dtype=torch.float64)
        """Numbers of a smaller magnitude are not among the k of a group."""
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_waiting = 0

    def at_least(self, sizes: Float64[Tensor, " n"]) -> None:
        """Takes note that k numbers of each group have magnitudes of `sizes` or more."""
        self.least = torch.maximum(self.least, sizes)

    def add(self, groups: Int[Tensor, " m"], values: Float[Tensor, " m"], places: Int[Tensor, " m"]) -> None:
        """Takes numbers of some groups; each place may come once in a group."""
        sizes = values.abs()
        kept = torch.nonzero((sizes >= self.least[groups]) & (sizes > 0)).squeeze(1)
        self._waiting.append((groups[kept], values[kept], places[kept]))
        self._n_waiting += len(kept)
        # Ranking costs as much as ranking what is kept; it waits for some more.
        if 4 * self._n_waiting >= self.values.numel():
            self.merge()

    def merge(self) -> None:
        """Ranks what was added since, which raises `least`."""
        if not self._n_waiting:
            return
        n, k = self.values.shape
        own = torch.arange(n, device=self.places.device)
        parts = [(own.repeat_interleave(k), self.values.flatten(), self.places.flatten()), *self._waiting]
        groups, values, places = (torch.cat(column) for column in zip(*parts, strict=True))
        self._waiting, self._n_waiting = [], 0
        order = places.argsort(stable=True)
        order = order[values[order].abs().argsort(descending=True, stable=True)]
        order = order[groups[order].argsort(stable=True)]
        groups = groups[order]
        rank = torch.arange(len(groups), device=own.device) - torch.searchsorted(groups, own)[groups]
        kept = order[rank < k]
        self.values, self.places = values[kept].view(n, k), places[kept].view(n, k)
        self.at_least(self.values[:, -1].abs().double())


def require_rankable(largest: float, dtype: torch.dtype) -> None:
    """Raises InputError unless the largest magnitude of numbers to rank is finite."""
    if not largest < math.inf:
        raise InputError(
            f"numbers to rank overflow {dtype} or are NaN; expected finite ones: scale what they "
            "are computed from down, or compute in float64"
        )


@shown
@dataclass(frozen=True)
class PairMoments:
    """Count, means and centred sums of observations of x and y; the moments of two sets of them add up.

    Centred sums and the merge of Chan, Golub and LeVeque (1979), in float64: a large mean does not cancel
    digits as it would in Σ x² − (Σ x)² / n.

    >>> x, y = torch.randn(100, 3), torch.randn(100, 3)
    >>> pieces = [PairMoments.of(x[:40], y[:40]), PairMoments.of(x[40:], y[40:])]
    >>> (pieces[0] + pieces[1]).correlation.shape
    torch.Size([3])
    """

    count: Float[Tensor, "*axes"]
    mean_x: Float[Tensor, "*axes"]
    mean_y: Float[Tensor, "*axes"]
    xx: Float[Tensor, "*axes"]
    """Σ (x − mean)²."""
    xy: Float[Tensor, "*axes"]
    yy: Float[Tensor, "*axes"]

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "n *x_axes"],
        y: Float[Tensor, "n *y_axes"],
        seen: Bool[Tensor, "n *seen_axes"] | None = None,
    ) -> PairMoments:
        """The moments of n observations; axes broadcast, and those where `seen` is False do not count.

        Numbers of any size; InputError for NaN and infinity.
        """
        for name, value in (("x", x), ("y", y)):
            require_floating(value, f"{name} of a correlation")
        seen = torch.ones_like(y, dtype=torch.bool) if seen is None else seen
        seen, x, y = (value.movedim(0, -1) for value in torch.broadcast_tensors(seen, x, y))
        return cls.of_series(x.unsqueeze(-2), y, seen)._without_series()

    @classmethod
    def of_series(
        cls, x: Float[Tensor, "*axes k n"], y: Float[Tensor, "*axes n"], seen: Bool[Tensor, "*axes n"]
    ) -> PairMoments:
        """The moments [*axes, k] of k series of n observations beside one y, by matrix products."""
        (x, x_power), (y, y_power) = _near_one(x, "x"), _near_one(y, "y")
        weight = seen.to(y.dtype)
        column, count = (
            weight.unsqueeze(-1),
            weight.double().sum(dim=-1, keepdim=True),
        )  # [*axes, n, 1], [*axes, 1]
        mean_x = (x @ column).squeeze(-1).double() / count.clamp(min=1)
        mean_y = (y.unsqueeze(-2) @ column).squeeze(-1).double() / count.clamp(min=1)
        x, y = (x - mean_x.unsqueeze(-1)).to(x.dtype), (y - mean_y).to(y.dtype)
        xx = (x.square() @ column).squeeze(-1).double()  # [*axes, k]
        xy = (x @ (weight * y).unsqueeze(-1)).squeeze(-1).double()
        yy = (y.square() * weight).sum(dim=-1, keepdim=True).double().expand_as(xx)
        y_power = y_power.unsqueeze(-1)
        powers = (x_power, y_power, 2 * x_power, x_power + y_power, 2 * y_power)
        moments = (mean_x, mean_y.expand_as(mean_x), xx, xy, yy)
        return cls(count.expand_as(xx), *map(times_two_to, moments, powers))

    @classmethod
    def of_groups(
        cls, x: Float[Tensor, "m k"], y: Float[Tensor, " m"], groups: Int[Tensor, " m"], n: int
    ) -> PairMoments:
        """The moments [n, k] of m observations of k series beside one y, each of them of one of n groups.

        Sums are in float64: numbers whose squares it can hold.
        """
        x, y = x.double(), y.double().unsqueeze(1)

        def sums(values: Tensor) -> Tensor:
            return values.new_zeros(n, values.shape[1]).index_add_(0, groups, values)

        count = sums(torch.ones_like(y))
        mean_x, mean_y = sums(x) / count.clamp(min=1), sums(y) / count.clamp(min=1)
        x, y = x - mean_x[groups], y - mean_y[groups]
        xx, xy, yy = sums(x.square()), sums(x * y), sums(y.square())
        return cls(count.expand_as(xx), mean_x, mean_y.expand_as(xx), xx, xy, yy.expand_as(xx))

    def _without_series(self) -> PairMoments:
        return PairMoments(*(getattr(self, field.name).squeeze(-1) for field in fields(PairMoments)))

    def __getitem__(self, index: int | None) -> PairMoments:
        """The moments at a place of the first axis; with None a first axis of length 1 more."""
        return PairMoments(*(getattr(self, field.name)[index] for field in fields(PairMoments)))

    def __add__(self, other: PairMoments) -> PairMoments:
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        shift_x, shift_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        return PairMoments(
            count=count,
            mean_x=self.mean_x + shift_x * share,
            mean_y=self.mean_y + shift_y * share,
            xx=self.xx + other.xx + shift_x * shift_x * self.count * share,
            xy=self.xy + other.xy + shift_x * shift_y * self.count * share,
            yy=self.yy + other.yy + shift_y * shift_y * self.count * share,
        )

    @property
    def correlation(self) -> Float[Tensor, "*axes"]:
        """Pearson correlations; NaN where a quantity did not vary or was seen less than twice."""
        return (self.xy / (self.xx.sqrt() * self.yy.sqrt())).clamp(-1, 1)


def _near_one(values: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Series in units of 2^power in which their squares stay within the range, and the powers."""
    if not values.numel():
        return values, values.new_zeros(values.shape[:-1], dtype=torch.long)
    largest = sizes(values, -1)
    if not torch.isfinite(largest).all():
        raise InputError(f"{name} of a correlation holds NaN or infinity; expected finite numbers")
    powers = torch.frexp(largest.double()).exponent
    powers = torch.where(powers.abs() <= ROOM[values.dtype], 0, powers)
    return times_two_to(values, -powers.unsqueeze(-1)), powers
