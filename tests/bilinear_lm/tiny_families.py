"""A tiny random model of each family; no weight, norm, bias or multiplier is trivial."""

import torch
import transformers

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
"""That which a family is published with."""
NEW_FAMILIES = ("Gemma", "Gemma2", "Phi3", "Olmo2", "Granite")
"""Beyond Llama, Mistral and Qwen."""
SOFT_CAP = 30.0
SPECIAL = {
    # Gemma's heads together are wider than the model, as in the published ones.
    "Gemma": {"head_dim": 10},
    "Gemma2": {
        "sliding_window": 4,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": SOFT_CAP,
    },
    "Phi3": {"pad_token_id": 0},
    "Granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.5,
        "attention_bias": True,
        "mlp_bias": True,
    },
}
TOKENS = torch.randint(1, 64, (2, 12), generator=torch.Generator().manual_seed(1))


def tiny_family(family, *, activation="linear", dtype=torch.float32, **config):
    """For example tiny_family("Gemma2"): its transformers model, with eager attention."""
    model_class = getattr(transformers, f"{family}ForCausalLM")
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": 64,
        "head_dim": 8,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
        "hidden_activation" if family == "Gemma2" else "hidden_act": activation,
    }
    model = model_class(model_class.config_class(**sizes | SPECIAL.get(family, {}) | config)).eval()
    generator = torch.Generator().manual_seed(0)
    centre = 0.0 if "Gemma" in family else 1.0
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(centre - 0.5, centre + 1, generator=generator)
        else:
            parameter.data.normal_(0, 0.3 if name.endswith("bias") else 0.15, generator=generator)
    return model.to(dtype)


def gated(family, **options):
    """For example gated("Gemma2"), in float32; `activation` replaces the family's own."""
    return tiny_family(family, **{"activation": ACTIVATION[family], **options})


def own_norm_factor(family, norm):
    """What a norm multiplies x / rms(x) by."""
    weight = norm.weight.detach()
    return 1 + weight if "Gemma" in family else weight
