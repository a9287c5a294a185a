"""Linear equations of least squares, from second moments."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def solve_ridge(
    gram: Float[Tensor, "n n"], right: Float[Tensor, "n m"], ridge: float
) -> Float[Tensor, "n m"]:
    """gram⁻¹ right, with a ridge relative to each variable's own second moment. `gram` is overwritten."""
    size = gram.diagonal().clamp(min=0).sqrt()
    size = torch.where(size == 0, 1.0, size)
    correlations = gram.div_(size).div_(size.unsqueeze(1))
    correlations.diagonal().add_(ridge)
    root = torch.linalg.cholesky(correlations)
    return torch.cholesky_solve(right / size.unsqueeze(1), root).div_(size.unsqueeze(1))
