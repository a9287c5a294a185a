"""The difference of two attention layers head by head: of what heads write, and of how they look.

Both circuits are functions: x W_V W_O, and the score x W_Q R W_Kᵀ y with R the rotation between two
positions. A head's gauge (W_V G and G⁻¹ W_O; the same of queries and keys, pair by pair) changes neither.
Each difference has rank 2 d_head at most and is measured in a core of that size, by QR of its stacked
factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention.layer import AttentionLayer, rotate
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

N_OFFSETS = 24
"""Relative positions at which scores are compared, at most."""


@shown
@dataclass(frozen=True)
class HeadChange:
    """Norms of the difference of two layers' circuits for each head, and of the first layer's own."""

    ov: Float[Tensor, " n_heads"]
    """‖ΔOV‖ (Frobenius)."""
    ov_own: Float[Tensor, " n_heads"]
    ov_largest: Float[Tensor, " n_heads"]
    """‖ΔOV‖₂: of an input of length 1 the largest change of what the head writes where it attends fully."""
    qk: Float[Tensor, " n_heads"] | None
    """Root mean square of ‖ΔQK‖ over `offsets`; None where scores are not bilinear (norms of queries)."""
    qk_own: Float[Tensor, " n_heads"] | None
    qk_largest: Float[Tensor, " n_heads"] | None
    """Largest ‖ΔQK‖₂ over `offsets`: the largest change of a score, of a query and key of length 1."""
    offsets: tuple[int, ...]


def head_change(layer: AttentionLayer, other: AttentionLayer) -> HeadChange:
    """The change of each head from one layer to the other; heads are those of the same number.

    Biases count as a constant coordinate of what is read. The scores' scale (1 / √d_head) is in QK.
    """
    _require_alike(layer, other)
    ours, theirs = _read(layer), _read(other)
    value, written = _triangles(ours["V"], theirs["V"]), _triangles(ours["O"], theirs["O"])
    own, changed = _products(value, written)
    qk = qk_own = qk_largest = None
    offsets = _offsets(layer.max_offset)
    if layer.qk_norm is None:
        query, key = _triangles(ours["Q"], theirs["Q"]), _triangles(ours["K"], theirs["K"])
        at = [_products(_turned(layer, query, offset), key, layer.scale) for offset in offsets]
        qk_own, qk = (
            torch.stack([_frobenius(pair[i]) for pair in at]).square().mean(0).sqrt() for i in (0, 1)
        )
        qk_largest = torch.stack([torch.linalg.matrix_norm(pair[1], ord=2) for pair in at]).amax(0)
    ov_largest = torch.linalg.matrix_norm(changed, ord=2)
    return HeadChange(_frobenius(changed), _frobenius(own), ov_largest, qk, qk_own, qk_largest, offsets)


Pair = tuple[Tensor, Tensor]


def _read(layer: AttentionLayer) -> dict[str, Float[Tensor, "n_heads width d_head"]]:
    """The weights in float64 with biases as a last row; W_O transposed."""
    weights = layer.weights
    reading = {"O": weights.W_O.mT.double()}
    for name in "QKV":
        weight, bias = getattr(weights, f"W_{name}").double(), getattr(weights, f"b_{name}")
        row = (
            weight.new_zeros(len(weight), 1, weight.shape[-1]) if bias is None else bias.double().unsqueeze(1)
        )
        reading[name] = torch.cat([weight, row], dim=1)
    return reading


def _triangles(ours: Tensor, theirs: Tensor) -> Pair:
    """R and R' with [A, A'] = U [R, R'], U orthonormal: what products of A and A' have of size is in them."""
    triangle = torch.linalg.qr(torch.cat([ours, theirs], dim=-1)).R  # [n_heads, rank, 2 d_head]
    return triangle[..., : ours.shape[-1]], triangle[..., ours.shape[-1] :]


def _products(left: Pair, right: Pair, scale: float = 1.0) -> Pair:
    """A Bᵀ of the first layer and its difference from the second's, between orthonormal bases."""
    own, other = (scale * (a @ b.mT) for a, b in zip(left, right, strict=True))
    return own, own - other


def _turned(layer: AttentionLayer, query: Pair, offset: int) -> Pair:
    """Queries turned against keys that lie `offset` positions before them."""
    cos, sin = (part.to(query[0]) for part in layer.turns([offset]))  # [1, n_freq]
    ours, theirs = (rotate(part, cos, sin) for part in query)
    return ours, theirs


def _offsets(most: int) -> tuple[int, ...]:
    """Relative positions from 0 to the largest, close by and then ever farther apart."""
    spread = torch.logspace(0, 1, N_OFFSETS, base=float(most + 1), dtype=torch.float64) - 1
    return tuple(sorted({*spread.round().int().tolist(), 0, min(1, most), most}))


def _frobenius(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices)


def _require_alike(layer: AttentionLayer, other: AttentionLayer) -> None:
    ours, theirs = (
        (part.weights.W_Q.shape, part.scale, part.rope_gain, part.window, part.qk_norm is None)
        for part in (layer, other)
    )
    same = ours == theirs and torch.equal(layer.frequencies, other.frequencies)
    if not same:
        raise InputError(
            f"attention layers to compare: got heads {list(ours[0])} with scale {ours[1]:g} and "
            f"{list(theirs[0])} with {theirs[1]:g}, or other rotary positions, windows or norms; expected "
            "two checkpoints of one architecture"
        )
