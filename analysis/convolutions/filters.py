"""Eigenfilters of bilinear convolutions: the filters whose squares a direction of channels adds up.

A bilinear convolution is one tensor that is applied at every place. Along a direction u of its channels

    u · y(place) = Σ_i λ_i (f_i ∗ x)²(place) + (l ∗ x)(place) + c

with λ_i and f_i the eigenvalues and orthonormal eigenvectors of the interaction matrix of u, which is as wide
as a patch, c_in · k · k; an eigenvector has the shape of a filter. Biases and a residual path give the linear
part l and the constant c. For one channel of conv_gate(x) ∘ conv_in(x) the matrix is the symmetric part of
vec W_gate vec W_inᵀ, of rank 2. The image is never unrolled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.eigen import eigendecompose
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_finite_numbers, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock, BilinearConv2d, Placing
from bilinear_lm.numerics.parts import affine_part, quadratic_part
from bilinear_lm.shown import first_numbers, shown

ConvolutionalLayer = BilinearConv2d | BilinearBlock
"""A bilinear convolution, alone or in a residual block."""


@shown
@dataclass(frozen=True)
class Eigenfilters:
    """Eigenvalues and eigenfilters of directions of channels, sorted by |λ| descending.

    Filters have length 1 and are orthogonal; the sign of each makes its entry of largest magnitude positive.
    Called on images it gives the layer's output along the directions: exactly, where all filters are there
    whose eigenvalue is not 0.
    """

    values: Float[Tensor, "*axes k"]
    filters: Float[Tensor, "*axes k c_in kh kw"]
    linear: Float[Tensor, "*axes c_in kh kw"]
    """l: the filter of the linear part, zeros without biases and residual path."""
    constant: Float[Tensor, "*axes"]
    """c: the constant part."""
    placing: Placing
    """How the layer lays its filters over an image."""

    def _first(self) -> dict[str, Any]:
        return {"values": first_numbers(self.values)} if self.values.ndim == 1 else {}

    def __call__(self, x: Float[Tensor, "*batch c_in h w"]) -> Float[Tensor, "*batch_axes h_out w_out"]:
        """u · y [*batch, *axes, h_out, w_out]: the sum of all activation maps, and of `affine_maps`."""
        return activation_maps(self, x).sum(-3) + self.affine_maps(x)

    def affine_maps(self, x: Float[Tensor, "*batch c_in h w"]) -> Float[Tensor, "*batch_axes h_out w_out"]:
        """The linear and constant parts, l ∗ x + c."""
        laid = self.placing.lay(x, self.linear.reshape(-1, *self.linear.shape[-3:]), self.constant.flatten())
        return laid.reshape(*x.shape[:-3], *self.constant.shape, *laid.shape[-2:])


@checked
def eigenfilters(
    conv: ConvolutionalLayer, u: Float[Tensor, "*axes c_out"] | int, k: int | None = None
) -> Eigenfilters:
    """Eigenvalues [..., k] and eigenfilters [..., k, c_in, kh, kw] of directions u of channels, or of one.

    Q_u = Σ_o u_o sym(vec W_gate,o vec W_in,oᵀ) = Σ_i λ_i f_i f_iᵀ. A whole number u is that output channel.
    k=None gives all whose eigenvalue is not 0 for the shape of the weights: two a hidden channel that u has a
    part along, at most as many as a patch has numbers; else the k largest by magnitude. A block's gain is in
    the eigenvalues, its residual path in the linear part. Computed in float64, given in the precision of the
    layer.

    >>> conv = BilinearConv2d(3, 8, 3, padding=1)
    >>> eigen, x = eigenfilters(conv, 5), torch.rand(4, 3, 10, 10)
    >>> eigen.filters.shape
    torch.Size([2, 3, 3, 3])
    >>> torch.allclose(eigen(x), conv(x)[:, 5], atol=1e-5)
    True

    InputError for a channel that does not exist, a direction of another width, and weights that are not
    finite.
    """
    inner = conv.conv if isinstance(conv, BilinearBlock) else conv
    u = _direction(inner, u)
    tensor, d_patch = conv.tensor().to(torch.float64), inner.d_patch
    rank = _rank(inner, u)
    if k is not None:
        require_count(k, f"k={k} eigenfilters", f"1 to {d_patch}, numbers of a patch", most=d_patch)
    eigen = eigendecompose(quadratic_part(tensor), u.double(), rank if k is None else k, method="dense")
    linear, constant = affine_part(tensor, u.double())
    shape = inner.c_in, *inner.placing.kernel_size
    return Eigenfilters(
        eigen.values.to(u.dtype),
        eigen.vectors.to(u.dtype).unflatten(-1, shape),
        linear.to(u.dtype).unflatten(-1, shape),
        constant.to(u.dtype),
        inner.placing,
    )


@checked
def activation_maps(
    eigen: Eigenfilters, x: Float[Tensor, "*batch c_in h w"]
) -> Float[Tensor, "*batch_axes h_out w_out"]:
    """λ_i (f_i ∗ x)² at every place of images x, [*batch, *axes, k, h_out, w_out].

    Summed over the filters, and with `eigen.affine_maps(x)`, they are the layer's output along u.

    >>> conv, x = BilinearConv2d(3, 8, 3), torch.rand(4, 3, 10, 10)
    >>> maps = activation_maps(eigenfilters(conv, torch.randn(8)), x)
    >>> maps.shape
    torch.Size([4, 16, 8, 8])
    """
    laid = eigen.placing.lay(x, eigen.filters.reshape(-1, *eigen.filters.shape[-3:]))
    laid = laid.reshape(*x.shape[:-3], *eigen.values.shape, *laid.shape[-2:])
    return eigen.values[..., None, None] * laid.square()


def _direction(conv: BilinearConv2d, u: Tensor | int) -> Float[Tensor, "*axes c_out"]:
    """The direction, or the unit vector of a channel, checked."""
    weights = conv.W_gate
    if not isinstance(u, Tensor) or not u.is_floating_point():
        require_index(u, conv.c_out, "channel")
        return torch.eye(conv.c_out, dtype=weights.dtype, device=weights.device)[int(u)]
    require_finite_numbers(u, "the direction of channels")
    if not u.ndim or u.shape[-1] != conv.c_out:
        raise InputError(f"a direction of channels {list(u.shape)}; expected [..., {conv.c_out}]")
    if u.dtype != weights.dtype:
        raise InputError(f"the direction of channels is in {u.dtype}, the layer in {weights.dtype}; use .to")
    return u.detach()


def _rank(conv: BilinearConv2d, u: Tensor) -> int:
    """The most eigenvalues that are not 0: two a hidden channel that a direction has a part along."""
    parts = u if conv.W_out is None else u @ conv.W_out.detach().T
    most = int(parts.ne(0).sum(-1).max()) if parts.numel() else 0
    return max(1, min(2 * most, conv.d_patch))
