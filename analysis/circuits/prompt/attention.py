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

from jaxtyping import Float
from torch import Tensor

from analysis.attention.layer import rotate
from analysis.circuits.prompt.prompt import LayerOnPrompt
from analysis.circuits.readers import Source, Spread, stage
from analysis.graphs.nodes import score_node
from bilinear_lm.norms import norm_gradient


def moved_by_scores(
    layer: LayerOnPrompt, g: Float[Tensor, "n pos d_model"], head: int
) -> Float[Tensor, "n pos pos"]:
    """Derivatives by the scores of one head of readings along g of what it writes; rows the queries."""
    attention = layer.measured.attention
    read = g @ attention.W_O[head].T @ attention.values[head].T
    pattern = attention.pattern_of(head)
    return pattern * (read - (pattern * read).sum(dim=-1, keepdim=True))


def centred_scores(layer: LayerOnPrompt, head: int) -> Float[Tensor, "pos pos"]:
    """Scores of a head above the mean of those that a query reads; 0 where it does not read."""
    attention = layer.measured.attention
    pattern = attention.pattern_of(head)
    scores = attention.queries[head] @ attention.keys[head].T * attention.scale
    return (scores - (pattern * scores).sum(dim=-1, keepdim=True)).masked_fill(pattern == 0, 0)


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
        of_keys = -pattern.unsqueeze(-1) * query
        of_keys[self.key] += query
        at_query = ((keys[self.key] - pattern @ keys) * attention.scale).unsqueeze(0)
        w, slope, constant, constant_slope = self._side("K", slice(None), of_keys * attention.scale)
        query_w, query_slope, of_bias, of_bias_slope = self._side(
            "Q", slice(self.query, self.query + 1), at_query
        )
        w[self.query], slope[self.query] = w[self.query] + query_w[0], slope[self.query] + query_slope[0]
        return Spread(
            2 * self.layer.number,
            w / 2,
            slope,
            (constant + of_bias) / 2,
            constant_slope + of_bias_slope,
            f"{self.layer.number}-attn-in",
        )

    def _side(self, name: str, at: slice, v: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """Readings v · queries or keys at positions as directions of the stream: with norms held, and their
        derivatives; and the parts of the biases in both."""
        layer, measured = self.layer, self.layer.measured
        weights = layer.attention.weights
        W, bias = getattr(weights, f"W_{name}")[self.head], getattr(weights, f"b_{name}")
        cos, sin = (part[at] for part in layer.turns)
        v = rotate(v, cos, -sin)
        slope = v
        scales = measured.attention.q_scale if name == "Q" else measured.attention.k_scale
        if (norm := layer.attention.qk_norm) is not None and scales is not None:
            scale = scales[self.head, at]
            v = v * (norm.query if name == "Q" else norm.key) / scale.unsqueeze(-1)
            x = measured.resid_pre[at] / measured.ln1_scale[at].unsqueeze(-1) @ W
            raw = x if bias is None else x + bias[self.head]
            slope = norm_gradient(v, raw, scale)
        constants = (0.0, 0.0)
        if bias is not None:
            constants = float((v @ bias[self.head]).sum()), float((slope @ bias[self.head]).sum())
        read, read_slope = (each @ W.T / measured.ln1_scale[at].unsqueeze(-1) for each in (v, slope))
        return read, layer.gradient_before_attention(read_slope, at), *constants
