"""A tiny bilinear Llama and a tokenizer of two words."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

IDS = torch.arange(12)[None]


def tiny(**config):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="linear",
        max_position_embeddings=16,
        **config,
    )
    return LlamaForCausalLM(config).eval()


def word_tokenizer(folder):
    words = {"[UNK]": 0, "[BOS]": 1, "[EOS]": 2, "a": 3, "b": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
