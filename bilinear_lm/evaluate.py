"""How well a language model predicts a text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.errors import InputError


@dataclass(frozen=True)
class TextLoss:
    """Cross-entropy of a text under a model."""

    nats_per_token: float
    bits_per_byte: float
    """Comparable between tokenizers: total bits over the bytes of the UTF-8 text."""
    n_tokens: int
    n_bytes: int


def text_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> TextLoss:
    """Cross-entropy of `text`, every token predicted once.

    The text is cut into windows of `window` tokens that do not overlap; each is predicted with one
    beginning-of-sequence token in front. By default a window and that token fill the context.
    """
    if tokenizer.bos_token_id is None:
        raise InputError("this tokenizer has no beginning-of-sequence token to put in front of a window")
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    if not ids:
        raise InputError("the text to evaluate is empty; expected at least one token")
    context = model.config.max_position_embeddings
    window = window or context - 1
    if window >= context:
        raise InputError(f"a window of {window} tokens and a first token exceed the context of {context}")
    total = 0.0
    batches = list(_batches(ids, tokenizer.bos_token_id, window, batch_size))
    with torch.inference_mode():
        for batch in tqdm(batches, desc="loss", disable=not progress):
            batch = batch.to(model.device)
            logits = model(input_ids=batch).logits[:, :-1].float()
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
            ).item()
    n_bytes = len(text.encode())
    return TextLoss(total / len(ids), total / math.log(2) / n_bytes, len(ids), n_bytes)


def _batches(ids: list[int], first: int, window: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Batches of equally long rows `[first, *window]`; the shorter tail of the text comes as its own."""
    whole = torch.tensor(ids[: len(ids) // window * window], dtype=torch.long).view(-1, window)
    for rows in whole.split(batch_size):
        if len(rows):
            yield torch.nn.functional.pad(rows, (1, 0), value=first)
    if tail := ids[len(whole) * window :]:
        yield torch.tensor([[first, *tail]])
