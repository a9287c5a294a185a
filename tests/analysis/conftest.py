"""Tiny random models of every family whose attention is read."""

import pytest
import torch


@pytest.fixture
def family_model():
    """Builds a tiny bilinear model of a family in which no weight, norm or bias is trivial."""

    def build(family="Llama", *, n_layers=2, n_kv_heads=2, seed=0, attention="eager", **config):
        import transformers

        model_class = getattr(transformers, f"{family}ForCausalLM")
        sizes = {
            "vocab_size": 50,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": n_kv_heads,
            "head_dim": 6,
            "max_position_embeddings": 32,
            "hidden_act": "linear",
            "tie_word_embeddings": False,
            "attn_implementation": attention,
        }
        model = model_class(model_class.config_class(**(sizes | config))).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data.uniform_(0.5, 2, generator=generator)
            else:
                parameter.data.normal_(0, 0.3, generator=generator)
        return model

    return build
