"""Text for training: where it comes from, a tokenizer trained on it, and windows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    import datasets

BEGIN = "<|begin|>"
END_OF_TEXT = "<|endoftext|>"
"""Separates the documents of a text file, and is the end-of-text token of tokenizers trained here."""


def documents(source: str) -> Iterator[str]:
    """The documents of a text file, of a folder that `datasets` reads, or of a dataset on the hub.

    A text file holds documents separated by `<|endoftext|>`. A dataset's documents are the column
    `text` of its split `train`; one on the hub is streamed.
    """
    path = Path(source)
    if path.is_file():
        yield from _text_file_documents(path)
    else:
        for row in _dataset(source):
            if text := row["text"].strip():
                yield text


def _text_file_documents(path: Path) -> Iterator[str]:
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                *ends, rest = line.split(END_OF_TEXT)
                for end in ends:
                    if text := "".join([*lines, end]).strip():
                        yield text
                    lines = []
                lines.append(rest)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); expected a text file") from error
    if text := "".join(lines).strip():
        yield text


def _dataset(source: str) -> datasets.Dataset | datasets.IterableDataset:
    import datasets

    path = Path(source)
    try:
        if (path / "dataset_info.json").is_file():
            data = datasets.load_from_disk(source)
        else:
            data = datasets.load_dataset(source, split="train", streaming=not path.exists())
    except (OSError, ValueError, ConnectionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{source}: neither a text file, nor a folder or hub name that holds a dataset ({reason})"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        data = data["train"]
    if data.column_names is not None and "text" not in data.column_names:
        raise InputError(f"{source}: columns {', '.join(data.column_names)}; expected one named text")
    return data


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
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


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
    """What `tokenize` returns, in pieces of some hundred documents: for text that memory may not hold."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    count = 0
    remaining = iter(texts)
    with tqdm(desc=desc, unit=" tokens", total=limit) as bar:
        while (limit is None or count < limit) and (batch := list(islice(remaining, 256))):
            rows = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
            piece = np.array([token for row in rows for token in (*row, *end)], dtype=np.int32)
            piece = piece if limit is None else piece[: limit - count]
            count += len(piece)
            bar.update(len(piece))
            yield piece


def tokenize_source(
    source: str, tokenizer: PreTrainedTokenizerBase, *, limit: int | None = None
) -> np.ndarray:
    """`tokenize` of the documents of a source."""
    return tokenize(documents(source), tokenizer, limit=limit, desc=f"tokenize {Path(source).name}")


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

    What does not fill the last one is left out.
    """
    front = torch.tensor([] if first is None else [first], dtype=torch.long)
    width = context - len(front)
    rows = torch.tensor(tokens[: len(tokens) // width * width], dtype=torch.long).view(-1, width)
    return torch.cat([front.expand(len(rows), -1), rows], dim=1)


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
        generator = np.random.default_rng(seed)
        rows = [
            (index, start)
            for index, (stream, count) in enumerate(zip(streams, passes, strict=True))
            for start in self._starts(len(stream), count, generator)
        ]
        self.rows = np.array(rows, dtype=np.int64).reshape(-1, 2)

    def _starts(self, length: int, passes: float, generator: np.random.Generator) -> Iterator[int]:
        step = self.context - len(self.front)
        while passes > 0:
            starts = np.arange(generator.integers(step), length - step + 1, step)
            yield from generator.permutation(starts)[: round(len(starts) * min(passes, 1.0))]
            passes -= 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        stream, start = self.rows[index]
        window = self.streams[stream][start : start + self.context - len(self.front)]
        ids = torch.from_numpy(np.concatenate([self.front, window]).astype(np.int64))
        return {"input_ids": ids, "labels": ids}
