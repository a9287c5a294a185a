"""Tiny models of all that attribution has to be right about."""

import pytest

from .random_dictionaries import SMALL

MODELS = {
    "grouped queries": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "without norms": {"rms_norm_eps": 1e12},
    "queries and keys normalised": {"family": "Qwen3"},
    "a window": {"family": "Mistral", "sliding_window": 3},
    "angles by the length of the prompt": {
        "family": "Phi3",
        "pad_token_id": 0,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 100.0,
            "original_max_position_embeddings": 4,
            "short_factor": [1.0, 1.3],
            "long_factor": [2.0, 5.0],
        },
    },
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(family_model, request):
    made = family_model(**SMALL | request.param)
    if request.param.get("rms_norm_eps") == 1e12:
        for norm in [module for name, module in made.named_modules() if name.endswith("norm")]:
            norm.weight.data *= 1e6
    return made
