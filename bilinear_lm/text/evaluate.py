"""The loss of a language model on a text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.progress import tqdm
from bilinear_lm.text.token_ids import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextLoss:
    """Cross-entropy of a text under a model."""

    nats_per_token: float
    bits_per_byte: float
    """Total bits over the bytes of the UTF-8 text, which is comparable between tokenizers."""
    n_tokens: int
    n_bytes: int


@checked
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

    Raises InputError for a tokenizer without such a token (see `window_loss`) and for an empty text.
    """
    if tokenizer.bos_token_id is None:
        raise InputError("this tokenizer has no beginning-of-sequence token to put in front of a window")
    ids = token_ids(tokenizer, text)
    if not len(ids):
        raise InputError("the text to evaluate is empty; expected at least one token")
    context = model.config.max_position_embeddings
    window = window or context - 1
    if window >= context:
        raise InputError(f"a window of {window} tokens and a first token exceed the context of {context}")
    batches = list(_batches(ids, tokenizer.bos_token_id, window, batch_size))
    bar = tqdm(batches, desc="loss", disable=not progress)
    total = sum(float(next_token_loss(model, batch)) for batch in bar)
    n_bytes = len(text.encode())
    return TextLoss(total / len(ids), total / math.log(2) / n_bytes, len(ids), n_bytes)


def window_loss(
    model: nn.Module,
    windows: Int[Tensor, "window pos"],
    batch_size: int = 16,
    *,
    progress: str | None = None,
) -> float:
    """Cross-entropy in nats per token of windows of token ids as they are.

    The first token of each window is not predicted. `progress` names a bar.
    """
    if windows.numel() == 0 or windows.shape[1] < 2:
        raise InputError(f"windows of shape {list(windows.shape)}; expected some of at least two tokens")
    batches = tqdm(windows.split(batch_size), desc=progress, disable=progress is None)
    total = sum(float(next_token_loss(model, batch)) for batch in batches)
    return total / windows[:, 1:].numel()


def next_token_loss(
    model: nn.Module, ids: Int[Tensor, "batch pos"], reduction: Literal["sum", "none"] = "sum"
) -> Float[Tensor, "*tokens"]:
    """Cross-entropy in nats of all tokens but the first of each row: their sum, or one by one in a row."""
    ids = ids.to(next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[:, :-1].float()
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction
        )


def _batches(
    ids: Int[np.ndarray, " _pos"], first: int, window: int, batch_size: int
) -> Iterator[torch.Tensor]:
    """Batches of equally long rows `[first, *window]`; the shorter tail of the text comes as its own."""
    whole = torch.tensor(ids[: len(ids) // window * window], dtype=torch.long).view(-1, window)
    for rows in whole.split(batch_size):
        if len(rows):
            yield torch.nn.functional.pad(rows, (1, 0), value=first)
    tail = ids[len(whole) * window :]
    if len(tail):
        yield torch.tensor([[first, *tail.tolist()]])
