"""One attention layer as analyses read it: its weights, and the rotation of queries and keys.

With rotary position embeddings (RoPE), coordinates j and j + n of a query and a key, j < n, n the number of
frequencies, are turned as pairs by the angle ω_j · position (the half-split convention of Llama), so that
scores depend on the relative position alone. Coordinates from 2n on are not turned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.families import causal_model, decoder, decoder_block, plain
from bilinear_lm.norms import norm_epsilon, norm_factor, norm_scale
from bilinear_lm.shown import shown
from bilinear_lm.weights import AttentionWeights, attention_weights


@shown
@dataclass(frozen=True)
class QKNorm:
    """RMS norms of queries and keys, of each head by itself (Qwen3) or of all together (OLMo 2)."""

    query: Float[Tensor, "*heads d_head"]
    """The norm's weight: a query divided by its root mean square is multiplied by it. [d_head] for each head
    by itself, [n_heads, 1, d_head] for all together."""
    key: Float[Tensor, "*heads d_head"]
    epsilon: float

    @property
    def is_joint(self) -> bool:
        """Whether all heads are normalised together."""
        return self.query.ndim > 1

    def scale(self, x: Float[Tensor, "n_heads pos d_head"]) -> Float[Tensor, "n_heads pos"]:
        """The root mean squares by which queries or keys are divided, those of grouped keys repeated."""
        if not self.is_joint:
            return norm_scale(x, self.epsilon)
        together = rearrange(x, "heads pos d_head -> pos (heads d_head)")
        return norm_scale(together, self.epsilon).expand(len(x), -1)


@shown
@dataclass(frozen=True)
class AttentionLayer:
    """Weights of an attention layer and what else its scores depend on.

    The norm's weight is folded into W_Q, W_K, W_V: they read x / rms(x) of the residual stream x.
    """

    weights: AttentionWeights
    frequencies: Float[Tensor, " n_freq"]
    """Radians a position, as the model has them (scaled RoPE included); float64, on the CPU."""
    rope_gain: float
    """Factor of the rotated coordinates of queries and keys; 1 except for YaRN."""
    scale: float
    """Factor of the products of queries and keys: 1 / sqrt(d_head)."""
    n_ctx: int
    """Positions the model can read, or those of a prompt; relative positions are 0 to n_ctx - 1."""
    window: int | None = None
    """A query reads keys at relative positions below it (sliding window); None: all before it."""
    qk_norm: QKNorm | None = None
    """Norms of queries and keys, which make scores no bilinear form; None in most models."""
    soft_cap: float | None = None
    """c where the softmax is of c tanh(score / c) (Gemma 2)."""

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return len(self.weights.W_Q)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weights.W_Q.shape[1]

    @property
    def bias(self) -> Float[Tensor, " d_model"] | None:
        """The vector written at every position: b_O + Σ_h b_V W_O, since patterns sum to 1; None: nothing."""
        b_V, b_O = self.weights.b_V, self.weights.b_O
        if b_V is None:
            return b_O
        written = torch.einsum("he,hed->d", b_V, self.weights.W_O)
        return written if b_O is None else written + b_O

    @property
    def max_offset(self) -> int:
        """The largest relative position at which a query reads a key."""
        return min(self.n_ctx, self.window or self.n_ctx) - 1

    def project(
        self, name: str, x: Float[Tensor, "n width"], constant: bool = False
    ) -> Float[Tensor, "n_heads rows d_head"]:
        """x W of each head for directions x, with `name` Q, K or V; biases are left out.

        With `constant` one more row, the last, holds the bias b of each head: the part of the constant 1.
        """
        if x.shape[-1] != self.d_model or not len(x):
            raise InputError(
                f"directions at W_{name} of an attention layer: got {list(x.shape)}; expected one row or "
                f"more of {self.d_model}"
            )
        weight, bias = getattr(self.weights, f"W_{name}"), getattr(self.weights, f"b_{name}")
        projected = x.to(weight) @ weight
        if not constant:
            return projected
        row = torch.zeros_like(projected[:, 0]) if bias is None else bias
        return torch.cat([projected, row.unsqueeze(1)], dim=1)

    def turns(
        self, positions: Iterable[int]
    ) -> tuple[Float[Tensor, "n_positions n_freq"], Float[Tensor, "n_positions n_freq"]]:
        """Cosines and sines of the angles at some positions, for `rotate`; `rope_gain` is in them."""
        angles = torch.tensor(list(positions), dtype=torch.float64).unsqueeze(-1) * self.frequencies
        cos, sin = angles.cos() * self.rope_gain, angles.sin() * self.rope_gain
        return cos.to(self.weights.W_Q), sin.to(self.weights.W_Q)

    def require_offsets(self, offsets: Iterable[int]) -> list[int]:
        """The relative positions; raises InputError unless the layer reads at all of them."""
        checked = list(offsets)
        if not checked:
            raise InputError("no relative positions; expected one or more")
        for offset in checked:
            if not 0 <= offset <= self.max_offset:
                raise InputError(
                    f"relative position {offset} (query - key); expected 0 to {self.max_offset}, as far as "
                    "this layer reads"
                )
        return checked


@checked
def attention_layer(model_or_bridge: nn.Module, layer: int, n_tokens: int | None = None) -> AttentionLayer:
    """The attention of one layer of a transformers model or a bridge, in float32 at least.

    Frequencies are those of the model's own rotary embedding, for a prompt of `n_tokens` where that is given.
    Those of `longrope` (Phi-3) depend on it, so that without it they are an error. Scores are those before a
    soft cap, and W_O writes what the attention module puts out, before a norm behind it or a multiplier
    (Gemma 2, Granite).
    """
    weights = _promoted(attention_weights(model_or_bridge, layer))
    config = causal_model(model_or_bridge).config
    attention = plain(decoder_block(model_or_bridge, layer).self_attn)
    rotary = plain(decoder(model_or_bridge).rotary_emb)
    n_ctx = config.max_position_embeddings
    if n_tokens is not None and not 1 <= n_tokens <= n_ctx:
        raise InputError(f"attention on a prompt of {n_tokens} tokens; expected 1 to {n_ctx}")
    window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
    return AttentionLayer(
        weights=weights,
        frequencies=_frequencies(rotary, n_tokens).detach().cpu().double(),
        rope_gain=float(rotary.attention_scaling),
        scale=float(attention.scaling),
        n_ctx=n_ctx if n_tokens is None else n_tokens,
        window=window,
        qk_norm=_qk_norm(attention, weights.W_Q, config.num_key_value_heads),
        soft_cap=getattr(attention, "attn_logit_softcapping", None),
    )


def _frequencies(rotary: Any, n_tokens: int | None) -> Tensor:
    """The frequencies that a rotary embedding takes for a prompt, whatever it has read before."""
    if rotary.rope_type == "longrope" and n_tokens is None:
        raise InputError(
            "rotary embeddings of type longrope change with the length of the prompt; give n_tokens, that "
            "length, or a model with default, linear, dynamic, yarn or llama3"
        )
    if rotary.rope_type not in ("dynamic", "longrope"):
        return rotary.inv_freq
    # The buffer of these two holds what the last prompt needed. Within the context `dynamic` is the default.
    from transformers.modeling_rope_utils import (
        ROPE_INIT_FUNCTIONS,
    )  # importing analysis loads no transformers

    frequencies, _ = ROPE_INIT_FUNCTIONS[rotary.rope_type](rotary.config, None, seq_len=n_tokens)
    return frequencies.to(rotary.inv_freq.dtype)


def rotate(
    x: Float[Tensor, "*axes d_head"], cos: Float[Tensor, "#*axes n_freq"], sin: Float[Tensor, "#*axes n_freq"]
) -> Float[Tensor, "*axes d_head"]:
    """x with coordinates j and j + n_freq turned as pairs: (a cos - b sin, b cos + a sin)."""
    n = cos.shape[-1]
    a, b = x[..., :n], x[..., n : 2 * n]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * n :]], dim=-1)


def _qk_norm(attention: Any, like: Float[Tensor, "n_heads d_model d_head"], n_kv_heads: int) -> QKNorm | None:
    if getattr(attention, "q_norm", None) is None:
        return None
    query, key = plain(attention.q_norm), plain(attention.k_norm)
    factors, (n_heads, _, d_head) = [norm_factor(norm).to(like) for norm in (query, key)], like.shape
    if len(query.weight) != d_head:
        shapes = ((factors[0], 1), (factors[1], n_heads // n_kv_heads))
        factors = [
            repeat(factor, "(heads d_head) -> (heads group) 1 d_head", d_head=d_head, group=group)
            for factor, group in shapes
        ]
    return QKNorm(factors[0], factors[1], norm_epsilon(query))


def _promoted(weights: AttentionWeights) -> AttentionWeights:
    dtype = torch.promote_types(weights.W_Q.dtype, torch.float32)
    tensors = {field.name: getattr(weights, field.name) for field in fields(weights)}
    return replace(weights, **{name: value.to(dtype) for name, value in tensors.items() if value is not None})
