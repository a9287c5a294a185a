"""Windows of text that dictionaries are trained and measured on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase

from bilinear_lm.errors import InputError
from bilinear_lm.text.files import read_plain_text
from finetune.data.windows import Windows, tokenize, tokenize_source, whole_windows
from finetune.dictionaries.config import DictionaryConfig


class _Shuffled(Subset[Any]):
    """Windows in an order; sparsify selects the remaining ones where it goes on with a run."""

    def select(self, rows: Iterable[int]) -> Subset[Any]:
        return Subset(self.dataset, [self.indices[row] for row in rows])


def training_windows(config: DictionaryConfig, tokenizer: PreTrainedTokenizerBase, context: int) -> Subset:
    """The windows of all sources, shuffled, as many as fill whole steps."""
    window = context if config.window is None else config.window
    if not 2 <= window <= context:
        raise InputError(f"window is {window}; expected 2 to {context}, the model's context")
    streams = [
        tokenize_source(source, tokenizer, limit=config.max_tokens, selection=config.selection)
        for source in config.data
    ]
    windows = Windows(
        streams,
        [config.passes] * len(streams),
        context=window,
        first=tokenizer.bos_token_id,
        seed=config.seed,
    )
    if len(windows) < config.batch_size:
        raise InputError(
            f"{', '.join(config.data)}: {len(windows)} windows of {window} tokens; expected at least one "
            f"batch of {config.batch_size}, give more text"
        )
    order = np.random.default_rng(config.seed).permutation(len(windows))
    whole = len(windows) // config.batch_size * config.batch_size
    return _Shuffled(windows, order[:whole].tolist())


def held_out_batches(
    config: DictionaryConfig, tokenizer: PreTrainedTokenizerBase, windows: Subset
) -> tuple[Tensor, ...]:
    """Batches of windows to measure on: of the held-out text, else the first that are trained on."""
    length = windows[0]["input_ids"].numel()
    most = max(1, config.validation_tokens // length)
    if config.validation is not None:
        ids = tokenize([read_plain_text(config.validation)], tokenizer, desc="tokenize validation")
        held_out = whole_windows(ids, length, tokenizer.bos_token_id)[:most]
        if not len(held_out):
            raise InputError(f"{config.validation}: {len(ids)} tokens; expected a window of {length}")
    else:
        held_out = torch.stack([windows[row]["input_ids"] for row in range(min(most, len(windows)))])
    return held_out.split(config.batch_size)
