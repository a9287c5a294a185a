"""Contractions of one bilinear tensor with vectors of any size.

Each is computed plainly first. Where the result, a weight or a vector is not of ordinary size, numbers on the
way may have left the range of the precision or lost digits near its end: it is computed again from the
balanced tensor (`bilinear_lm.numerics.rescaling`) and from vectors whose largest numbers are ½ to 1, and
put back.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.numerics.rescaling import (
    are_ordinary,
    exponent,
    exponents,
    in_precision,
    sizes,
    spread,
    times_two_to,
    unordinary_exponent,
)

if TYPE_CHECKING:
    from bilinear_lm.tensor import BilinearTensor

SHARED = 32
"""From so many interaction matrices on, a CPU makes them of products that they share; fewer one by one."""

SHARED_NUMBERS = 2**18
"""How many of these products are made at once: 1 MiB in float32, which a core's cache holds."""


def interaction_matrices(
    tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"]
) -> tuple[Float[Tensor, "*axes d_in d_in"], Int[Tensor, "*axes"] | None]:
    """Q_u / 2^e and e, or None where all is of ordinary size and e is 0; else the largest entry is ½ to 1."""
    matrices = _interaction_matrices(tensor, u)
    if not matrices.numel() or (_stays_in_range(tensor, u) and are_ordinary(sizes(matrices, (-2, -1)))):
        return matrices, None
    require_finite_numbers(u, "the output direction")
    tensor, power = tensor.to(_wide(tensor.dtype)).balanced()
    u_power = exponents(u, -1)
    matrices = _interaction_matrices(tensor, times_two_to(u, -u_power.unsqueeze(-1)).to(tensor.dtype))
    rest = exponents(matrices, (-2, -1))
    return times_two_to(matrices, -rest[..., None, None]), u_power + power + rest


def pairwise(
    tensor: BilinearTensor,
    u: Float[Tensor, "k d_out"],
    left: Float[Tensor, "n d_in"],
    right: Float[Tensor, "m d_in"],
) -> Float[Tensor, "k n m"]:
    """u · B(l_i, r_j), in the order with the fewest multiplications.

    Raises InputError where the precision cannot hold it.
    """
    n, m, d, h = len(left), len(right), tensor.d_in, tensor.d_mlp
    multiplications = {
        pairwise_by_hidden: 2 * (n + m) * d * h + len(u) * 2 * n * m * h,
        pairwise_by_matrix: len(u) * (d * d * h + min(n, m) * d * d + n * m * d),
        pairwise_by_matvec: len(u) * (4 * min(n, m) * d * h + n * m * d),
    }
    cheapest = min(multiplications, key=multiplications.__getitem__)
    result = u.new_empty(len(u), n, m)
    cheapest(tensor, u, left, right, result)
    stays = _stays_in_range(tensor, u, left, right)
    if not result.numel() or (stays and are_ordinary(sizes(result, (-2, -1)))):
        return result
    vectors = {"the output direction": u, "left": left, "right": right}
    for name, vector in vectors.items():
        require_finite_numbers(vector, name)
    powers = [exponents(vector, -1) for vector in vectors.values()]
    balanced, power = tensor.to(_wide(tensor.dtype)).balanced()
    u, left, right = (
        times_two_to(vector, -each.unsqueeze(-1)).to(balanced.dtype)
        for vector, each in zip(vectors.values(), powers, strict=True)
    )
    result = result.new_empty(result.shape, dtype=balanced.dtype)
    cheapest(balanced, u, left, right, result)
    of_all = power + powers[0][:, None, None] + powers[1][:, None] + powers[2]
    return in_precision(result, of_all, tensor.dtype, "interactions", "vectors", (-2, -1))


def change_basis(
    tensor: BilinearTensor,
    inputs: Float[Tensor, "*in_batch n_in in_width"] | None,
    outputs: Float[Tensor, "*out_batch n_out d_out"] | None,
) -> BilinearTensor:
    """The tensor in the coordinates of features. Raises InputError where the precision cannot hold it."""
    result = _in_basis(tensor, inputs, outputs)
    factors = {"W_gate": result.W_gate, "W_in": result.W_in, "W_out": result.W_out}
    if all(not factor.numel() or are_ordinary(sizes(factor.flatten(), 0)) for factor in factors.values()):
        return result
    for name, features in (("inputs", inputs), ("outputs", outputs)):
        if features is not None:
            require_finite_numbers(features, name)
    if tensor.batch_shape:
        for name, factor in factors.items():
            require_finite_numbers(factor, f"{name} in another basis")
        return result
    balanced, power = tensor.to(_wide(tensor.dtype)).balanced()
    (in_power, scaled_in), (out_power, scaled_out) = (
        _scaled(features, balanced.dtype) for features in (inputs, outputs)
    )
    result = _in_basis(balanced, scaled_in, scaled_out, -in_power)
    W_gate, W_in, W_out = spread(
        [result.W_gate, result.W_in, result.W_out], [in_power, in_power, out_power + power], tensor.dtype
    )
    return type(tensor)(W_gate, W_in, W_out, constant=tensor.constant)


def _interaction_matrices(tensor: BilinearTensor, u: Tensor) -> Tensor:
    rows = u.reshape(-1, tensor.d_out)
    scale = rows @ tensor.W_out.T  # [n, d_mlp]
    plain = tensor.dtype in (torch.float32, torch.float64) and not (
        torch.is_grad_enabled() and (scale.requires_grad or tensor.W_gate.requires_grad)
    )
    if tensor.W_gate.device.type != "cpu" or not plain:
        result = _in_chunks(tensor, scale)
    elif len(rows) < SHARED:
        result = _one_by_one(tensor, scale)
    else:
        result = _of_shared_products(tensor, scale)
    return result.reshape(*u.shape[:-1], tensor.d_in, tensor.d_in)


def _in_chunks(tensor: BilinearTensor, scale: Tensor) -> Tensor:
    result = scale.new_empty(len(scale), tensor.d_in, tensor.d_in)
    chunk = tensor.at_once(tensor.d_in * max(tensor.d_in, tensor.d_mlp))
    for start in range(0, len(scale), chunk):
        half = (tensor.W_gate * scale[start : start + chunk].unsqueeze(1)) @ tensor.W_in.T
        result[start : start + chunk] = (half + half.mT) / 2
    return result


def _one_by_one(tensor: BilinearTensor, scale: Tensor) -> Tensor:
    """Each by one product, in memory that stays in the cache from one to the next."""
    d = tensor.d_in
    result, half = scale.new_empty(len(scale), d, d), scale.new_empty(d, d)
    scaled = torch.empty_like(tensor.W_gate)
    for matrix, hidden in zip(result, scale / 2, strict=True):
        torch.mul(tensor.W_gate, hidden, out=scaled)
        torch.mm(scaled, tensor.W_in.T, out=half)
        torch.add(half, half.T, out=matrix)
    return result


def _of_shared_products(tensor: BilinearTensor, scale: Tensor) -> Tensor:
    """All at once: entry i, j ≤ i of every matrix is a combination of the same d_mlp numbers.

    They are w_i v_j + v_i w_j, made once for all directions. A product of each matrix alone would compute
    both halves of it, which takes twice the multiplications.
    """
    d = tensor.d_in
    result = scale.new_zeros(len(scale), d, d)
    chunk = max(64, SHARED_NUMBERS // d)
    parts = (factor.split(chunk, dim=1) for factor in (tensor.W_gate, tensor.W_in, scale / 2))
    for gate, up, hidden in zip(*parts, strict=True):
        gate, up, hidden = gate.contiguous(), up.contiguous(), hidden.contiguous()
        products = torch.empty_like(gate)
        for i in range(d):
            shared = torch.mul(gate[: i + 1], up[i], out=products[: i + 1])  # [i + 1, chunk]
            shared.addcmul_(up[: i + 1], gate[i])
            result[:, i, : i + 1].addmm_(hidden, shared.T)
    for matrix in result:
        matrix += matrix.tril(-1).T
    return result


def pairwise_by_hidden(
    tensor: BilinearTensor, rows: Tensor, left: Tensor, right: Tensor, result: Tensor
) -> None:
    """Contracts the parts that the vectors add to the hidden units."""
    chunk = tensor.at_once(2 * tensor.d_mlp)
    gate_in = torch.cat([tensor.W_gate, tensor.W_in], dim=1)
    in_gate = torch.cat([tensor.W_in, tensor.W_gate], dim=1)
    for i, j in product(range(0, len(left), chunk), range(0, len(right), chunk)):
        hidden_left = left[i : i + chunk] @ gate_in
        hidden_right = right[j : j + chunk] @ in_gate
        for k, u in enumerate(rows):
            scale = (u @ tensor.W_out.T).repeat(2) / 2
            result[k, i : i + chunk, j : j + chunk] = (hidden_left * scale) @ hidden_right.T


def pairwise_by_matrix(
    tensor: BilinearTensor, rows: Tensor, left: Tensor, right: Tensor, result: Tensor
) -> None:
    """Contracts the vectors with Q_u."""
    for k, u in enumerate(rows):
        result[k] = torch.linalg.multi_dot([left, _interaction_matrices(tensor, u), right.T])


def pairwise_by_matvec(
    tensor: BilinearTensor, rows: Tensor, left: Tensor, right: Tensor, result: Tensor
) -> None:
    """Contracts the fewer vectors with Q_u, and the result with the others."""
    for k, u in enumerate(rows):
        if len(left) < len(right):
            result[k] = tensor.matvec(u, left) @ right.T
        else:
            result[k] = left @ tensor.matvec(u, right).T


def _in_basis(
    tensor: BilinearTensor, inputs: Tensor | None, outputs: Tensor | None, shift: int = 0
) -> BilinearTensor:
    """The tensor in the basis, with the constant coordinate in units of 2^-shift."""
    W_gate, W_in, W_out = tensor.W_gate, tensor.W_in, tensor.W_out
    if inputs is not None:
        width = tensor.d_in - tensor.constant
        constant = [times_two_to(factor[..., width:, :], shift) for factor in (W_gate, W_in)]
        features = [inputs @ factor[..., :width, :] for factor in (W_gate, W_in)]
        W_gate, W_in = (torch.cat(pair, dim=-2) for pair in zip(features, constant, strict=True))
    if outputs is not None:
        W_out = W_out @ outputs.mT
    return type(tensor)(W_gate, W_in, W_out, constant=tensor.constant)


def _scaled(features: Tensor | None, dtype: torch.dtype) -> tuple[int, Tensor | None]:
    if features is None:
        return 0, None
    power = exponent(features)
    return power, times_two_to(features, -power).to(dtype)


def _stays_in_range(tensor: BilinearTensor, *vectors: Tensor) -> bool:
    """Whether products of weights and vectors keep their digits, in whatever order they are made."""
    return not any(map(unordinary_exponent, (tensor.W_gate, tensor.W_in, tensor.W_out, *vectors)))


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The precision, float32 at least: half has no room for sums of thousands of numbers, even of size 1."""
    return torch.promote_types(dtype, torch.float32)
