"""One attention layer on a prompt: its pattern, and what each head writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.attention.layer import AttentionLayer, rotate
from bilinear_lm.numerics.memory import rows_at_once
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
        return self._scores(slice(None)).masked_fill(self._unread(slice(None)), -torch.inf)

    def scores_at(self, head: int, query: int) -> Float[Tensor, " pos"]:
        """The scores of one head and query, without those of the others in memory."""
        at = slice(query, query + 1)
        row = self._scores(at)[head, 0].masked_fill(self._unread(at)[0], -torch.inf)
        return torch.nn.functional.pad(row, (0, self.queries.shape[1] - len(row)), value=-torch.inf)

    def pattern_of(self, head: int) -> Float[Tensor, "pos pos"]:
        """The pattern of one head."""
        return self.over_keys(self.capped_of(head))

    def over_keys(self, capped: Float[Tensor, "*heads pos pos"]) -> Float[Tensor, "*heads pos pos"]:
        """The softmax of capped scores over the keys that a query reads."""
        return capped.masked_fill(self._unread(slice(None)), -torch.inf).softmax(dim=-1)

    def capped_of(self, head: int) -> Float[Tensor, "pos pos"]:
        """The scores of one head behind the soft cap, those that are not read among them."""
        return self._capped(self.queries[head] @ self.keys[head].T * self.scale)

    @property
    def pattern(self) -> Float[Tensor, "n_heads pos pos"]:
        """softmax of the capped scores over keys; rows the queries. The whole, however large it is."""
        return self.pattern_at(slice(None))

    def query_pieces(self) -> list[slice]:
        """All queries in pieces, so many in each that their patterns fit `CHUNK_BYTES`."""
        n_heads, n_pos, _ = self.queries.shape
        # Scores, scaled and masked, and their softmax.
        chunk = rows_at_once(4 * n_heads * n_pos * self.queries.element_size())
        return [slice(start, min(start + chunk, n_pos)) for start in range(0, n_pos, chunk)]

    def pattern_at(self, queries: slice) -> Float[Tensor, "n_heads n_some n_keys"]:
        """The pattern of a piece of the queries, over the keys up to the last of them."""
        capped = self._capped(self._scores(queries))
        return capped.masked_fill(self._unread(queries), -torch.inf).softmax(dim=-1)

    def pattern_rows(self, positions: Int[Tensor, " n"]) -> Float[Tensor, "n_heads n pos"]:
        """The pattern of the queries at some positions, in their order, over all keys."""
        rows = self.queries.new_zeros(len(self.queries), len(positions), self.queries.shape[1])
        for queries in self.query_pieces():
            here = ((positions >= queries.start) & (positions < queries.stop)).nonzero().flatten()
            if len(here):
                rows[:, here, : queries.stop] = self.pattern_at(queries)[:, positions[here] - queries.start]
        return rows

    def mix(
        self, values: Float[Tensor, "*batch n_heads pos d_head"]
    ) -> Float[Tensor, "*batch n_heads pos d_head"]:
        """pattern · values: what each head gathers of vectors at the keys."""
        pieces = (self.pattern_at(queries) for queries in self.query_pieces())
        mixed = [pattern.to(values.dtype) @ values[..., : pattern.shape[-1], :] for pattern in pieces]
        return torch.cat(mixed, dim=-2)

    @property
    def heads(self) -> Float[Tensor, "n_heads pos d_model"]:
        """The output of each head: pattern · values · W_O. The value bias is part of `bias`."""
        return self.mix(self.values) @ self.W_O

    def heads_at(self, position: int) -> Float[Tensor, "n_heads d_model"]:
        """The output of each head at one position, without those at the others in memory."""
        at = slice(position, position + 1)
        mixed = self.pattern_at(at) @ self.values[:, : at.stop]
        return (mixed @ self.W_O)[:, 0]

    @property
    def out(self) -> Float[Tensor, "pos d_model"]:
        """The output of the layer: heads and bias together."""
        written = torch.einsum("hqe,hed->qd", self.mix(self.values), self.W_O)
        return written if self.bias is None else written + self.bias

    def _scores(self, queries: slice) -> Tensor:
        return self.queries[:, queries] @ self.keys[:, : queries.stop].mT * self.scale

    def _capped(self, scores: Tensor) -> Tensor:
        return scores if self.soft_cap is None else self.soft_cap * (scores / self.soft_cap).tanh()

    def _unread(self, queries: slice) -> Bool[Tensor, "n_some n_keys"]:
        position = torch.arange(self.queries.shape[1], device=self.queries.device)
        offset = position[queries, None] - position[: queries.stop]
        return (offset < 0) if self.window is None else (offset < 0) | (offset >= self.window)


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
