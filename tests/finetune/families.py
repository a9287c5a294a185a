"""Tiny gated models of every family, with the activation that it is published with."""

from ..bilinear_lm.tiny_families import tiny_family

ACTIVATION = {
    "Llama": "silu",
    "Mistral": "silu",
    "Qwen2": "silu",
    "Qwen3": "silu",
    "Gemma": "gelu_pytorch_tanh",
    "Gemma2": "gelu_pytorch_tanh",
    "Phi3": "silu",
    "Olmo2": "silu",
    "Granite": "silu",
}


def gated(family, **options):
    """For example gated("Gemma2"), in float32; `activation` replaces the family's own."""
    return tiny_family(family, **{"activation": ACTIVATION[family], **options})
