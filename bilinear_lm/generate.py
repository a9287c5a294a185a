"""Text from a language model: one continuation of a prompt, or many independent samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.errors import InputError


def end_of_text_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids after which generation stops: the model's own, else the tokenizer's."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    if configured is None:
        configured = tokenizer.eos_token_id
    if configured is None:
        return []
    return [configured] if isinstance(configured, int) else list(configured)


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str = "",
    *,
    count: int = 1,
    max_tokens: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 1024,
) -> Iterator[str]:
    """Yields `count` texts, each the prompt and its continuation, without special tokens.

    Every sequence starts with the beginning-of-sequence token and ends at an end-of-text token,
    after `max_tokens` new tokens, or when the context is full. `temperature` 0 is greedy decoding.
    The texts depend on the seed and on `batch_size`, which bounds the memory.
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
    end = end_of_text_ids(model, tokenizer)
    options: dict[str, object] = {"do_sample": False}
    if temperature > 0:
        options = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    if count > 1:  # a preallocated cache is twice as fast as a growing one at large batches
        options |= {"cache_implementation": "static", "disable_compile": True}
    torch.manual_seed(seed)
    for first in range(0, count, batch_size):
        rows = ids.repeat(min(batch_size, count - first), 1).to(model.device)
        with torch.inference_mode():
            out = cast(Any, model).generate(
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=room if max_tokens is None else min(max_tokens, room),
                eos_token_id=end or None,
                pad_token_id=end[0] if end else 0,
                **options,
            )
        for row in out.tolist():
            yield cast(str, tokenizer.decode(row, skip_special_tokens=True))


def _require_settings(count: int, max_tokens: int | None, temperature: float, batch_size: int) -> None:
    settings: list[tuple[str, float | None, int]] = [
        ("count", count, 1),
        ("max_tokens", max_tokens, 1),
        ("temperature", temperature, 0),
        ("batch_size", batch_size, 1),
    ]
    for name, value, least in settings:
        if value is not None and not value >= least:
            raise InputError(f"{name}={value}; expected at least {least}")
