"""Text from a language model: one continuation of a prompt, or many independent samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.text.decoding import LEAST_TEMPERATURE, decoding_settings, only_given_settings


def end_of_text_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids after which generation stops: the model's own, else the tokenizer's."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return []
    ids = configured if isinstance(configured, list | tuple) else [configured]
    if not all(type(id_) is int for id_ in ids):
        raise InputError(
            f"eos_token_id of the model is {configured!r}; expected a token id, or a list of them"
        )
    return list(ids)


@checked
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str = "",
    *,
    count: int = 1,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = 1024,
    checkpoint_settings: bool = False,
) -> Iterator[str]:
    """Yields `count` texts, each the prompt and its continuation, without special tokens.

    Every sequence starts with the beginning-of-sequence token and ends at an end-of-text token,
    after `max_tokens` new tokens, or when the context is full. `temperature` 0 is greedy decoding, 1 (by
    default) draws from the model's own distribution. Only the end-of-text tokens come from the model's
    `generation_config`; with `checkpoint_settings` also its settings for the choice of tokens and the end,
    where the arguments name nothing else. The texts depend on the seed and on `batch_size`, which bounds the
    memory.
    """
    _require_settings(count, max_tokens, temperature, batch_size)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = torch.tensor([start + tokenizer.encode(prompt, add_special_tokens=False)])
    room = model.config.max_position_embeddings - ids.shape[1]
    if ids.shape[1] == 0:
        raise InputError(
            "an empty prompt needs a tokenizer with a beginning-of-sequence token; give a prompt"
        )
    if room <= 0:
        raise InputError(
            f"the prompt has {ids.shape[1]} tokens and leaves no room in a context of "
            f"{model.config.max_position_embeddings}; shorten it"
        )
    settings = decoding_settings(model, temperature, checkpoint_settings)
    allowed = _new_tokens(settings, ids.shape[1])
    longest = min(room, max_tokens or allowed or room)
    end = end_of_text_ids(model, tokenizer)
    # Rows that ended are filled with the padding until all have; `_until` cuts it off.
    settings |= {"max_new_tokens": longest, "eos_token_id": end or None, "pad_token_id": 0}
    if count > 1 and settings.get("num_beams", 1) == 1:
        # A preallocated cache is twice as fast as a growing one at large batches.
        settings |= {"cache_implementation": "static", "disable_compile": True}
    if "stop_strings" in settings:  # a row that such a string ends could not be told from its padding
        batch_size = 1
    torch.manual_seed(seed)
    for first in range(0, count, batch_size):
        rows = ids.repeat(min(batch_size, count - first), 1).to(model.device)
        try:
            out = _generate(model, tokenizer, rows, settings)
        except (ValueError, TypeError, IndexError) as error:
            if not checkpoint_settings:
                raise
            raise InputError(f"the checkpoint's generation_config cannot be followed ({error})") from error
        for row in out.tolist():
            yield cast(str, tokenizer.decode(_until(row, ids.shape[1], end), skip_special_tokens=True))


def _new_tokens(settings: dict[str, Any], n_prompt: int) -> int | None:
    """Takes the lengths out of settings; returns how many new tokens they allow, None for any number."""
    longest, new = settings.pop("max_length", None), settings.pop("max_new_tokens", None)
    for name, value in (("max_length", longest), ("max_new_tokens", new)):
        if value is not None and type(value) is not int:
            raise InputError(
                f"the checkpoint's generation_config has {name}={value!r}; expected a number of tokens"
            )
    if new is not None:
        return new
    if longest is not None and longest <= n_prompt:
        raise InputError(
            f"the prompt has {n_prompt} tokens and the checkpoint's generation_config allows {longest} with "
            "it; give a shorter prompt, or leave its settings out"
        )
    return None if longest is None else longest - n_prompt


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Tensor, settings: dict[str, Any]
) -> Tensor:
    """The ids of prompts and their continuations, one row a sequence."""
    also = {"tokenizer": tokenizer} if "stop_strings" in settings else {}
    with torch.inference_mode(), only_given_settings(model):
        return cast(Any, model).generate(
            rows, generation_config=GenerationConfig(**settings), attention_mask=torch.ones_like(rows), **also
        )


def _until(row: list[int], n_prompt: int, end: list[int]) -> list[int]:
    """A sequence up to and with the first end-of-text token behind the prompt."""
    ends = (position for position in range(n_prompt, len(row)) if row[position] in end)
    return row[: next(ends, len(row)) + 1]


def _require_settings(count: int, max_tokens: int | None, temperature: float | None, batch_size: int) -> None:
    settings: list[tuple[str, float | None, int]] = [
        ("count", count, 1),
        ("max_tokens", max_tokens, 1),
        ("temperature", temperature, 0),
        ("batch_size", batch_size, 1),
    ]
    for name, value, least in settings:
        if value is not None and not value >= least:
            raise InputError(f"{name}={value}; expected at least {least}")
    if temperature is not None and 0 < temperature < LEAST_TEMPERATURE:
        raise InputError(
            f"temperature={temperature}; expected 0, the likeliest token each time, or at least "
            f"{LEAST_TEMPERATURE}"
        )
