"""Named shapes of bilinear language models, and fresh models of them.

A bilinear language model is a transformers Llama whose gate has no activation (`hidden_act="linear"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bilinear_lm.errors import InputError
from bilinear_lm.norms import IDENTITY_EPS

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class Preset:
    """Shape of a Llama, in the axis names of this library."""

    d_model: int
    d_mlp: int
    n_layers: int
    n_heads: int
    n_ctx: int
    d_vocab: int
    n_kv_heads: int | None = None
    """Key and value heads; None: as many as heads."""
    norms: bool = True
    """False: every norm is the identity, and the model a polynomial once attention patterns are given."""
    rms_norm_eps: float = 1e-8


PRESETS = {
    "stories": Preset(d_model=192, d_mlp=512, n_layers=4, n_heads=6, n_ctx=256, d_vocab=2048),
    "stories-1l": Preset(d_model=192, d_mlp=768, n_layers=1, n_heads=6, n_ctx=256, d_vocab=2048, norms=False),
    "ts-medium": Preset(d_model=512, d_mlp=2048, n_layers=6, n_heads=8, n_ctx=256, d_vocab=4096),
    "fw-small": Preset(d_model=768, d_mlp=3072, n_layers=12, n_heads=12, n_ctx=512, d_vocab=32000),
    "fw-medium": Preset(d_model=1024, d_mlp=4096, n_layers=16, n_heads=16, n_ctx=512, d_vocab=32000),
    "tinyllama-1.1b": Preset(
        d_model=2048,
        d_mlp=5632,
        n_layers=22,
        n_heads=32,
        n_kv_heads=4,
        n_ctx=2048,
        d_vocab=32000,
        rms_norm_eps=1e-5,
    ),
}
"""The models this package ships (stories, stories-1l), the published shapes, and TinyLlama's."""


def find_preset(name: str) -> Preset:
    """The preset of that name."""
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def llama_config(preset: Preset, *, gate: str = "linear", d_vocab: int | None = None) -> LlamaConfig:
    """The transformers configuration of a preset; `gate` is the activation's name in transformers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=preset.d_model,
        intermediate_size=preset.d_mlp,
        num_hidden_layers=preset.n_layers,
        num_attention_heads=preset.n_heads,
        num_key_value_heads=preset.n_kv_heads or preset.n_heads,
        max_position_embeddings=preset.n_ctx,
        vocab_size=d_vocab or preset.d_vocab,
        hidden_act=gate,
        rms_norm_eps=preset.rms_norm_eps if preset.norms else IDENTITY_EPS,
        tie_word_embeddings=False,
    )


def new_model(preset: Preset, *, gate: str = "linear", d_vocab: int | None = None) -> LlamaForCausalLM:
    """A freshly initialised model; seed torch before.

    Without norms it is written as a Llama whose RMSNorms are the identity: ε = 1e12 and weights sqrt(ε),
    frozen.
    """
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama_config(preset, gate=gate, d_vocab=d_vocab))
    if not preset.norms:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.fill_(IDENTITY_EPS**0.5).requires_grad_(False)
    return model
