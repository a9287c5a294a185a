"""The parts of a tensor by degree: quadratic, and what its constant coordinate adds, linear and constant."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.tensor import BilinearTensor


def quadratic_part(tensor: BilinearTensor) -> BilinearTensor:
    """One layer's tensor without its linear and constant parts, and without the constant coordinate."""
    if not tensor.constant:
        return tensor
    return BilinearTensor(tensor.W_gate[:-1], tensor.W_in[:-1], tensor.W_out)


def affine_part(
    tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"]
) -> tuple[Float[Tensor, "*axes d_x"], Float[Tensor, "*axes"]]:
    """The linear part [..., d_x] and the constant part [...] of u · B(x, x); zeros without the coordinate.

    d_x leaves the constant coordinate out.
    """
    d_x = tensor.d_in - tensor.constant
    if not tensor.constant:
        return u.new_zeros(*u.shape[:-1], d_x), u.new_zeros(u.shape[:-1])
    one = torch.nn.functional.pad(u.new_ones(1), (d_x, 0))  # the constant coordinate
    column = tensor.matvec(u, one)
    return 2 * column[..., :-1], column[..., -1]
