"""Correlations of quantities that are seen piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilinear_lm.checks import require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.rescaling import ROOM, sizes, times_two_to


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
        (x, x_power), (y, y_power) = _near_one(x, "x"), _near_one(y, "y")
        weight = torch.ones_like(y) if seen is None else seen.to(y.dtype)
        weight, x, y = torch.broadcast_tensors(weight, x, y)
        count = weight.sum(dim=0).double()
        means = [(weight * value).sum(dim=0).double() / count.clamp(min=1) for value in (x, y)]
        x, y = ((value - mean).to(value.dtype) for value, mean in zip((x, y), means, strict=True))
        squares = [(weight * product).sum(dim=0).double() for product in (x * x, x * y, y * y)]
        powers = (x_power, y_power, 2 * x_power, x_power + y_power, 2 * y_power)
        return cls(count, *map(times_two_to, (*means, *squares), powers))

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
    """Observations in units of 2^power in which their squares stay within the range, and the powers."""
    require_floating(values, f"{name} of a correlation")
    if not values.numel():
        return values, values.new_zeros(values.shape[1:], dtype=torch.long)
    largest = sizes(values, 0)
    if not torch.isfinite(largest).all():
        raise InputError(f"{name} of a correlation holds NaN or infinity; expected finite numbers")
    powers = torch.frexp(largest.double()).exponent
    powers = torch.where(powers.abs() <= ROOM[values.dtype], 0, powers)
    return times_two_to(values, -powers), powers
