"""How much the heads of one layer feed the queries, keys and values of the heads of a later one.

A first head writes through OV_1 = W_V W_O, [d_model, d_model]; a second reads its queries and keys through
QK_2 = W_Q W_Kᵀ and its values through OV_2. The composition scores are (Elhage et al. 2021, "Composition")

    Q: ‖OV_1 QK_2‖ / (‖OV_1‖ ‖QK_2‖),   K: ‖OV_1 QK_2ᵀ‖ / (‖OV_1‖ ‖QK_2‖),   V: ‖OV_1 OV_2‖ / (‖OV_1‖ ‖OV_2‖)

with Frobenius norms: 0 to 1, and 0 where a head does nothing. Two random heads have about 1 / sqrt(d_model),
to be subtracted where layers of different widths are compared. No matrix of d_model² entries is built:
‖X M Yᵀ‖ = ‖R_X M R_Yᵀ‖ for the triangular factors of X and Y.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention.layer import AttentionLayer, rotate
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import exponents, times_two_to
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class Composition:
    """Composition scores of each head of a layer (rows) with each head of a later one (columns)."""

    query: Float[Tensor, "*axes first_heads second_heads"]
    key: Float[Tensor, "*axes first_heads second_heads"]
    value: Float[Tensor, "*axes first_heads second_heads"]


@checked
def composition_scores(first: AttentionLayer, second: AttentionLayer, offset: int = 0) -> Composition:
    """Q-, K- and V-composition scores; the QK circuit is that at relative position `offset`."""
    _require_same_width(first, second)
    W_V, W_O = first.weights.W_V, first.weights.W_O
    written = _triangular(_near_one(W_V)) @ _near_one(W_O)
    parts = _readers(second, offset)
    norm_first = torch.linalg.matrix_norm(written)
    scores = []
    for inward, onward in parts:
        onward = _triangular(onward).mT
        joint = torch.einsum("aed,bdf->abef", written, inward) @ onward
        norm_second = torch.linalg.matrix_norm(_triangular(inward) @ onward)
        scores.append(_over(torch.linalg.matrix_norm(joint), norm_first[:, None] * norm_second))
    return Composition(*scores)


@checked
def composition_through(
    first: AttentionLayer, second: AttentionLayer, directions: Float[Tensor, "n d_model"], offset: int = 0
) -> Composition:
    """Composition scores [n, first_heads, second_heads] through each direction v alone.

    The first head's output is projected on v before the second reads it: ‖OV_1 v vᵀ M‖ / (‖OV_1‖ ‖M‖) with
    v of length 1 and M = QK_2, QK_2ᵀ or OV_2. Directions need not be normalised, but not be zero.
    """
    _require_same_width(first, second)
    if directions.shape[-1] != first.d_model or not len(directions):
        raise InputError(
            f"directions of a composition: got {list(directions.shape)}; expected one row or more of "
            f"{first.d_model}"
        )
    require_finite_numbers(directions, "directions of a composition")
    written = _triangular(_near_one(first.weights.W_V)) @ _near_one(first.weights.W_O)
    directions = times_two_to(directions, -exponents(directions, -1, keepdim=True))
    lengths = directions.norm(dim=-1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise InputError("a direction of a composition is zero; expected directions of some length")
    v = (directions / lengths).to(written)
    share = _over(torch.einsum("aed,nd->nae", written, v).norm(dim=-1), torch.linalg.matrix_norm(written))
    scores = []
    for inward, onward in _readers(second, offset):
        triangular = _triangular(onward).mT
        read = torch.einsum("nd,bde,bef->nbf", v, inward, triangular).norm(dim=-1)
        scores.append(share[:, :, None] * _over(read, torch.linalg.matrix_norm(inward @ triangular))[:, None])
    return Composition(*scores)


def _readers(layer: AttentionLayer, offset: int) -> list[tuple[Tensor, Tensor]]:
    """QK, QKᵀ and OV of each head as X Yᵀ, with factors X and Y [n_heads, d_model, d_head]."""
    if layer.qk_norm is not None:
        raise InputError(
            "the later layer normalises its queries and keys, so that its QK circuit is no fixed matrix; "
            "expected a layer without query and key norms"
        )
    layer.require_offsets([offset])
    W_Q = _near_one(rotate(layer.weights.W_Q, *layer.turns([offset])))
    W_K = _near_one(rotate(layer.weights.W_K, *layer.turns([0])))
    return [(W_Q, W_K), (W_K, W_Q), (_near_one(layer.weights.W_V), _near_one(layer.weights.W_O).mT)]


def _near_one(weight: Tensor) -> Tensor:
    """Each head's matrix with a largest number of ½ to 1: no score depends on the size of a head."""
    require_finite_numbers(weight, "the weights of an attention layer")
    return times_two_to(weight, -exponents(weight, (-2, -1), keepdim=True))


def _over(norms: Tensor, wholes: Tensor) -> Tensor:
    """norms / wholes, 0 where a circuit is 0."""
    return torch.where(wholes == 0, 0, norms / wholes)


def _triangular(weight: Tensor) -> Tensor:
    """R of the QR factors of each head's matrix."""
    return torch.linalg.qr(weight, mode="r").R


def _require_same_width(first: AttentionLayer, second: AttentionLayer) -> None:
    if first.d_model != second.d_model:
        raise InputError(
            f"composition of layers of width {first.d_model} and {second.d_model}; expected two layers of "
            "one model"
        )
