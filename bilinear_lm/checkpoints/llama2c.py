"""llama2.c's `.bin` files: a SiLU Llama in one flat file of float32.

Version 0 has a header of seven whole numbers; version 1 starts with the magic word "ak42" and has a header
of 256 bytes; version 2 is quantised. All rotate neighbouring pairs of coordinates where transformers rotates
the two halves of a head, so the rows of wq and wk are permuted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, PreTrainedModel

from bilinear_lm.checkpoints.huggingface import build_llama
from bilinear_lm.checkpoints.llama2c_header import HEADER_BYTES, Llama2cHeader, read_header
from bilinear_lm.files import require_finite

BOS, EOS = 1, 2


def load_llama2c(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The Llama of a `.bin` file."""
    header = read_header(path)
    state = _read_state(header, path)
    for name, heads in (("q_proj", header.n_heads), ("k_proj", header.n_kv_heads)):
        for i in range(header.n_layers):
            key = f"model.layers.{i}.self_attn.{name}.weight"
            state[key] = _halves_from_pairs(state[key], heads)
    config = LlamaConfig(
        vocab_size=header.d_vocab,
        hidden_size=header.d_model,
        intermediate_size=header.d_mlp,
        num_hidden_layers=header.n_layers,
        num_attention_heads=header.n_heads,
        num_key_value_heads=header.n_kv_heads,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        max_position_embeddings=header.n_ctx,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=header.tied,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = build_llama(config, state, dtype)
    # llama2.c's own sampler stops at either.
    model.generation_config.eos_token_id = [BOS, EOS]
    return model


def _read_state(header: Llama2cHeader, path: Path) -> dict[str, Tensor]:
    values = torch.from_numpy(np.fromfile(path, dtype="<f4", offset=HEADER_BYTES[header.version]))
    layout = header.layout()
    parts = values.split([int(np.prod(shape)) for _, shape in layout])
    state = {name: part.view(shape).clone() for (name, shape), part in zip(layout, parts, strict=True)}
    state = {name: value for name, value in state.items() if name not in ("cos", "sin")}
    require_finite(state, path)
    return state


def _halves_from_pairs(weight: Float[Tensor, "d_out d_model"], heads: int) -> Float[Tensor, "d_out d_model"]:
    """Rows (head)(pair)(of two), as llama2.c rotates, in the order (head)(of two)(pair)."""
    return rearrange(weight, "(h pair two) d -> (h two pair) d", h=heads, two=2).contiguous()
