"""Tiny models to hook, and what their logits are held against."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bilinear_lm.hooked.adapters import hook

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")


N_VOCAB, D_MODEL, D_MLP, N_LAYERS, N_HEADS = 50, 32, 48, 2, 4


def tiny(family="Llama", *, hidden_act="linear", attn_implementation="eager", norm=None, **config):
    """A random model in which no weight, norm or bias is trivial; `norm` is one value for all norms."""
    model_class = getattr(transformers, f"{family}ForCausalLM")
    config = {"num_key_value_heads": 2, "tie_word_embeddings": False} | config
    model = model_class(
        model_class.config_class(
            vocab_size=N_VOCAB,
            hidden_size=D_MODEL,
            intermediate_size=D_MLP,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            head_dim=D_MODEL // N_HEADS,
            max_position_embeddings=64,
            hidden_act=hidden_act,
            attn_implementation=attn_implementation,
            **config,
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 2, generator=generator)
            if norm is not None:
                parameter.data.fill_(norm)
        else:
            parameter.data.normal_(0, 0.3 if name.endswith("bias") else 0.15, generator=generator)
    return model


def tiny_tokenizer(**options):
    """In memory and, like Llama's, one whose first word is another token right after the text "<s>"."""
    words = {"<s>": 0, "</s>": 1, "<unk>": 2, "▁once": 3, "▁upon": 4, "▁a": 5}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options
    )


TOKENS = torch.randint(0, N_VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits_of(model, tokens=TOKENS):
    return model(tokens).logits


def largest(difference):
    return difference.abs().max().item()


@torch.no_grad()
def assert_parity(model, tokens=TOKENS, **inputs):
    """The bridge gives transformers' logits, and in compatibility mode its log-probabilities.

    At padding in front of a text, whose attention has nothing to see, compatibility mode has other values.
    """
    text = inputs.get("attention_mask", torch.ones_like(tokens)).bool()
    reference = model(tokens, **inputs).logits
    bridge = hook(model)
    assert largest(bridge(tokens, **inputs) - reference) <= 1e-6
    bridge.enable_compatibility_mode()
    log_probs = bridge(tokens, **inputs).log_softmax(-1)
    assert largest((log_probs - reference.log_softmax(-1))[text]) <= 1e-5


def hooked_in_mode(model, compatibility):
    bridge = hook(model)
    if compatibility:
        bridge.enable_compatibility_mode()
    return bridge
