"""The QK circuit between directions: the contribution of each pair of features to an attention score.

A head's score of a query direction q and a key direction k at relative position Δ = query position - key
position ≥ 0 is, with RoPE,

    score(Δ) = q W_Q R(Δ) W_Kᵀ kᵀ / sqrt(d_head) = c + Σ_j [A_j cos(ω_j Δ) + B_j sin(ω_j Δ)],

c from coordinates that are not rotated. It is bilinear, so the score of two residual streams is the sum
over all pairs of their components (Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits", QK circuits). Scales of the norm in front are taken as 1: on a prompt, divide by the measured scale
of the query's position and by that of the key's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.attention.layer import AttentionLayer, rotate
from analysis.attention.pairs import HeadPairs, require_products, strongest_pairs
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

TILE = 2**20
"""Scores over relative positions that are computed at once before the strongest are taken: few enough for a
processor's cache."""


@shown
@dataclass(frozen=True)
class ScoreCurves:
    """Scores of listed pairs as functions of the relative position Δ.

    score(Δ) = constant + Σ_j [cosine_j cos(ω_j Δ) + sine_j sin(ω_j Δ)].
    """

    layer: AttentionLayer
    cosine: Float[Tensor, "k n_freq"]
    sine: Float[Tensor, "k n_freq"]
    constant: Float[Tensor, " k"]

    def at(self, offsets: Iterable[int]) -> Float[Tensor, "k n_offsets"]:
        """Scores at relative positions."""
        angles = torch.tensor(self.layer.require_offsets(offsets), dtype=torch.float64).unsqueeze(-1)
        angles = angles * self.layer.frequencies
        waves = self.cosine @ angles.cos().to(self.cosine).T + self.sine @ angles.sin().to(self.sine).T
        return waves + self.constant.unsqueeze(-1)


@shown
@dataclass(frozen=True)
class FeatureScores:
    """Attention scores between query directions and key directions, in factors; made by `feature_scores`."""

    layer: AttentionLayer
    queries: Float[Tensor, "n_heads n d_head"]
    """q W_Q, not rotated."""
    keys: Float[Tensor, "n_heads m d_head"]
    """k W_K / sqrt(d_head), not rotated."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """n_heads, queries, keys; the constant rows counted."""
        return self.queries.shape[0], self.queries.shape[1], self.keys.shape[1]

    def at(self, offsets: Iterable[int], max_bytes: int = 2**30) -> Float[Tensor, "n_offsets n_heads n m"]:
        """Scores of all pairs at relative positions Δ = query position - key position.

        Refused beyond `max_bytes`, where `strongest_scores` and `curves` go on.
        """
        checked = self.layer.require_offsets(offsets)
        self._require_bytes(len(checked), max_bytes)
        keys = self._turned_keys
        scores = torch.stack([self._turned(self.queries, offset) @ keys.mT for offset in checked])
        _require_finite_scores(scores)
        return scores

    def curves(
        self, heads: Int[Tensor, " k"], queries: Int[Tensor, " k"], keys: Int[Tensor, " k"]
    ) -> ScoreCurves:
        """The scores of listed pairs as functions of the relative position: A_j, B_j and the constant c."""
        columns = (("head", heads), ("query", queries), ("key", keys))
        for (what, column), size in zip(columns, self.shape, strict=True):
            for index in column.unique().tolist():
                require_index(index, size, what)
        q, k = self.queries[heads, queries], self.keys[heads, keys]
        n, gain = len(self.layer.frequencies), self.layer.rope_gain**2
        q_a, q_b, k_a, k_b = q[:, :n], q[:, n : 2 * n], k[:, :n], k[:, n : 2 * n]
        return ScoreCurves(
            layer=self.layer,
            cosine=gain * (q_a * k_a + q_b * k_b),
            sine=gain * (q_a * k_b - q_b * k_a),
            constant=(q[:, 2 * n :] * k[:, 2 * n :]).sum(dim=-1),
        )

    def strip(self, head: int, rows: slice, offsets: list[int]) -> Float[Tensor, "rows m"]:
        """For some queries of a head and all keys, the score of largest magnitude over relative positions."""
        keys, queries = self._turned(self.keys[head], 0).T, self.queries[head, rows]
        if len(offsets) == 1:
            return self._turned(queries, offsets[0]) @ keys
        rotary, m = self.layer.turns(offsets), keys.shape[1]
        n_rows = max(1, TILE // (m * len(offsets)))
        n_offsets = max(1, TILE // (m * n_rows))
        strongest = []
        for part in queries.split(n_rows):
            highest = queries.new_full((len(part), m), -torch.inf)
            lowest = -highest
            for cos, sin in zip(*(table.unsqueeze(1).split(n_offsets) for table in rotary), strict=True):
                scores = rotate(part.expand(len(cos), -1, -1), cos, sin) @ keys
                highest = torch.maximum(highest, scores.amax(dim=0))
                lowest = torch.minimum(lowest, scores.amin(dim=0))
            strongest.append(torch.where(highest >= -lowest, highest, lowest))
        return torch.cat(strongest)

    @property
    def _turned_keys(self) -> Tensor:
        return self._turned(self.keys, 0)

    def _turned(self, x: Tensor, offset: int) -> Tensor:
        return rotate(x, *self.layer.turns([offset]))

    def _offsets(self, offsets: Iterable[int] | None) -> list[int]:
        return self.layer.require_offsets(range(self.layer.max_offset + 1) if offsets is None else offsets)

    def _require_bytes(self, numbers_each: int, max_bytes: int) -> None:
        n_heads, n, m = self.shape
        needed = numbers_each * n_heads * n * m * self.queries.element_size()
        if needed > max_bytes:
            raise InputError(
                f"attention scores of {n} queries and {m} keys in {n_heads} heads need {needed:,} bytes, "
                f"more than max_bytes={max_bytes:,}; take fewer, `strongest_scores`, or raise max_bytes"
            )


@checked
def feature_scores(
    layer: AttentionLayer,
    queries: Float[Tensor, "n d_model"],
    keys: Float[Tensor, "m key_width"] | None = None,
    *,
    constant: bool = False,
    qk_scales: tuple[Float[Tensor, " n_heads"], Float[Tensor, " n_heads"]] | None = None,
) -> FeatureScores:
    """Scores between directions of the residual stream: decoder rows, embeddings, eigenvectors, any rows.

    `keys` are `queries` by default. A score is bilinear in [x, 1]: with `constant` one row more on each side,
    the last, stands for the constant 1, so that the last column holds what each query direction does with the
    key bias, the last row what the query bias does with each key direction, and the corner what the two
    biases do; they are 0 without biases. The score of Σ c_i q_i and Σ d_j k_j is [c, 1] S [d, 1]ᵀ.

    A layer that normalises its queries and keys (Qwen3) has no bilinear scores. With `qk_scales`, the root
    mean squares by which it divided a query and a key of each head, scores are bilinear at these; with ones
    they are what is left to be divided.

    >>> layer = attention_layer(model, 0)  # doctest: +SKIP
    >>> feature_scores(layer, dictionary.decoder).at([0, 1, 5]).shape  # doctest: +SKIP
    torch.Size([3, 8, 1024, 1024])
    """
    for rows in (queries,) if keys is None else (queries, keys):
        require_finite_numbers(rows, "directions of attention scores")
    q = layer.project("Q", queries, constant)
    k = layer.project("K", queries if keys is None else keys, constant)
    if layer.qk_norm is not None:
        if qk_scales is None:
            raise InputError(
                "this layer normalises its queries and keys, so that its scores are not bilinear in "
                "features; give qk_scales, the measured root mean squares of a query and a key of each head"
            )
        for each in qk_scales:
            if each.shape != (layer.n_heads,) or not bool((torch.isfinite(each) & (each > 0)).all()):
                raise InputError(
                    f"qk_scales of shape {list(each.shape)}; expected a positive number for each of the "
                    f"{layer.n_heads} heads"
                )
        q_scale, k_scale = (scale.to(q).reshape(layer.n_heads, 1, 1) for scale in qk_scales)
        q, k = q * layer.qk_norm.query / q_scale, k * layer.qk_norm.key / k_scale
    elif qk_scales is not None:
        raise InputError("qk_scales are for layers that normalise queries and keys; this one does not")
    require_products(q, k, "attention scores")
    return FeatureScores(layer, q, k * layer.scale)


def _require_finite_scores(*scores: Tensor) -> None:
    if not all(bool(torch.isfinite(each).all()) for each in scores):
        raise InputError(
            f"attention scores overflow {scores[0].dtype}; expected finite ones: scale the directions down, "
            "or compute in float64"
        )


@checked
def strongest_scores(
    scores: FeatureScores, k: int = 50, offsets: Iterable[int] | None = (0,), progress: bool = False
) -> HeadPairs:
    """The k (head, query, key) of largest |score|, each at the relative position where it is largest.

    offsets=None takes all relative positions at which the layer reads, and as many times the work. Scores are
    computed in strips of queries, head after head.
    """
    checked = scores._offsets(offsets)
    pairs = strongest_pairs(
        lambda head, rows: scores.strip(head, rows, checked), scores.shape, k, scores.keys, 4, progress
    )
    curves = scores.curves(pairs.heads, pairs.left, pairs.right).at(checked)
    where = curves.abs().argmax(dim=1)
    best_offsets = torch.tensor(checked, device=where.device)[where]
    return HeadPairs(pairs.heads, pairs.left, pairs.right, pairs.values, best_offsets)
