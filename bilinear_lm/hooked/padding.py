"""Padding of token ids: which positions of a batch are text and which are padding.

Ids alone tell them apart only where padding cannot be text. Unclear ids are an error: a model that takes
padding for text, or text for padding, gives wrong numbers without a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bilinear_lm.errors import InputError

Side = Literal["left", "right"]


@dataclass(frozen=True)
class PaddingToken:
    """A tokenizer's padding token, and the special tokens of text, which may be the same token."""

    pad: int
    bos: int | None
    eos: int | None
    unk: int | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> PaddingToken | None:
        """The padding token of a tokenizer; None where it has none."""
        if tokenizer.pad_token_id is None:
            return None
        return cls(
            tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
        )

    def n_before(
        self, ids: Int[Tensor, "batch pos"], side: Side | None, with_bos: bool
    ) -> Int[Tensor, " batch"]:
        """The number of padding positions in front of each row; InputError where ids do not tell.

        `side` is the side of the padding, if that is known. `with_bos`: text begins with the
        beginning-of-sequence token; where that is also the padding token, one of them counts as text.
        """
        run = _run(ids, self.pad)
        if side == "right":
            return torch.zeros_like(run)
        if side == "left":
            return (run - 1).clamp(min=0) if with_bos and self.bos == self.pad else run
        if self.bos == self.pad:
            if int(run.max()) > 1 or int(run.min()) != int(run.max()):
                raise self._unclear("begins", int(run.argmax()))
            return torch.zeros_like(run)
        following = ids.gather(1, run.clamp(max=ids.shape[1] - 1).unsqueeze(1)).squeeze(1)
        # In front of the beginning of a sequence there is no text.
        unclear = (run > 0) & ((run == ids.shape[1]) | (following != (-1 if self.bos is None else self.bos)))
        if unclear.any():
            raise self._unclear("begins", int(unclear.int().argmax()))
        return run

    def n_after(self, ids: Int[Tensor, "batch pos"], side: Side | None) -> Int[Tensor, " batch"]:
        """The number of padding positions at the end of each row; InputError where ids do not tell."""
        run = _run(ids.flip(1), self.pad)
        if side == "left":
            return torch.zeros_like(run)
        if side == "right" or self.pad not in (self.bos, self.eos, self.unk):
            return run
        if int(run.max()) > 1 or int(run.min()) != int(run.max()):
            raise self._unclear("ends", int(run.argmax()))
        return torch.zeros_like(run)

    def _unclear(self, where: str, row: int) -> InputError:
        text, padding = ("right", "left") if where == "begins" else ("left", "right")
        return InputError(
            f"row {row} of the token ids {where} with the padding token ({self.pad}), which may be text "
            "there; give attention_mask (1 at text, 0 at padding), or padding_side: "
            f"{padding!r} where it is padding, {text!r} where it is text"
        )


def text_mask(
    ids: Int[Tensor, "batch pos"], before: Int[Tensor, " batch"], after: Int[Tensor, " batch"] | None = None
) -> Int[Tensor, "batch pos"] | None:
    """1 at text and 0 at padding in front and at the end; None where all is text."""
    position = torch.arange(ids.shape[1], device=ids.device)
    mask = position >= before.unsqueeze(1)
    if after is not None:
        mask &= position < ids.shape[1] - after.unsqueeze(1)
    return None if bool(mask.all()) else mask.long()


def positions(mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Positions counted from the first token of each text; 0 at padding in front."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def padded(rows: Sequence[Int[Tensor, " _pos"]], pad: int, side: Side) -> tuple[Tensor, Tensor | None]:
    """Token ids of several texts as one batch [batch, pos], and its mask (see `text_mask`)."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long, device=rows[0].device)
    missing = torch.tensor([width - len(row) for row in rows], device=ids.device)
    for row, target in zip(rows, ids, strict=True):
        (target[width - len(row) :] if side == "left" else target[: len(row)]).copy_(row)
    none = torch.zeros_like(missing)
    return ids, text_mask(ids, missing, none) if side == "left" else text_mask(ids, none, missing)


def _run(ids: Tensor, pad: int) -> Tensor:
    """The number of padding tokens at the beginning of each row."""
    return (ids == pad).long().cumprod(dim=1).sum(dim=1)
