"""A published checkpoint as a transformers Llama with the same logits.

The map is exact but for rounding: rows (q, k, v) are split, the left branch is `gate_proj` and the right
one `up_proj`, the attention scale multiplies `o_proj`, and a norm's bias moves into the biases of the maps
that read it. What has no counterpart is a value: a missing right branch is `up_proj` zero with bias one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig

from bilinear_lm.checkpoints.published import PublishedSpec
from bilinear_lm.errors import InputError

# x·1e6 / sqrt(mean(x²) + 1e12) is x to float32 rounding while mean(x²) stays far below 1e12.
NO_NORM_EPS = 1e12
NO_NORM_WEIGHT = 1e6
_PUBLISHED_EPS = 1e-8


def to_llama(
    spec: PublishedSpec, tensors: dict[str, Tensor], where: Path, scaled: bool | None = None
) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """The configuration and state dict of the Llama that a published checkpoint is."""
    tensors = {name: tensors[name].float() for name in spec.shapes()}
    scale = spec.attention_scale(scaled)
    state = {
        "model.embed_tokens.weight": tensors["transformer.wte.weight"],
        "model.norm.weight": _norm_weight(spec, tensors, "transformer.n_f"),
        "lm_head.weight": tensors["lm_head.weight"],
    }
    if _norm_bias(spec, tensors, "transformer.n_f").any():
        raise InputError(
            f"{where}: transformer.n_f{spec.norm_prefix}.bias is not zero: a transformers Llama has no bias "
            "at its final norm and cannot express this model"
        )
    for i in range(spec.n_layers):
        attention = _attention(spec, tensors, f"transformer.h.{i}", scale)
        mlp = _mlp(spec, tensors, f"transformer.h.{i}")
        state |= {f"model.layers.{i}.{name}": value for name, value in (attention | mlp).items()}
    config = _config(spec, epsilon=_epsilon(spec, tensors, where))
    for option, keys in (("attention_bias", "self_attn"), ("mlp_bias", "mlp")):
        _keep_biases(config, option, [key for key in state if f".{keys}." in key], state, spec)
    return config, state


def _config(spec: PublishedSpec, epsilon: float) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=spec.d_vocab,
        hidden_size=spec.d_model,
        intermediate_size=spec.d_mlp,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=spec.n_heads,
        hidden_act=spec.activation,
        max_position_embeddings=spec.n_ctx,
        rms_norm_eps=epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        # The file does not say which tokens begin and end a text; the tokenizer does.
        bos_token_id=None,
        eos_token_id=None,
    )
