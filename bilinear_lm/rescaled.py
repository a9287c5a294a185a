"""Contractions of a bilinear tensor with numbers of any size, for when the plain ones leave the range.

Each does what the plain contraction does, on the balanced tensor and on vectors with largest numbers of ½ to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.errors import require_finite_numbers
from bilinear_lm.rescaling import exponent, exponents, in_precision, spread, times_two_to

if TYPE_CHECKING:
    from bilinear_lm.tensor import BilinearTensor


def interaction_matrix(
    tensor: BilinearTensor, contract: Callable[..., Tensor], u: Float[Tensor, "*axes d_out"]
) -> tuple[Float[Tensor, "*axes d_in d_in"], Int[Tensor, "*axes"]]:
    """Q_u / 2^e with a largest entry of ½ to 1, or 0, and e."""
    require_finite_numbers(u, "the output direction")
    tensor, power = tensor.to(_wide(tensor.dtype)).balanced()
    u_power = exponents(u, -1)
    matrices = contract(tensor, times_two_to(u, -u_power.unsqueeze(-1)).to(tensor.dtype))
    rest = exponents(matrices, (-2, -1))
    return times_two_to(matrices, -rest[..., None, None]), u_power + power + rest


def pairwise(
    tensor: BilinearTensor,
    contract: Callable[..., None],
    u: Float[Tensor, "k d_out"],
    left: Float[Tensor, "n d_in"],
    right: Float[Tensor, "m d_in"],
) -> Float[Tensor, "k n m"]:
    """u · B(l_i, r_j). Raises InputError where the precision cannot hold it."""
    vectors = {"the output direction": u, "left": left, "right": right}
    for name, vector in vectors.items():
        require_finite_numbers(vector, name)
    powers = [exponents(vector, -1) for vector in vectors.values()]
    balanced, power = tensor.to(_wide(tensor.dtype)).balanced()
    scaled = [
        times_two_to(vector, -each.unsqueeze(-1)).to(balanced.dtype)
        for vector, each in zip(vectors.values(), powers, strict=True)
    ]
    result = u.new_empty(len(u), len(left), len(right), dtype=balanced.dtype)
    contract(balanced, *scaled, result)
    of_all = power + powers[0][:, None, None] + powers[1][:, None] + powers[2]
    return in_precision(result, of_all, tensor.dtype, "interactions", "vectors", (-2, -1))


def change_basis(
    tensor: BilinearTensor,
    contract: Callable[..., BilinearTensor],
    inputs: Float[Tensor, "*in_batch n_in in_width"] | None,
    outputs: Float[Tensor, "*out_batch n_out d_out"] | None,
) -> BilinearTensor:
    """The tensor in the coordinates of features. Raises InputError where the precision cannot hold it."""
    for name, features in (("inputs", inputs), ("outputs", outputs)):
        if features is not None:
            require_finite_numbers(features, name)
    if tensor.batch_shape:
        result = contract(tensor, inputs, outputs)
        factors = {"W_gate": result.W_gate, "W_in": result.W_in, "W_out": result.W_out}
        for name, factor in factors.items():
            require_finite_numbers(factor, f"{name} in another basis")
        return result
    balanced, power = tensor.to(_wide(tensor.dtype)).balanced()
    (in_power, scaled_in), (out_power, scaled_out) = (
        _scaled(features, balanced.dtype) for features in (inputs, outputs)
    )
    result = contract(balanced, scaled_in, scaled_out, -in_power)
    factors = [result.W_gate, result.W_in, result.W_out]
    gate, into, out = spread(factors, [in_power, in_power, out_power + power], tensor.dtype)
    return type(tensor)(gate, into, out, constant=tensor.constant)


def _scaled(features: Tensor | None, dtype: torch.dtype) -> tuple[int, Tensor | None]:
    if features is None:
        return 0, None
    power = exponent(features)
    return power, times_two_to(features, -power).to(dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Half precision has no room for sums of thousands of numbers, even of size 1."""
    return torch.promote_types(dtype, torch.float32)
