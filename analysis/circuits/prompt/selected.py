"""The strongest contributions to values on a prompt, and the rest of them in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.circuits.readers import BOTTOM, Group, Limits, Part, Stage
from analysis.graphs.elements import Pruned


@dataclass(frozen=True)
class Selected:
    """The strongest of a row of contributions, and the rest of them."""

    columns: list[int]
    weights: list[float]
    slopes: list[float]
    pruned: Pruned


def strongest(
    weights: Float[Tensor, "n columns"],
    limits: Limits,
    slopes: Float[Tensor, "n columns"] | None = None,
    unlisted: Float[Tensor, "n 3"] | None = None,
) -> list[Selected]:
    """In each row, the fewest entries that together have the share of Σ |size|, largest first.

    Sizes are slopes or weights, as the limits say; without `slopes` these are the weights. `unlisted` holds
    the sum of slopes, that of their magnitudes and the number of contributions that are no entries, all of
    weight 0.
    """
    weights = weights.double()
    slopes = weights if slopes is None else slopes.double()
    sizes = slopes if limits.by == "slope" else weights
    order = sizes.abs().argsort(dim=1, descending=True, stable=True)
    sorted_ = [values.gather(1, order) for values in ([weights] if slopes is weights else [weights, slopes])]
    sizes = sizes.gather(1, order)
    reached = sizes.abs().cumsum(dim=1)
    # An entry is kept as long as those before it have less than the share, and never where it is zero.
    before = torch.nn.functional.pad(reached[:, :-1], (1, 0))
    is_there = (sorted_[0] != 0) | (sorted_[-1] != 0)
    whole_size = reached[:, -1:]
    if unlisted is not None and limits.by == "slope":
        whole_size = whole_size + unlisted[:, 1:2]
    n_kept = ((before < limits.share * whole_size) & (sizes != 0)).sum(dim=1)
    kept = [min(n, limits.at_most) for n in n_kept.tolist()]
    whole = is_there.sum(dim=1).tolist()
    sums = [(values.cumsum(dim=1), values.abs().cumsum(dim=1)) for values in sorted_]
    selected = []
    for row, n in enumerate(kept):
        left = [_left(signed[row], absolute[row], n) for signed, absolute in sums]
        rest = Pruned()
        if whole[row] > n:
            (signed, absolute), (slope, absolute_slope) = left[0], left[-1]
            rest = Pruned(signed, absolute, whole[row] - n, slope, absolute_slope)
        if unlisted is not None:
            slope, absolute_slope, count = unlisted[row].tolist()
            rest += Pruned(0.0, 0.0, int(count), slope, absolute_slope)
        columns = order[row, :n].tolist()
        rows = [values[row, :n].tolist() for values in sorted_]
        selected.append(Selected(columns, rows[0], rows[-1], rest))
    return selected


def contributions(
    chosen: Selected,
    parts: list[Part],
    limits: Limits,
    pairs_at: Stage = BOTTOM,
    grouped: list[float] | None = None,
) -> Group:
    """The group of all contributions that sum to a value on a prompt."""
    weights, slopes, pruned = chosen.weights, chosen.slopes, chosen.pruned
    whole = sum(map(abs, slopes if limits.by == "slope" else weights))
    whole += pruned.absolute_slope if limits.by == "slope" else pruned.absolute
    return Group(weights, parts, pruned, whole, limits.by, pairs_at, slopes=slopes, grouped=grouped)


def _left(signed: Tensor, absolute: Tensor, n: int) -> tuple[float, float]:
    """The shares that the entries from the n-th on have in two cumulated sums."""
    total, size = float(signed[-1]), float(absolute[-1])
    return (total - float(signed[n - 1]), size - float(absolute[n - 1])) if n else (total, size)
