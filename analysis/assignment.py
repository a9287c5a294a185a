"""The best pairing of rows with columns."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.rescaling import exponent, times_two_to


def best_assignment(scores: Float[Tensor, "n m"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Rows and columns of the min(n, m) pairs with the largest total score; rows ascend.

    Each row and each column is in one pair at most. Exact, by shortest augmenting paths (Jonker and
    Volgenant 1987): O(n² m) for n ≤ m.

    >>> best_assignment(torch.tensor([[0.9, 0.8], [0.8, 0.1]]))
    (tensor([0, 1]), tensor([1, 0]))
    """
    if scores.ndim != 2 or scores.is_complex():
        raise InputError(
            f"scores to assign by: got {list(scores.shape)} in {scores.dtype}; expected real numbers [n, m]"
        )
    if not torch.isfinite(scores).all():
        raise InputError("scores to assign by hold NaN or infinity; expected finite numbers")
    if scores.shape[0] > scores.shape[1]:
        columns, rows = best_assignment(scores.mT)
        order = rows.argsort()
        return rows[order], columns[order]
    cost = -scores.detach().double()
    assigned = torch.from_numpy(_assign(times_two_to(cost, -exponent(cost)).cpu().numpy()))
    return torch.arange(len(assigned)).to(scores.device), assigned.to(scores.device)


def _assign(cost: np.ndarray) -> np.ndarray:
    """The column of each row, at the least total cost; no more rows than columns."""
    n, m = cost.shape
    row_of = np.full(m, -1)
    row_price, column_price = np.zeros(n), np.zeros(m)
    for row in range(n):
        distance, before, done = np.full(m, np.inf), np.full(m, -1), np.zeros(m, dtype=bool)
        at, last, travelled = row, -1, 0.0
        while at >= 0:  # until the path ends in a column that is free
            reached = travelled + cost[at] - row_price[at] - column_price
            nearer = ~done & (reached < distance)
            distance[nearer], before[nearer] = reached[nearer], last
            last = int(np.where(done, np.inf, distance).argmin())
            done[last], travelled, at = True, distance[last], row_of[last]
        # Prices that keep every pair on the path at reduced cost 0, and no cost below it.
        gain = travelled - distance[done]
        row_price[row] += travelled
        owners = row_of[done]
        row_price[owners[owners >= 0]] += gain[owners >= 0]
        column_price[done] -= gain
        while last >= 0:
            row_of[last] = row if before[last] < 0 else row_of[before[last]]
            last = int(before[last])
    columns = np.empty(n, dtype=np.int64)
    columns[row_of[row_of >= 0]] = np.flatnonzero(row_of >= 0)
    return columns
