"""`load_pretrained`: one door for every format."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.folder import detect, read_all_shapes, read_config, weight_files
from bilinear_lm.checkpoints.huggingface import build_llama, load_huggingface
from bilinear_lm.checkpoints.llama2c import load_llama2c
from bilinear_lm.checkpoints.locate import locate
from bilinear_lm.checkpoints.published import parse_published
from bilinear_lm.checkpoints.published_llama import to_llama
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_tensors, require_finite


@checked
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
    form = detect(path)
    dtype = torch.float32 if dtype is None else dtype
    if form == "published":
        model = _load_published(path, dtype, attention_scale)
    elif attention_scale is not None:
        raise InputError(f"{path}: attention_scale is for the authors' published checkpoints; leave it out")
    elif form == "llama2c":
        model = load_llama2c(path, dtype)
    else:
        model = load_huggingface(path, dtype)
    # A number of the file may be too large for the precision asked for.
    where = path if dtype is torch.float32 else f"{path} as {dtype}"
    require_finite(dict(model.named_parameters()), where)
    # transformers wraps `to` in a way that hides its signature.
    return model.to(torch.device(device)) if device is not None else model  # type: ignore[arg-type]


def _load_published(folder: Path, dtype: torch.dtype, scaled: bool | None) -> PreTrainedModel:
    spec = parse_published(read_config(folder), read_all_shapes(folder), folder)
    if not spec.has_norms and dtype is torch.float16:
        raise InputError(f"{folder}: a model without norms does not fit float16; use float32 or bfloat16")
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= read_tensors(file)
    return build_llama(*to_llama(spec, tensors, folder, scaled), dtype)
