"""Text for training: a tokenizer trained on it, its tokens, and windows of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bilinear_lm.errors import InputError
from bilinear_lm.text.token_ids import PIECE, document_ids
from finetune.choices import TEXT_OF_TRAIN, Selection
from finetune.data.sources import END_OF_TEXT, documents

BEGIN = "<|begin|>"

_WORD_BEGINS = re.compile(r"(?<=\S) (?=\S)")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A lossless byte-level BPE tokenizer of at most `vocab_size` tokens, its special tokens among them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN, END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_parts(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def _parts(texts: Iterable[str]) -> Iterator[str]:
    """The texts, long ones in parts of the same words: a word begins at a blank after something else.

    A word of more characters than a tokenizer is given at once is cut all the same.
    """
    for text in texts:
        start = 0
        while len(text) - start > PIECE:
            stop = start + PIECE
            blank = _WORD_BEGINS.search(text, stop, stop + PIECE)
            stop = blank.start() if blank else stop
            yield text[start:stop]
            start = stop
        yield text[start:]


def tokenize(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    desc: str = "tokenize",
) -> np.ndarray:
    """All documents as one array of token ids, each followed by the end-of-text token if there is one.

    Stops after `limit` tokens.
    """
    pieces = list(token_pieces(texts, tokenizer, limit=limit, desc=desc))
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32)


def token_pieces(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    desc: str = "tokenize",
) -> Iterator[np.ndarray]:
    """`tokenize` piece by piece, for text that memory may not hold."""
    count = 0
    with tqdm(desc=desc, unit=" tokens", total=limit) as bar:
        for ids in document_ids(tokenizer, texts, tokenizer.eos_token_id):
            piece = ids if limit is None else ids[: limit - count]
            count += len(piece)
            bar.update(len(piece))
            yield piece
            if count == limit:
                return


def tokenize_source(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None = None,
    selection: Selection = TEXT_OF_TRAIN,
) -> np.ndarray:
    """`tokenize` of the documents of a source."""
    desc = f"tokenize {Path(source).name}"
    return tokenize(documents(source, selection), tokenizer, limit=limit, desc=desc)


def require_window(source: str, tokens: np.ndarray, context: int) -> None:
    """Raises InputError where the tokens of a source do not fill one window."""
    if len(tokens) < context:
        raise InputError(
            f"{source}: {len(tokens)} tokens of text, too short for one window of {context}; give more text"
        )


def whole_windows(
    tokens: Sequence[int] | np.ndarray, context: int, first: int | None
) -> Int[Tensor, "window pos"]:
    """The windows of a text one after the other, each with one first token in front if there is one.

    Tokens that do not fill a last window are left out.
    """
    front = torch.tensor([] if first is None else [first], dtype=torch.long)
    width = context - len(front)
    rows = torch.tensor(tokens[: len(tokens) // width * width], dtype=torch.long).view(-1, width)
    return torch.cat([front.expand(len(rows), -1), rows], dim=1)


MOST_WINDOWS = 1_000_000_000
"""The largest number of windows; the place of each in its text takes 16 bytes."""


class Windows(torch.utils.data.Dataset):
    """Windows of token streams for next-token training, each with one first token in front if there is one.

    Every pass over a stream cuts it at another random offset. `passes` may be fractions: a part of a
    pass takes that part of its windows. An item is {"input_ids", "labels"}: both [context].
    """

    def __init__(
        self,
        streams: Sequence[np.ndarray],
        passes: Sequence[float],
        *,
        context: int,
        first: int | None,
        seed: int,
    ):
        self.streams, self.context = streams, context
        self.front = [] if first is None else [first]
        step = context - len(self.front)
        total = sum(len(stream) // step * count for stream, count in zip(streams, passes, strict=True))
        longest = max(passes, default=0)
        if total > MOST_WINDOWS or longest > MOST_WINDOWS:
            raise InputError(
                f"{longest:,.0f} passes over the data, {total:,.0f} windows of {context} tokens; expected "
                f"at most {MOST_WINDOWS:,} of each, give fewer passes or tokens"
            )
        generator = np.random.default_rng(seed)
        rows = [
            np.stack([np.full_like(starts, index), starts], axis=1)
            for index, (stream, count) in enumerate(zip(streams, passes, strict=True))
            for starts in self._starts(len(stream), count, generator)
        ]
        self.rows = np.concatenate([np.zeros((0, 2), dtype=np.int64), *rows])

    def _starts(self, length: int, passes: float, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """The beginnings of the windows of each pass."""
        step = self.context - len(self.front)
        while passes > 0:
            starts = np.arange(generator.integers(step), length - step + 1, step)
            yield generator.permutation(starts)[: round(len(starts) * min(passes, 1.0))]
            passes -= 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        stream, start = self.rows[index]
        window = self.streams[stream][start : start + self.context - len(self.front)]
        ids = torch.from_numpy(np.concatenate([self.front, window]).astype(np.int64))
        return {"input_ids": ids, "labels": ids}
