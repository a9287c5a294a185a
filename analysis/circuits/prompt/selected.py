"""The strongest contributions to values on a prompt, and the rest of them in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.circuits.readers import BOTTOM, Group, Limits, Stage


@dataclass(frozen=True)
class Selected:
    """The strongest of rows of contributions, row by row, and the rest of each row."""

    rows: Int[np.ndarray, " n"]
    columns: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    slopes: Float[np.ndarray, " n"]
    pruned: Float[np.ndarray, "n_rows 5"]
    """The numbers of `Pruned`."""


def strongest(
    weights: Float[Tensor, "n columns"],
    limits: Limits,
    slopes: Float[Tensor, "n columns"] | None = None,
    unlisted: Float[Tensor, "n 3"] | None = None,
) -> Selected:
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
    n_kept = ((before < limits.share * whole_size) & (sizes != 0)).sum(dim=1).clamp(max=limits.at_most)
    left = [_left(values, n_kept) for values in sorted_]
    n_left = is_there.sum(dim=1) - n_kept
    pruned = torch.stack([left[0][0], left[0][1], n_left.double(), left[-1][0], left[-1][1]], dim=1)
    pruned = pruned.masked_fill((n_left <= 0).unsqueeze(1), 0)
    if unlisted is not None:
        pruned[:, 2:] += unlisted.double()[:, [2, 0, 1]]
    kept = torch.arange(order.shape[1], device=order.device) < n_kept.unsqueeze(1)
    chosen = [kept.nonzero()[:, 0], order[kept], sorted_[0][kept], sorted_[-1][kept], pruned]
    return Selected(*(column.cpu().numpy() for column in chosen))


def contributions(
    chosen: Selected,
    sources: Int[np.ndarray, " n"],
    limits: Limits,
    partners: Int[np.ndarray, " n"] | None = None,
    pairs_at: Stage = BOTTOM,
    grouped: Float[np.ndarray, " n"] | None = None,
) -> Group:
    """The group of all contributions that sum to values on a prompt."""
    sizes = np.abs(chosen.slopes if limits.by == "slope" else chosen.weights)
    whole = np.bincount(chosen.rows, sizes, minlength=len(chosen.pruned))
    whole += chosen.pruned[:, 4 if limits.by == "slope" else 1]
    return Group(
        chosen.rows,
        sources,
        np.full_like(sources, -1) if partners is None else partners,
        chosen.weights,
        chosen.slopes,
        sizes / whole[chosen.rows],
        chosen.pruned,
        pairs_at,
        grouped=grouped,
    )


def _left(values: Float[Tensor, "n columns"], n: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """The sums of the entries of each row from the n-th on, and of their magnitudes."""
    sums = torch.stack([values, values.abs()]).cumsum(dim=2)
    reached = torch.nn.functional.pad(sums, (1, 0)).gather(2, n.expand(2, -1).unsqueeze(2))
    signed, absolute = sums[:, :, -1] - reached.squeeze(2)
    return signed, absolute
