"""Attention patterns in derivatives: the scores that move a reading, and what moves a score.

A head h writes Σ_k A_qk v_k at a query q, A the softmax of its scores S over keys. Read along a direction g,
with c_qk = g · v_k W_O, it changes with a score by

    dA_qk = A_qk (dS_qk − Σ_j A_qj dS_qj),    Σ_k c_qk dA_qk = Σ_k A_qk (c_qk − Σ_j A_qj c_qj) dS_qk.

Only differences of scores matter, so a score is a node with the value S̃_qk = S_qk − Σ_j A_qj S_qj, above the
mean of those that its query reads. It is bilinear, S̃ = q · (k_k − Σ_j A_qj k_j): as a reader it has the
derivative by the query's and by the keys' streams as its slope, and half of it, norms held, as its weight
(Euler: a form of degree 2 is half of what its derivative gives). Its own weight in what it moves is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention.layer import rotate
from analysis.circuits.prompt.prompt import LayerOnPrompt
from analysis.circuits.readers import Source, Spread, stage
from analysis.graphs.nodes import score_node


def score_slopes(
    layer: LayerOnPrompt, g: Float[Tensor, "n pos d_model"], head: int
) -> tuple[Float[Tensor, "n pos pos"], Float[Tensor, "pos pos"]]:
    """Slopes by the scores of one head of readings along g of what it writes, and the scores S̃; rows the
    queries, 0 where they do not read."""
    attention = layer.measured.attention
    scores = attention.capped_of(head)
    pattern = attention.over_keys(scores)
    read = g @ attention.W_O[head].T @ attention.values[head].T
    moved = pattern * (read - (pattern * read).sum(dim=-1, keepdim=True))
    centred = (scores - (pattern * scores).sum(dim=-1, keepdim=True)).masked_fill(pattern == 0, 0)
    return moved * centred, centred


@dataclass(frozen=True, slots=True)
class AttentionScore(Source):
    """A score of a head that moves a reading, above the mean of those that its query reads."""

    layer: LayerOnPrompt
    head: int
    query: int
    key: int

    @classmethod
    def at(cls, layer: LayerOnPrompt, head: int, query: int, key: int, value: float) -> AttentionScore:
        """The score between two positions."""
        node = score_node(layer.number, head, query, key, value=value)
        return cls(node, stage(layer.number, "attention"), layer, head, query, key)

    def reader(self) -> Spread:
        """The score as a function of the residual stream before the attention."""
        attention = self.layer.measured.attention
        pattern = attention.pattern_of(self.head)[self.query]
        keys, query = attention.keys[self.head], attention.queries[self.head, self.query]
        own = torch.nn.functional.one_hot(torch.tensor(self.key), len(keys)).to(pattern) - pattern  # [pos]
        ratio, derivative = self._capped(attention.scale * (keys @ query))
        factors = attention.scale * own * torch.stack([ratio, derivative])  # [2, pos]
        w, gradient, of_keys = self._side("K", slice(None), factors.unsqueeze(-1) * query)
        at = slice(self.query, self.query + 1)
        query_w, query_gradient, of_query = self._side("Q", at, (factors @ keys).unsqueeze(1))
        w[at], gradient[at] = w[at] + query_w, gradient[at] + query_gradient
        constant, constant_gradient = (sum(pair) for pair in zip(of_keys, of_query, strict=True))
        layer = self.layer.number
        return Spread(2 * layer, w / 2, gradient, constant / 2, constant_gradient, f"{layer}-attn-in")

    def _capped(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Capped scores over scores, and their derivative by these."""
        cap = self.layer.measured.attention.soft_cap
        if cap is None:
            return torch.ones_like(scores), torch.ones_like(scores)
        part = (scores / cap).tanh()
        return torch.where(scores == 0, 1, cap * part / scores), 1 - part.square()

    def _side(
        self, name: str, at: slice, v: Float[Tensor, "2 n d_head"]
    ) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Readings v · queries or keys at positions as directions of the stream: of the first v with norms
        held, of the second their derivatives; and the parts of the biases in both."""
        layer, measured = self.layer, self.layer.measured
        weights, attention = layer.attention.weights, measured.attention
        W, bias = getattr(weights, f"W_{name}"), getattr(weights, f"b_{name}")
        cos, sin = (part[at] for part in layer.turns)
        v = rotate(v, cos.expand(2, -1, -1), -sin.expand(2, -1, -1))
        scales = attention.q_scale if name == "Q" else attention.k_scale
        others: Tensor | float = 0.0
        if (norm := layer.attention.qk_norm) is not None and scales is not None:
            factor = norm.query if name == "Q" else norm.key
            v = v * (factor[self.head] if norm.is_joint else factor) / scales[self.head, at].unsqueeze(-1)
            x = measured.resid_pre[at] / measured.ln1_scale[at].unsqueeze(-1)
            raw = x @ W if bias is None else x @ W + bias.unsqueeze(1)  # [n_heads, n, d_head]
            along = (v[1] * raw[self.head]).sum(dim=-1) / scales[self.head, at].square() / raw.shape[-1]
            # What the norm divides by changes with the queries or keys that it is taken over.
            over = raw / len(raw) if norm.is_joint else raw[self.head : self.head + 1]
            heads = slice(None) if norm.is_joint else slice(self.head, self.head + 1)
            taken = along.unsqueeze(-1) * over
            others = torch.einsum("hne,hde->nd", taken, W[heads])
            of_bias = 0.0 if bias is None else float((taken * bias[heads].unsqueeze(1)).sum())
        else:
            of_bias = 0.0
        constants = (0.0, 0.0)
        if bias is not None:
            constants = float((v[0] @ bias[self.head]).sum()), float((v[1] @ bias[self.head]).sum()) - of_bias
        read, derivative = v @ W[self.head].T
        scale = measured.ln1_scale[at].unsqueeze(-1)
        return read / scale, layer.gradient_before_attention((derivative - others) / scale, at), constants
