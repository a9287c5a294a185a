"""Texts as windows of token ids: how they are made, batched, read and predicted by a model.

A window is a sequence of token ids that a model reads at once; windows may differ in length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.progress import tqdm
from bilinear_lm.sites import Site, site_activations
from bilinear_lm.text.evaluate import next_token_loss
from bilinear_lm.text.token_ids import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Windows = Sequence[Sequence[int]]

BATCH = 16
"""Windows that a model reads at once."""


@checked
def token_windows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[list[int]]:
    """The text in windows of at most `length` tokens, none of its tokens twice.

    Each begins with the beginning-of-sequence token, where the tokenizer has one.
    """
    require_count(length, f"windows of {length} tokens")
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    step = length - len(first)
    if step < 1:
        raise InputError(f"windows of {length} tokens; expected at least {1 + len(first)}")
    ids = token_ids(tokenizer, text)
    if not len(ids):
        raise InputError("the text is empty; expected at least one token")
    return [[*first, *ids[start : start + step].tolist()] for start in range(0, len(ids), step)]


def batches_of(windows: Windows, batch_size: int = BATCH) -> list[list[int]]:
    """The numbers of the windows of each batch: up to `batch_size` of one length, in their order."""
    batches = []
    for _, alike in groupby(range(len(windows)), key=lambda number: len(windows[number])):
        numbers = list(alike)
        batches += [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
    return batches


def window_batches(
    model: nn.Module,
    windows: Windows,
    batch_size: int = BATCH,
    progress: bool = False,
    only: range | None = None,
) -> Iterator[tuple[list[int], Int[Tensor, "batch pos"]]]:
    """The windows in the batches of `batches_of`, with their numbers; on the model's device.

    `only` gives some of the batches, by their numbers; None: all.
    """
    require_count(batch_size, f"batch_size={batch_size} windows")
    require_windows(model, windows)
    device = next(model.parameters()).device
    batches = batches_of(windows, batch_size)
    if only is not None:
        batches = batches[only.start : only.stop]
    with tqdm(total=sum(map(len, batches)), desc="windows", disable=not progress) as bar:
        for batch in batches:
            yield batch, torch.tensor([list(windows[number]) for number in batch], device=device)
            bar.update(len(batch))


def activations_on_windows(
    model: nn.Module,
    windows: Windows,
    sites: Sequence[Site],
    batch_size: int = BATCH,
    progress: bool = False,
    only: range | None = None,
) -> Iterator[tuple[list[int], dict[Site, Float[Tensor, "_batch pos d_model"]]]]:
    """The activations at each of `sites` on the windows, by batches as in `window_batches`, with the numbers
    of a batch's windows.

    >>> for numbers, seen in activations_on_windows(model, windows, [site]):  # doctest: +SKIP
    ...     seen[site].shape  # [len(numbers), pos, d_model]
    """
    for numbers, ids in window_batches(model, windows, batch_size, progress, only):
        (seen,) = site_activations(model, [ids], sites)
        yield numbers, seen


def require_windows(model: nn.Module, windows: Windows, least: int = 1) -> None:
    """Raises InputError unless the model can read the windows and each has `least` tokens."""
    if not len(windows):
        raise InputError("no text: an empty list of windows; expected one window of tokens or more")
    config: Any = model.config
    longest = config.max_position_embeddings
    for number, window in enumerate(windows):
        if not least <= len(window) <= longest:
            raise InputError(f"window {number} has {len(window)} tokens; expected {least} to {longest}")
        if not 0 <= min(window) <= max(window) < config.vocab_size:
            raise InputError(
                f"window {number} has tokens {min(window)} to {max(window)}; "
                f"expected 0 to {config.vocab_size - 1}"
            )


@checked
def window_losses(model: nn.Module, windows: Windows, batch_size: int = BATCH) -> Float[Tensor, " n_windows"]:
    """Cross-entropy of each window in nats per token that follows another, in float64 on the CPU."""
    require_count(batch_size, f"batch_size={batch_size} windows")
    require_windows(model, windows, least=2)
    losses = torch.empty(len(windows), dtype=torch.float64)
    for numbers, ids in window_batches(model, windows, batch_size):
        each = next_token_loss(model, ids, reduction="none").view(len(ids), -1)
        losses[numbers] = each.double().mean(dim=1).cpu()
    return losses


def mean_loss(model: nn.Module, windows: Windows) -> float:
    """Cross-entropy in nats per token, every token of every window but the first counted once."""
    predicted = torch.tensor([len(window) - 1.0 for window in windows], dtype=torch.float64)
    return float((window_losses(model, windows) * predicted).sum() / predicted.sum())


SEPARATOR = "<|endoftext|>"
"""Separator between the documents of a text file."""


def document_windows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[list[int]]:
    """A text as windows of at most `length` tokens, its documents one after the other.

    Documents are separated by <|endoftext|>. Between them stands the end-of-text token, or a blank line where
    the tokenizer has none. Raises InputError for a text without words.
    """
    between = tokenizer.eos_token or "\n\n"
    documents = [part.strip() for part in text.split(SEPARATOR)]
    joined = between.join(filter(None, documents))
    if not joined:
        raise InputError("the text is empty; expected a few pages to name features by")
    return token_windows(tokenizer, joined, length)


@checked
def prompt_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens of a prompt, behind the beginning-of-sequence token; InputError where they do not fit."""
    if not prompt.strip():
        raise InputError("the prompt is empty; expected a few words")
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*first, *tokenizer.encode(prompt, add_special_tokens=False, verbose=False)]
    config: Any = model.config
    longest = config.max_position_embeddings
    if len(ids) > longest:
        raise InputError(f"a prompt of {len(ids)} tokens; expected at most {longest}, shorten it")
    return ids
