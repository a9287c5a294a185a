"""Plain Hugging Face folders, loaded by transformers and checked to be complete."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from bilinear_lm.checkpoints.folder import read_all_shapes
from bilinear_lm.checkpoints.sizes import require_room
from bilinear_lm.checkpoints.stated_config import read_values
from bilinear_lm.errors import InputError

# What transformers raises for files that it cannot make a model or tokenizer of: it checks little itself.
REFUSALS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(ImportError, RuntimeError, OSError, StrictDataclassError),
)


def load_huggingface(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model of a folder, every weight of which came from the files."""
    shapes = read_all_shapes(folder)
    config = read_huggingface_config(folder, len(shapes))
    with quiet():
        try:
            require_room(config, shapes, folder)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except InputError:  # which is a ValueError
            raise
        except REFUSALS as error:
            raise InputError(f"{folder}: transformers cannot load it ({one_line(error)})") from error
    model, loading = loaded
    _require_complete(folder, loading)
    return model


def build_llama(config: LlamaConfig, state: dict[str, Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """A Llama with the given weights."""
    with quiet():
        loaded: Any = LlamaForCausalLM.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    model, loading = loaded
    _require_complete("the converted Llama", loading)
    return model


def read_huggingface_config(folder: Path, n_tensors: int | None = None) -> PretrainedConfig:
    """The configuration of a folder, whose family must have a causal language model in transformers.

    `n_tensors` is given where the weights are there too: no model has more layers than tensors.
    """
    values = read_values(folder, n_tensors)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except REFUSALS as error:
        raise InputError(
            f"{folder / 'config.json'}: model_type {values['model_type']!r} cannot be read by transformers "
            f"({one_line(error)})"
        ) from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(
            f"{folder / 'config.json'}: model_type {values['model_type']!r} is no causal language model"
        )
    return config


def _require_complete(where: Path | str, loading: dict[str, Any]) -> None:
    problems = [f"{key} is missing" for key in sorted(loading["missing_keys"])]
    problems += [f"{key} is left over" for key in sorted(loading["unexpected_keys"])]
    problems += [
        f"{key} has shape {tuple(got)}, expected {tuple(expected)}"
        for key, got, expected in sorted(loading["mismatched_keys"])
    ]
    if problems:
        raise InputError(f"{where}: the weights do not fit config.json: {'; '.join(problems)}")


def one_line(error: Exception) -> str:
    """An error's kind and message without its line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back transformers' progress bars and warnings while a model loads or is saved."""
    bars = transformers_logging.is_progress_bar_enabled()
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
