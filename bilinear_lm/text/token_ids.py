"""`token_ids`: the tokens of a text of any length, in bounded memory.

A tokenizer takes some 200 bytes a character for a text that it is given whole. So a long text is given in
pieces that overlap, and two neighbours are joined where they agree: at a character from which both have the
same tokens. The tokens are those of the whole text. Where tokens are merged by rank (BPE) this is a theorem:
a sequence of tokens is the result for its text if each two neighbours in it are the result for theirs, and in
the joined sequence each two are neighbours in a piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE = 1 << 17
"""Characters that a tokenizer is given at once."""

OVERLAP = 1 << 12
"""Characters that two pieces have in common."""

LARGEST = 1 << 24
"""Characters that a piece may grow to where it cannot be joined with the next."""

BATCH = 8 * PIECE
"""Characters of texts that a tokenizer is given side by side."""

_TEXTS = 256
"""Largest number of texts side by side."""

_AGREEING = 8
"""Tokens that must be the same in both pieces from the join on."""

_TRIES = 8
"""Places of each sort that are tried as the beginning of the next piece."""


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Int[np.ndarray, " pos"]:
    """The tokens of a text, without special tokens around them: `tokenizer.encode`, in bounded memory.

    >>> token_ids(tokenizer, "Once upon a time")  # doctest: +SKIP
    array([ 430,  435,  261,  377], dtype=int32)
    """
    return np.concatenate(list(token_id_pieces(tokenizer, text)))


def token_id_pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[Int[np.ndarray, " _pos"]]:
    """`token_ids` piece by piece.

    Raises InputError for a text that cannot be cut: more than `LARGEST` characters in a row whose tokens
    depend on each other, such as one word of millions of letters for a tokenizer that looks up whole words.
    """
    if len(text) <= PIECE or not tokenizer.is_fast:  # the others do not say where their tokens lie
        yield _whole(tokenizer, [text], end=[])
        return
    left, begin = _piece(tokenizer, text, 0, PIECE), 0
    while left.stop < len(text):
        joined = _next(tokenizer, text, left)
        if joined is None:
            left = _longer(tokenizer, text, left)
            continue
        right, position = joined
        yield left.ids[left.first(begin) : left.first(position)]
        left, begin = right, position
    yield left.ids[left.first(begin) :]


def document_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], end: int | None
) -> Iterator[Int[np.ndarray, " _pos"]]:
    """The tokens of texts, each followed by the token `end` if there is one, piece by piece."""
    ends = [] if end is None else [end]
    waiting: list[str] = []
    for text in texts:
        if len(text) > PIECE:
            if waiting:
                yield _whole(tokenizer, waiting, ends)
            waiting = []
            yield from token_id_pieces(tokenizer, text)
            yield np.array(ends, dtype=np.int32)
            continue
        waiting.append(text)
        if len(waiting) == _TEXTS or sum(map(len, waiting)) >= BATCH:
            yield _whole(tokenizer, waiting, ends)
            waiting = []
    if waiting:
        yield _whole(tokenizer, waiting, ends)


def _whole(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end: Sequence[int]) -> np.ndarray:
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return np.array([token for row in rows for token in (*row, *end)], dtype=np.int32)


@dataclass(frozen=True)
class _Piece:
    """The tokens of text[start:stop] and the characters of the text that each lies over."""

    start: int
    stop: int
    ids: np.ndarray  # [pos]
    spans: np.ndarray  # [pos, 2]

    def first(self, position: int) -> int:
        """Index of the first token that begins at a character or after it."""
        return int(np.searchsorted(self.spans[:, 0], position))

    def agrees(self, other: _Piece, position: int) -> bool:
        """Whether both pieces have the same tokens from a character on."""
        here, there = self.first(position), other.first(position)
        own, its = slice(here, here + _AGREEING), slice(there, there + _AGREEING)
        return (
            len(self.ids[own]) == _AGREEING
            and np.array_equal(self.ids[own], other.ids[its])
            and np.array_equal(self.spans[own], other.spans[its])
        )


def _piece(tokenizer: PreTrainedTokenizerBase, text: str, start: int, length: int) -> _Piece:
    encoded = tokenizer(
        text[start : start + length],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    spans = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2) + start
    ids = np.array(encoded["input_ids"], dtype=np.int32)
    return _Piece(start, min(start + length, len(text)), ids, spans)


def _longer(tokenizer: PreTrainedTokenizerBase, text: str, piece: _Piece) -> _Piece:
    length = 2 * (piece.stop - piece.start)
    if length > LARGEST:
        raise InputError(
            f"a text of {len(text)} characters cannot be tokenised in parts: {piece.stop - piece.start} of "
            f"them, from number {piece.start} on, hang together; expected blanks or line breaks between words"
        )
    return _piece(tokenizer, text, piece.start, length)


def _next(tokenizer: PreTrainedTokenizerBase, text: str, left: _Piece) -> tuple[_Piece, int] | None:
    """The next piece, and a character from which both have the same tokens; None where there is none."""
    if not _in_order(left):
        return None
    for start in _starts(text, left):
        right = _piece(tokenizer, text, start, PIECE)
        if not _in_order(right):
            continue
        for position in np.intersect1d(left.spans[left.first(start + 1) :, 0], right.spans[:, 0]).tolist():
            if left.agrees(right, position):
                return right, position
    return None


def _in_order(piece: _Piece) -> bool:
    """Whether tokens are in the order of their characters; they are not where a text is reordered."""
    return bool((np.diff(piece.spans[:, 0]) >= 0).all())


def _starts(text: str, left: _Piece) -> Iterator[int]:
    """Characters at which the next piece may begin: before blanks, else before a token, else anywhere near.

    Some tokenizers count from the beginning of a word (digits by threes, say); their pieces agree only from
    one of the tokenizer's own boundaries. Where a tokenizer puts a blank in front of a text, they agree only
    from one character before these.
    """
    middle = left.stop - OVERLAP
    begins = left.spans[left.first(middle) : left.first(left.stop - OVERLAP // 2), 0]
    begins = np.unique(begins[begins > left.start])
    blank = [start for start in begins.tolist() if text[start].isspace() and not text[start - 1].isspace()]
    tried = set()
    for start in (*blank[:_TRIES], *begins[:_TRIES].tolist(), *range(middle, middle + 2 * _TRIES)):
        if start not in tried and left.start < start < left.stop:
            tried.add(start)
            yield start
