"""Inner products of the slices of bilinear tensors: how much two outputs, or two inputs, have in common.

Along its outputs a tensor is cut into the interaction matrices Q_a, along an input into matrices B_·i·. The
inner products of all slices of one or two tensors are Gram matrices of unfoldings; they follow from the
products of hidden units, in O(d_mlp² d) time and without the tensors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import exponents, in_precision, times_two_to
from bilinear_lm.tensor import BilinearTensor

Leg = Literal["output", "input"]

PART = 512
"""Hidden units that `unfolding_gram` takes at once: few, so that its memory is small beside the factors."""


@checked
def cross_gram(
    tensor: BilinearTensor, other: BilinearTensor, leg: Leg = "output"
) -> Float[Tensor, "d other_d"]:
    """Inner products of the slices of two layers along a leg; along its other legs the two must agree.

    With W, V, P = W_gate, W_in, W_out of the first, primed of the other, and S = P P'ᵀ:

    outputs  G_ab = Σ_ij B_aij C_bij = ½ Pᵀ [(WᵀW' ∘ VᵀV') + (WᵀV' ∘ VᵀW')] P'
    inputs   G_ik = Σ_aj B_aij C_akj
                  = ¼ [W (S ∘ VᵀV') W'ᵀ + V (S ∘ WᵀW') V'ᵀ + W (S ∘ VᵀW') V'ᵀ + V (S ∘ WᵀV') W'ᵀ]

    Raises InputError where the precision cannot hold it.
    """
    gram, power = scaled_gram(tensor, other, leg)
    return _put_back(gram, power, tensor.dtype)


def scaled_gram(
    tensor: BilinearTensor, other: BilinearTensor, leg: Leg = "output"
) -> tuple[Float[Tensor, "d other_d"], int]:
    """`cross_gram` / 2^e, and e, for weights of any size, in float32 at least; e is 0 for ordinary sizes."""
    require_leg(leg)
    _require_agreement(tensor, other, leg)
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    (tensor, power), (other, other_power) = tensor.to(dtype).balanced(), other.to(dtype).balanced()
    return _gram(tensor, other, leg), power + other_power


def _gram(tensor: BilinearTensor, other: BilinearTensor, leg: Leg) -> Tensor:
    width, other_width = ((t.d_out if leg == "output" else t.d_in) for t in (tensor, other))
    gram = tensor.W_out.new_zeros(width, other_width)
    chunk = rows_at_once(other.d_mlp * tensor.dtype.itemsize)
    products = _output_products if leg == "output" else _input_products
    for start in range(0, tensor.d_mlp, chunk):
        gram += products(_units(tensor, start, chunk), other)
    return gram


@checked
def strength(tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"]) -> Float[Tensor, "*axes"]:
    """Frobenius norm of Q_u for output directions u, all from one Gram matrix: sqrt(u G uᵀ).

    Raises InputError where the precision cannot hold it.
    """
    scaled, power = scaled_strength(tensor, u)
    each = scaled.unsqueeze(-1), power.unsqueeze(-1)
    return in_precision(*each, tensor.dtype, "strengths of output directions", "directions", -1).squeeze(-1)


def scaled_strength(
    tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"]
) -> tuple[Float[Tensor, "*axes"], Int[Tensor, "*axes"]]:
    """`strength` / 2^e, and e for each direction; weights and directions of any size, in float32 at least."""
    tensor.require_alike(u, "output directions")
    if u.ndim == 0 or u.shape[-1] != tensor.d_out:
        raise InputError(
            f"output directions of shape {list(u.shape)}; expected a last axis of {tensor.d_out}"
        )
    require_finite_numbers(u, "output directions")
    gram, power = scaled_gram(tensor, tensor)
    powers = exponents(u, -1)
    u = times_two_to(u, -powers.unsqueeze(-1)).to(gram.dtype)
    # The Gram matrix is in units of 2^power, the square of 2^(power / 2): it has two equal factors.
    return ((u @ gram) * u).sum(-1).clamp(min=0).sqrt(), powers + power // 2


@checked
def unfolding_gram(tensor: BilinearTensor, leg: Leg = "output") -> Float[Tensor, "d d"]:
    """`cross_gram` of a layer with itself, in float64 whatever the precision of the layer.

    The layer is the sum of its parts of `PART` hidden units; each pair of parts is multiplied once. Raises
    InputError where float64 cannot hold it.
    """
    gram, power = scaled_unfolding_gram(tensor, leg)
    return _put_back(gram, power, torch.float64)


def scaled_unfolding_gram(tensor: BilinearTensor, leg: Leg = "output") -> tuple[Float[Tensor, "d d"], int]:
    """`unfolding_gram` / 2^e, and the even e, for weights of any size; e is 0 for those of ordinary size."""
    require_leg(leg)
    _require_agreement(tensor, tensor, leg)
    # Products of six float32 numbers, even of the largest, are within the range of float64.
    tensor, power = tensor.balanced() if tensor.dtype == torch.float64 else (tensor, 0)
    gram = _unfolding_gram(tensor, leg)
    if not torch.isfinite(gram).all():
        raise InputError("the tensor holds NaN or infinity; expected finite weights")
    return gram, 2 * power


def _unfolding_gram(tensor: BilinearTensor, leg: Leg) -> Tensor:
    width = tensor.d_out if leg == "output" else tensor.d_in
    gram = tensor.W_out.new_zeros(width, width, dtype=torch.float64)
    for start in range(0, tensor.d_mlp, PART):
        part = _units(tensor, start, PART).to(torch.float64)
        gram += _gram(part, part, leg)
        for later in range(start + PART, tensor.d_mlp, PART):
            block = _gram(part, _units(tensor, later, PART).to(torch.float64), leg)
            gram += block + block.T
    return gram


def _put_back(gram: Tensor, power: int, dtype: torch.dtype) -> Tensor:
    if not power and gram.dtype == dtype:
        return gram
    return in_precision(gram, power, dtype, "products of the slices of layers")


def _output_products(tensor: BilinearTensor, other: BilinearTensor) -> Tensor:
    gate, up = tensor.W_gate.T, tensor.W_in.T
    pairs = (gate @ other.W_gate) * (up @ other.W_in)
    pairs += (gate @ other.W_in) * (up @ other.W_gate)
    return tensor.W_out.T @ (pairs @ other.W_out) / 2


def _input_products(tensor: BilinearTensor, other: BilinearTensor) -> Tensor:
    outputs = tensor.W_out @ other.W_out.T
    gram = tensor.W_gate.new_zeros(tensor.d_in, other.d_in)
    # One factor of a hidden unit reads the input that is kept, the other the one that is summed over.
    for kept, summed in ((tensor.W_gate, tensor.W_in), (tensor.W_in, tensor.W_gate)):
        half = (outputs * (summed.T @ other.W_in)) @ other.W_gate.T
        half += (outputs * (summed.T @ other.W_gate)) @ other.W_in.T
        gram += kept @ half / 4
    return gram


def _units(tensor: BilinearTensor, start: int, count: int) -> BilinearTensor:
    """The part of a layer that some of its hidden units compute."""
    piece = slice(start, start + count)
    return replace(
        tensor, W_gate=tensor.W_gate[:, piece], W_in=tensor.W_in[:, piece], W_out=tensor.W_out[piece]
    )


def require_leg(leg: str) -> None:
    """Raises InputError for another leg than there is."""
    if leg not in get_args(Leg):
        raise InputError(f"leg {leg!r} of a bilinear tensor; expected 'output' or 'input'")


def _require_agreement(tensor: BilinearTensor, other: BilinearTensor, leg: Leg) -> None:
    ours, theirs = (
        (layer.batch_shape, layer.d_in, layer.constant, layer.d_out if leg == "input" else None)
        for layer in (tensor, other)
    )
    if ours != theirs or tensor.batch_shape:
        raise InputError(
            f"products of the slices of two layers along their {leg}s: got (batch, d_in, constant, d_out) "
            f"{_shape(tensor)} and {_shape(other)}; expected single layers that agree but for the {leg}s"
        )
    if tensor.dtype != other.dtype:
        raise InputError(
            f"products of the slices of two layers in {tensor.dtype} and {other.dtype}; expected one "
            "precision, convert with .to"
        )


def _shape(layer: BilinearTensor) -> tuple[list[int], int, bool, int]:
    return list(layer.batch_shape), layer.d_in, layer.constant, layer.d_out
