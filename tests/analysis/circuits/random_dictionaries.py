"""Small models of all kinds, and random dictionaries of these."""

import torch

from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.sites import Site

IDS = [3, 1, 4, 1, 5, 9]


ALL = {"share": 1.0, "max_nodes": 10**6, "interactions": "pairs"}
"""Nothing is pruned, and nothing grouped."""


SMALL = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "head_dim": 4, "n_kv_heads": 1}


MODELS = {
    "grouped queries": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "without norms": {"rms_norm_eps": 1e12},
    "queries and keys normalised": {"family": "Qwen3"},
    "norms behind and soft caps": {
        "family": "Gemma2",
        "hidden_activation": "linear",
        "sliding_window": 3,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "norms behind alone": {"family": "Olmo2"},
    "multipliers": {
        "family": "Granite",
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.5,
        "attention_bias": True,
        "mlp_bias": True,
    },
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


def dictionaries(points, n_feat=40, layers=(0, 1), width=8, **settings):
    """Random dictionaries, in which nothing is trivial."""
    torch.manual_seed(5)
    made = {}
    for layer in layers:
        for point in points:
            made[Site(layer, point)] = Dictionary(
                torch.randn(width, n_feat) / 4,
                torch.randn(n_feat, width) / 4,
                torch.randn(n_feat) / 4,
                torch.randn(width) / 4,
                **({"activation": "topk", "k": 5} | settings),
            )
    return made
