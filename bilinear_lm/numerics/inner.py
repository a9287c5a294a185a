"""Inner products, norms and cosines of bilinear tensors, by Gram matrices of their hidden units.

⟨B, C⟩ = Σ_ijk B_ijk C_ijk = ½ Σ_hg [(w_h·w'_g)(v_h·v'_g) + (w_h·v'_g)(v_h·w'_g)] (p_h·p'_g)

with w_h, v_h the columns of W_gate and W_in, p_h the rows of W_out. Products of six weights leave the range
of float32 early, so that tensors are balanced first (`bilinear_lm.numerics.rescaling`); half precision is
summed in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import in_precision

if TYPE_CHECKING:
    from bilinear_lm.tensor import BilinearTensor


def inner(tensor: BilinearTensor, other: BilinearTensor) -> Float[Tensor, "*batch"]:
    """⟨B, C⟩ of each layer. Raises InputError where the precision cannot hold it."""
    products = []
    for layer, twin in _pairs(tensor, other):
        (layer, power), (twin, other_power) = layer.balanced(), twin.balanced()
        products.append(
            in_precision(_inner(layer, twin), power + other_power, tensor.dtype, "inner products of tensors")
        )
    return _batched(products, tensor)


def norm(tensor: BilinearTensor) -> Float[Tensor, "*batch"]:
    """‖B‖ = sqrt ⟨B, B⟩ of each layer. Raises InputError where the precision cannot hold it."""
    norms = []
    for layer, _ in _pairs(tensor, tensor):
        layer, power = layer.balanced()
        norms.append(in_precision(_norm(layer), power, tensor.dtype, "norms of tensors"))
    return _batched(norms, tensor)


def cosine(tensor: BilinearTensor, other: BilinearTensor) -> Float[Tensor, "*batch"]:
    """⟨B, C⟩ / (‖B‖ ‖C‖) of each pair of layers; 0 where a layer is 0."""
    cosines = []
    for layer, twin in _pairs(tensor, other):
        layer, twin = layer.balanced()[0], twin.balanced()[0]
        size = _norm(layer) * _norm(twin)
        cosines.append(torch.where(size == 0, 0, _inner(layer, twin) / size).to(tensor.dtype))
    return _batched(cosines, tensor)


def _inner(tensor: BilinearTensor, other: BilinearTensor) -> Tensor:
    total = tensor.W_out.new_zeros(())
    chunk = tensor.at_once(other.d_mlp)
    for start in range(0, tensor.d_mlp, chunk):
        gate, up = (factor[:, start : start + chunk].T for factor in (tensor.W_gate, tensor.W_in))
        pairs = (gate @ other.W_gate) * (up @ other.W_in)
        pairs += (gate @ other.W_in) * (up @ other.W_gate)
        pairs *= tensor.W_out[start : start + chunk] @ other.W_out.T
        total = total + pairs.sum() / 2
    return total


def _norm(tensor: BilinearTensor) -> Tensor:
    return _inner(tensor, tensor).clamp(min=0).sqrt()


def _pairs(tensor: BilinearTensor, other: BilinearTensor) -> list[tuple[BilinearTensor, BilinearTensor]]:
    """The layers of two batches that belong together, in float32 at least."""
    ours = (tensor.batch_shape, tensor.d_out, tensor.d_in, tensor.constant)
    theirs = (other.batch_shape, other.d_out, other.d_in, other.constant)
    if ours != theirs:
        raise InputError(
            f"inner product of bilinear tensors: got (batch, d_out, d_in, constant) {ours} and {theirs}; "
            "expected the same"
        )
    if tensor.dtype != other.dtype:
        raise InputError(
            f"inner product of bilinear tensors in {tensor.dtype} and {other.dtype}; expected one precision, "
            "convert with .to"
        )
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return list(zip(tensor.to(dtype).layers(), other.to(dtype).layers(), strict=True))


def _batched(results: list[Tensor], tensor: BilinearTensor) -> Tensor:
    return torch.stack(results).reshape(tensor.batch_shape)
