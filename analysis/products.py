"""Inner products of the slices of bilinear tensors: how much two outputs, or two inputs, have in common.

Along its outputs a tensor is cut into the interaction matrices Q_a, along an input into matrices B_·i·. The
inner products of all slices of one or two tensors are Gram matrices of unfoldings; they follow from the
products of hidden units, in O(d_mlp² d) time and without the tensors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.tensor import CHUNK_BYTES, BilinearTensor

Leg = Literal["output", "input"]

PART = 512
"""Hidden units that `unfolding_gram` takes at once: few, so that its memory is small beside the factors."""


def cross_gram(
    tensor: BilinearTensor, other: BilinearTensor, leg: Leg = "output"
) -> Float[Tensor, "d other_d"]:
    """Inner products of the slices of two layers along a leg; along its other legs the two must agree.

    With W, V, P = W_gate, W_in, W_out of the first, primed of the other, and S = P P'ᵀ:

    outputs  G_ab = Σ_ij B_aij C_bij = ½ Pᵀ [(WᵀW' ∘ VᵀV') + (WᵀV' ∘ VᵀW')] P'
    inputs   G_ik = Σ_aj B_aij C_akj
                  = ¼ [W (S ∘ VᵀV') W'ᵀ + V (S ∘ WᵀW') V'ᵀ + W (S ∘ VᵀW') V'ᵀ + V (S ∘ WᵀV') W'ᵀ]
    """
    _require_agreement(tensor, other, leg)
    width, other_width = ((t.d_out if leg == "output" else t.d_in) for t in (tensor, other))
    gram = tensor.W_out.new_zeros(width, other_width)
    at_once = max(1, CHUNK_BYTES // (other.d_mlp * tensor.dtype.itemsize))
    products = _output_products if leg == "output" else _input_products
    for start in range(0, tensor.d_mlp, at_once):
        gram += products(_units(tensor, start, at_once), other)
    return gram


def strength(tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"]) -> Float[Tensor, "*axes"]:
    """Frobenius norm of Q_u for output directions u, all from one Gram matrix: sqrt(u G uᵀ)."""
    return ((u @ cross_gram(tensor, tensor)) * u).sum(-1).clamp(min=0).sqrt()


def unfolding_gram(tensor: BilinearTensor, leg: Leg = "output") -> Float[Tensor, "d d"]:
    """`cross_gram` of a layer with itself, in float64 whatever the precision of the layer.

    The layer is the sum of its parts of `PART` hidden units; each pair of parts is multiplied once.
    """
    width = tensor.d_out if leg == "output" else tensor.d_in
    gram = tensor.W_out.new_zeros(width, width, dtype=torch.float64)
    for start in range(0, tensor.d_mlp, PART):
        part = _units(tensor, start, PART).to(torch.float64)
        gram += cross_gram(part, part, leg)
        for later in range(start + PART, tensor.d_mlp, PART):
            block = cross_gram(part, _units(tensor, later, PART).to(torch.float64), leg)
            gram += block + block.T
    return gram


def _output_products(tensor: BilinearTensor, other: BilinearTensor) -> Tensor:
    gate, into = tensor.W_gate.T, tensor.W_in.T
    pairs = (gate @ other.W_gate) * (into @ other.W_in)
    pairs += (gate @ other.W_in) * (into @ other.W_gate)
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


def _shape(layer: BilinearTensor) -> tuple[list[int], int, bool, int]:
    return list(layer.batch_shape), layer.d_in, layer.constant, layer.d_out
