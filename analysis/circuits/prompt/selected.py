"""The strongest contributions to values on a prompt, and the rest of them in one number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.circuits.readers import BOTTOM, Group, Limits, Part, Stage
from analysis.graphs.graph import Pruned


@dataclass(frozen=True)
class Selected:
    """The strongest of a row of contributions, and the rest of them."""

    columns: list[int]
    weights: list[float]
    pruned: Pruned


def strongest(contributions: Float[Tensor, "n columns"], limits: Limits) -> list[Selected]:
    """In each row, the fewest entries that together have the share of Σ |entry|, strongest first."""
    values = contributions.double()
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    values = values.gather(1, order)
    reached = values.abs().cumsum(dim=1)
    mass, sums = reached[:, -1], values.cumsum(dim=1)
    # An entry is kept as long as those before it have less than the share, and never where it is zero.
    before = torch.nn.functional.pad(reached[:, :-1], (1, 0))
    n_kept = ((before < limits.share * mass.unsqueeze(1)) & (values != 0)).sum(dim=1)
    kept = [min(n, limits.at_most) for n in n_kept.tolist()]
    whole = (values != 0).sum(dim=1).tolist()
    selected = []
    for row, n in enumerate(kept):
        total = float(sums[row, -1])
        shown, shown_mass = (float(sums[row, n - 1]), float(reached[row, n - 1])) if n else (0.0, 0.0)
        rest = Pruned()
        if whole[row] > n:
            rest = Pruned(total - shown, float(mass[row]) - shown_mass, whole[row] - n)
        selected.append(Selected(order[row, :n].tolist(), values[row, :n].tolist(), rest))
    return selected


def contributions(weights: list[float], parts: list[Part], pruned: Pruned, pairs_at: Stage = BOTTOM) -> Group:
    """The group of all contributions that sum to a value on a prompt."""
    whole = sum(map(abs, weights)) + pruned.absolute
    return Group(weights, parts, pruned, whole, "absolute", pairs_at)
