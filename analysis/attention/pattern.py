"""One attention layer on a prompt: its pattern, and what each head writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.attention.layer import AttentionLayer, rotate
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class MeasuredAttention:
    """One attention layer on a prompt.

    Patterns and outputs of heads are computed from the fields each time they are asked for, so that a long
    prompt fits in memory.
    """

    queries: Float[Tensor, "n_heads pos d_head"]
    """Rotated, with biases, and normalised where the layer does so."""
    keys: Float[Tensor, "n_heads pos d_head"]
    """Likewise; grouped-query keys are repeated."""
    values: Float[Tensor, "n_heads pos d_head"]
    """x W_V, without the value bias."""
    W_O: Float[Tensor, "n_heads d_head d_model"]
    bias: Float[Tensor, " d_model"] | None
    """The vector written at every position: b_O + Σ_h b_V W_O; None: nothing."""
    scale: float
    """Factor of the products of queries and keys."""
    window: int | None
    """A query reads keys at relative positions below it; None: all before it."""
    q_scale: Float[Tensor, "n_heads pos"] | None = None
    """Root mean squares that queries were divided by, where the layer normalises them (Qwen3)."""
    k_scale: Float[Tensor, "n_heads pos"] | None = None
    """Root mean squares that keys were divided by."""
    soft_cap: float | None = None
    """c where the softmax is of c tanh(score / c)."""

    @property
    def scores(self) -> Float[Tensor, "n_heads pos pos"]:
        """query · key · scale before a soft cap, rows the queries; -inf where a query does not read."""
        scores = self.queries @ self.keys.mT * self.scale
        return scores.masked_fill(self._unread, -torch.inf)

    def pattern_of(self, head: int) -> Float[Tensor, "pos pos"]:
        """The pattern of one head."""
        return self.over_keys(self.capped_of(head))

    def over_keys(self, capped: Float[Tensor, "*heads pos pos"]) -> Float[Tensor, "*heads pos pos"]:
        """The softmax of capped scores over the keys that a query reads."""
        return capped.masked_fill(self._unread, -torch.inf).softmax(dim=-1)

    def capped_of(self, head: int) -> Float[Tensor, "pos pos"]:
        """The scores of one head behind the soft cap, those that are not read among them."""
        return self._capped(self.queries[head] @ self.keys[head].T * self.scale)

    def _capped(self, scores: Tensor) -> Tensor:
        return scores if self.soft_cap is None else self.soft_cap * (scores / self.soft_cap).tanh()

    @property
    def _unread(self) -> Bool[Tensor, "pos pos"]:
        position = torch.arange(self.queries.shape[1], device=self.queries.device)
        offset = position[:, None] - position
        return (offset < 0) if self.window is None else (offset < 0) | (offset >= self.window)

    @property
    def pattern(self) -> Float[Tensor, "n_heads pos pos"]:
        """softmax of the capped scores over keys; rows the queries."""
        return self.over_keys(self._capped(self.queries @ self.keys.mT * self.scale))

    @property
    def heads(self) -> Float[Tensor, "n_heads pos d_model"]:
        """The output of each head: pattern · values · W_O. The value bias is part of `bias`."""
        return self.pattern @ self.values @ self.W_O

    @property
    def out(self) -> Float[Tensor, "pos d_model"]:
        """The output of the layer: heads and bias together."""
        written = torch.einsum("hqe,hed->qd", self.pattern @ self.values, self.W_O)
        return written if self.bias is None else written + self.bias


def attend(
    layer: AttentionLayer,
    x: Float[Tensor, "pos d_model"],
    turns: tuple[Float[Tensor, "pos n_freq"], Float[Tensor, "pos n_freq"]] | None = None,
) -> MeasuredAttention:
    """An attention layer at the inputs x / rms(x) of a prompt, one row a position.

    `turns` are the cosines and sines by which positions are rotated, those of the layer by default.
    """
    turns = layer.turns(range(len(x))) if turns is None else turns
    queries, keys = (_with_bias(layer.project(name, x, constant=True)) for name in ("Q", "K"))
    q_scale = k_scale = None
    if (norm := layer.qk_norm) is not None:
        q_scale, k_scale = norm.scale(queries), norm.scale(keys)
        queries = queries / q_scale.unsqueeze(-1) * norm.query
        keys = keys / k_scale.unsqueeze(-1) * norm.key
    return MeasuredAttention(
        queries=rotate(queries, *turns),
        keys=rotate(keys, *turns),
        values=layer.project("V", x),
        W_O=layer.weights.W_O,
        bias=layer.bias,
        scale=layer.scale,
        window=layer.window,
        q_scale=q_scale,
        k_scale=k_scale,
        soft_cap=layer.soft_cap,
    )


def _with_bias(projected: Tensor) -> Tensor:
    return projected[:, :-1] + projected[:, -1:]
