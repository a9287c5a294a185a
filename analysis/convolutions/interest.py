"""Vectors of interest, [c, h, w]: which of them an output reads, and their channel and spatial parts.

An output of a bilinear hidden layer behind a feature map is a quadratic form of it, so its eigenvectors are
vectors of interest; the weights of a probe are another. As a matrix of channels by places each has a singular
value decomposition, V = Σ_j S_j u_j s_jᵀ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.eigen import eigendecompose, shares_of_squares
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.shown import first_numbers, shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class SplitDirection:
    """V = Σ_j S_j u_j s_jᵀ: a vector of interest in channel and spatial parts, sorted by S_j descending.

    Parts have length 1, are orthogonal among channels and among places, and their sign makes the channel
    part's entry of largest magnitude positive.
    """

    sizes: Float[Tensor, " parts"]
    """S_j."""
    channels: Float[Tensor, "parts c"]
    """u_j."""
    spatial: Float[Tensor, "parts h w"]
    """s_j."""

    def _first(self) -> dict[str, Any]:
        return {"sizes": first_numbers(self.sizes)}

    @property
    def shares(self) -> Float[Tensor, " parts"]:
        """The share of the first 1, 2, … parts in ‖V‖²."""
        return shares_of_squares(self.sizes)


@checked
def split_direction(vector: Float[Tensor, "c h w"]) -> SplitDirection:
    """The channel and spatial parts of a vector of interest, by SVD: min(c, h · w) of them.

    >>> parts = split_direction(torch.randn(8, 5, 5))
    >>> parts.channels.shape, parts.spatial.shape
    (torch.Size([8, 8]), torch.Size([8, 5, 5]))
    """
    _require_vector(vector)
    left, sizes, right = torch.linalg.svd(vector.detach().double().flatten(1), full_matrices=False)
    channels = left.mT
    largest = channels.gather(-1, channels.abs().argmax(-1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    spatial = (signs * right).unflatten(-1, tuple(vector.shape[1:]))
    return SplitDirection(*(part.to(vector.dtype) for part in (sizes, signs * channels, spatial)))


@shown
@dataclass(frozen=True)
class InterestVectors:
    """Eigenvectors of outputs that read a whole feature map, sorted by |λ| descending."""

    values: Float[Tensor, "*axes k"]
    vectors: Float[Tensor, "*axes k c h w"]


@checked
def interest_vectors(
    tensor: BilinearTensor,
    u: Float[Tensor, "*axes d_out"],
    feature_shape: Sequence[int],
    k: int | None = None,
) -> InterestVectors:
    """The k first eigenvectors [..., k, c, h, w] of outputs u of a bilinear layer [c · h · w] to [d_out].

    The quadratic part of a logit is Σ λ_i ⟨V_i, features⟩². With biases linear and constant parts come beside
    it, which these leave out. k=None gives all.

    >>> tensor = BilinearTensor(torch.randn(48, 20), torch.randn(48, 20), torch.randn(20, 5))
    >>> interest_vectors(tensor, torch.eye(5)[2], (3, 4, 4), k=6).vectors.shape
    torch.Size([6, 3, 4, 4])
    """
    shape, width = tuple(feature_shape), tensor.d_in - tensor.constant
    if len(shape) != 3 or torch.Size(shape).numel() != width:
        raise InputError(f"features {shape} for a tensor of {width} inputs; expected (c, h, w) of as many")
    quadratic = BilinearTensor(tensor.W_gate[:width], tensor.W_in[:width], tensor.W_out)
    eigen = eigendecompose(quadratic, u, k)
    return InterestVectors(eigen.values, eigen.vectors.unflatten(-1, shape))


def _require_vector(vector: Tensor) -> None:
    require_finite_numbers(vector, "the vector of interest")
    if vector.ndim != 3:
        raise InputError(f"a vector of interest {list(vector.shape)}; expected [c, h, w]")
    require_count(vector.numel(), f"a vector of interest {list(vector.shape)}", "at least one number")
