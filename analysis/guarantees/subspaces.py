"""Affine subspaces of a layer's inputs: some readings at given values, some directions left out.

A bilinear layer on the inputs z₀ + aP is a bilinear layer of a, whose constant coordinate carries z₀.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor

Subspace = tuple[Float[Tensor, " d"], Float[Tensor, "m d"]]
"""z₀ and P with orthonormal rows: the inputs z₀ + aP."""


@checked
def inputs_where(
    directions: Float[Tensor, "k d"], values: Float[Tensor, " k"] | None = None
) -> tuple[Float[Tensor, " d"], Float[Tensor, "m d"]]:
    """The subspace (z₀, P) of the inputs z with directions_i · z = values_i; zeros by default.

    Directions are linearly independent, k < d. z₀ is the shortest of these inputs and the rows of P, an
    orthonormal basis of what the directions do not see, are at a right angle to it. Features at given values
    are columns of a dictionary's encoder with values; a direction left out is one with the value 0.

    >>> z0, P = inputs_where(torch.eye(4)[:1], torch.tensor([2.0]))
    >>> z0, P.shape
    (tensor([2., 0., 0., 0.]), torch.Size([3, 4]))
    """
    require_finite_numbers(directions, "the directions of a subspace")
    if directions.ndim != 2 or not 0 < len(directions) < directions.shape[1]:
        raise InputError(
            f"directions of a subspace: got {list(directions.shape)}; expected [k, d] with k from 1 to d − 1"
        )
    values = directions.new_zeros(len(directions)) if values is None else values
    require_finite_numbers(values, "the values along directions")
    if values.shape != directions.shape[:1]:
        raise InputError(f"values {list(values.shape)} along {len(directions)} directions; expected as many")
    left, singular, right = torch.linalg.svd(directions.double())
    rank = int((singular > singular[0] * 1e-10).sum())
    if rank < len(directions):
        raise InputError(
            f"{len(directions)} directions of a subspace span {rank} dimensions; expected independent ones"
        )
    z0 = (values.to(left) @ left / singular) @ right[: len(directions)]
    return z0.to(directions.dtype), right[len(directions) :].to(directions.dtype)


def restricted(
    tensor: BilinearTensor, subspace: Subspace | None, radius: float
) -> tuple[BilinearTensor, Float[Tensor, " d"], Float[Tensor, "m d"] | None, float]:
    """The layer as a function of a, the z₀ and P (None: all inputs) with z = z₀ + aP, and the largest ‖a‖.

    z₀ comes at a right angle to P. Raises InputError unless the sphere ‖z‖ = radius meets the subspace.
    """
    width = tensor.d_in - tensor.constant
    if subspace is None:
        return tensor, tensor.W_gate.new_zeros(width), None, radius
    z0, P = _checked(tensor, subspace, width)
    z0 = z0 - (z0 @ P.T) @ P
    left = radius**2 - float(z0.double().square().sum())
    if left <= 1e-12 * radius**2:
        raise InputError(
            f"a subspace whose nearest point has norm {float(z0.norm()):.6g}; expected one below the radius "
            f"{radius:.6g}: no input, or a single one, of that norm lies in it"
        )
    if not tensor.constant and not z0.any():
        return tensor.change_basis(inputs=P), z0, P, left**0.5
    at = [z0 @ factor[:width] + factor[width:].sum(0) for factor in (tensor.W_gate, tensor.W_in)]
    gate, up = (
        torch.cat([P @ factor[:width], row.unsqueeze(0)])
        for factor, row in zip((tensor.W_gate, tensor.W_in), at, strict=True)
    )
    return BilinearTensor(gate, up, tensor.W_out, constant=True), z0, P, left**0.5


def _checked(tensor: BilinearTensor, subspace: Subspace, width: int) -> tuple[Tensor, Tensor]:
    if len(subspace) != 2:
        raise InputError(f"a subspace of {len(subspace)} parts; expected (z0, P): the inputs z0 + a P")
    z0, P = subspace
    for vectors, name, shape in ((z0, "z0 of a subspace", [width]), (P, "P of a subspace", ["m", width])):
        tensor.require_alike(vectors, name)
        require_finite_numbers(vectors, name)
        if vectors.ndim != len(shape) or vectors.shape[-1] != width or not vectors.numel():
            raise InputError(
                f"{name}: got {list(vectors.shape)}; expected [{', '.join(map(str, shape))}], "
                "without the constant coordinate"
            )
    off = float((P @ P.T - torch.eye(len(P)).to(P)).abs().max())
    if off > 100 * torch.finfo(P.dtype).eps * width:
        raise InputError(
            f"the rows of P of a subspace are not orthonormal: P Pᵀ is {off:.2g} off; take an orthonormal "
            "basis, torch.linalg.qr(rows.T).Q.T"
        )
    return z0, P
