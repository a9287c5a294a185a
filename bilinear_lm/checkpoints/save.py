"""Writing: any loadable checkpoint, or a model at hand, as a plain Hugging Face folder."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.config_numbers import numbers
from bilinear_lm.checkpoints.huggingface import quiet
from bilinear_lm.checkpoints.info import checkpoint_info
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.tokenizer import has_tokenizer, load_tokenizer
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, require_finite, require_new, versions_of_run, write_json

RECORD = "bilinear_lm.json"


def save_folder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    record: dict[str, Any] | None = None,
    *,
    store: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Writes a model, its tokenizer and a record of where they come from into a folder.

    AutoModelForCausalLM and AutoTokenizer read it anywhere. The record, `bilinear_lm.json`, is `record`
    and the versions that wrote it. To write all or nothing, fill the folder of `files.new_folder`.

    `store` is the precision in the file, by default the model's; it leaves the model as it is, and what is
    read from the file has the model's dtype again.

    Raises InputError for weights that are not finite, which nothing would load, and for settings of
    generation that are not numbers, which JSON cannot hold.
    """
    require_finite(dict(model.named_parameters()), "the model to save")
    for name, value in numbers(model.generation_config.to_dict()):
        if not math.isfinite(value):
            raise InputError(
                f"the model to save has generation_config.{name} {value}; expected a finite number"
            )
    with quiet():
        model.save_pretrained(folder, state_dict=_stored(model, getattr(torch, store)) if store else None)
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)
    write_json(folder / RECORD, {**(record or {}), "versions": versions_of_run()})


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a tokenizer into a folder; OSError where the disk refuses."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # tokenizers has no kind of error for it


def _stored(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in another precision, those too large for it as they are; tied ones stay one tensor."""
    stored: dict[int, Tensor] = {}
    for value in model.state_dict().values():
        cast = value.to(dtype)
        stored[value.data_ptr()] = cast if torch.isfinite(cast).all() else value
    return {name: stored[value.data_ptr()] for name, value in model.state_dict().items()}


@checked
def export(
    path_or_repo: str | os.PathLike[str],
    out: Path,
    revision: str | None = None,
    attention_scale: bool | None = None,
) -> None:
    """Writes any loadable checkpoint as a plain Hugging Face folder `out`, all or nothing.

    Where the tokenizer that a published checkpoint names cannot be fetched, or there is none, the folder
    has none and a warning says so.
    """
    require_new(out)
    info = checkpoint_info(path_or_repo, revision, attention_scale)
    model = load_pretrained(path_or_repo, revision, attention_scale=attention_scale)
    tokenizer = _tokenizer_if_any(path_or_repo, revision)
    record = {
        "source": info.name,
        "revision": revision,
        "format": info.format,
        "attention_scale": info.attention_scale,
        "tokenizer": tokenizer is not None,
    }
    if tokenizer is not None and model.generation_config.eos_token_id is None:
        model.generation_config.bos_token_id = tokenizer.bos_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    with new_folder(out) as draft:
        save_folder(model, tokenizer, draft, record)


def _tokenizer_if_any(
    path_or_repo: str | os.PathLike[str], revision: str | None
) -> PreTrainedTokenizerBase | None:
    if has_tokenizer(path_or_repo, revision):
        return load_tokenizer(path_or_repo, revision)
    try:
        return load_tokenizer(path_or_repo, revision)
    except InputError as error:
        warnings.warn(f"exported without a tokenizer: {error}", stacklevel=3)
        return None
