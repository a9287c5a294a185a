"""A whole bilinear layer cut down to a few eigenvectors per output direction, and what that costs.

The top eigenvectors of single output features say little about a layer: features overlap, and their
truncations contradict each other. Along an orthonormal basis of outputs they do not: the layer is
B = Σ_r u_r ⊗ Q_r with u_r its output singular vectors, and each Q_r is truncated by itself
(arXiv 2410.08417, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.eigen import eigendecompose, require_full_precision
from analysis.replace import replaced_mlp
from analysis.unfolding import hosvd
from analysis.windows import Windows, require_windows, window_losses
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_tensor


def truncate_eigenvectors(tensor: BilinearTensor, k: int) -> BilinearTensor:
    """The layer with only the top k eigenvectors of each output singular direction, in factors.

    Σ_r u_r Σ_{i≤k} λ_ri (v_ri · x)², exact for k = d_in. Its hidden units are the d_out · k eigenvectors.
    Of all tensors whose interaction matrices along the u_r have rank k, it is the nearest in Frobenius norm.
    """
    require_full_precision(tensor, "eigenvectors")
    require_count(k, f"k={k} eigenvectors", f"1 to d_in={tensor.d_in}", most=tensor.d_in)
    directions = hosvd(tensor).output_directions
    found = eigendecompose(tensor, directions, k)
    vectors = found.vectors.flatten(0, 1)
    return BilinearTensor(
        W_gate=(found.values.flatten().unsqueeze(1) * vectors).T,
        W_in=vectors.T,
        W_out=directions.repeat_interleave(k, dim=0),
        constant=tensor.constant,
    )


@dataclass(frozen=True)
class TruncationCosts:
    """The loss of a text with one MLP truncated, in nats per token."""

    ranks: tuple[int, ...]
    losses: Float[Tensor, " n_ranks"]
    """With the layer truncated to each rank."""
    whole: float
    """With the model as it is."""
    without: float
    """With the layer's output put to zero."""


def truncation_costs(
    model: nn.Module,
    layer: int,
    ranks: Sequence[int],
    windows: Windows,
    truncate: Callable[[BilinearTensor, int], BilinearTensor] = truncate_eigenvectors,
) -> TruncationCosts:
    """The mean loss over windows of a text with an MLP truncated to each of `ranks`.

    `truncate(tensor, rank)` says how; by default to the top eigenvectors of each output singular direction.
    """
    if not ranks:
        raise InputError("no ranks to truncate to; expected one or more")
    require_windows(model, windows, least=2)
    tensor = mlp_tensor(model, layer)
    most = tensor.d_in if truncate is truncate_eigenvectors else None
    expected = "0 or more" if most is None else f"1 to d_in={most}"
    for rank in ranks:
        require_count(rank, f"truncation to rank {rank}", expected, least=0 if most is None else 1, most=most)
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def loss(replacement: BilinearTensor | Callable[[Tensor], Tensor]) -> float:
        with replaced_mlp(model, layer, replacement):
            return _mean_loss(model, windows)

    return TruncationCosts(
        ranks=tuple(ranks),
        losses=torch.tensor([loss(truncate(tensor, rank)) for rank in ranks]),
        whole=_mean_loss(model, windows),
        without=loss(torch.zeros_like),
    )


def _mean_loss(model: nn.Module, windows: Windows) -> float:
    """Nats per token, every token of every window counted once."""
    predicted = torch.tensor([len(window) - 1.0 for window in windows], dtype=torch.float64)
    return float((window_losses(model, windows) * predicted).sum() / predicted.sum())
