"""Named shapes of language models, and fresh models of them.

A bilinear language model is a transformers Llama whose gate has no activation (`hidden_act="linear"`), an
ordinary one, without gates, a transformers GPT-NeoX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilinear_lm.errors import InputError
from bilinear_lm.families import IDENTITY_EPS

if TYPE_CHECKING:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

UNGATED = ("relu", "gelu")
"""Activations of MLPs without gates."""


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


def ordinary_config(preset: Preset, *, activation: str, d_vocab: int | None = None) -> GPTNeoXConfig:
    """The configuration of a GPT-NeoX of a preset's shape, whose MLPs have no gates.

    They are 3/2 as wide as the preset's, so that two matrices have the parameters of its three; attention
    and then the MLP are added to the stream, as in a Llama. InputError for a preset without norms, or with
    fewer heads of keys and values, neither of which a GPT-NeoX has.
    """
    from transformers import GPTNeoXConfig

    if not preset.norms or preset.n_kv_heads not in (None, preset.n_heads):
        missing = "norms" if not preset.norms else f"{preset.n_heads} heads of keys and values"
        raise InputError(
            f"a preset without {missing}, and --gate {activation}; expected a preset that has them, such as "
            "stories, or --gate linear or silu"
        )
    return GPTNeoXConfig(
        hidden_size=preset.d_model,
        intermediate_size=3 * preset.d_mlp // 2,
        num_hidden_layers=preset.n_layers,
        num_attention_heads=preset.n_heads,
        max_position_embeddings=preset.n_ctx,
        vocab_size=d_vocab or preset.d_vocab,
        hidden_act=activation,
        layer_norm_eps=max(preset.rms_norm_eps, 1e-5),
        classifier_dropout=0.0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        use_parallel_residual=False,
        tie_word_embeddings=False,
    )


def new_model(
    preset: Preset, *, gate: str = "linear", d_vocab: int | None = None
) -> LlamaForCausalLM | GPTNeoXForCausalLM:
    """A freshly initialised model; seed torch before. With a gate of `UNGATED` it is an ordinary one.

    Without norms it is written as a Llama whose RMSNorms are the identity: ε = 1e12 and weights sqrt(ε),
    frozen.
    """
    import torch
    from transformers import GPTNeoXForCausalLM, LlamaForCausalLM

    if gate in UNGATED:
        return GPTNeoXForCausalLM(ordinary_config(preset, activation=gate, d_vocab=d_vocab))
    model = LlamaForCausalLM(llama_config(preset, gate=gate, d_vocab=d_vocab))
    if not preset.norms:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.fill_(IDENTITY_EPS**0.5).requires_grad_(False)
    return model
