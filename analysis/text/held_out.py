"""A text in windows for measuring, and windows of its end held out for checking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.text.windows import Windows, document_windows
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 512
"""Tokens of a window, where the model's context is not shorter."""

SHARE = 5
"""One in so many windows, the last ones, is held out."""

CHARACTERS = 16
"""Characters that are read of a text for each token that is asked for; tokens are shorter."""


@shown
@dataclass(frozen=True)
class SplitText:
    """A text in windows, those of the end held out."""

    windows: Windows
    held_out: Windows

    @property
    def record(self) -> dict[str, int]:
        """The numbers of tokens, for a record of what was measured."""
        return {"n_tokens": sum(map(len, self.windows)), "n_held_out": sum(map(len, self.held_out))}


def split_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, n_tokens: int
) -> SplitText:
    """The first `n_tokens` tokens of a text at most, the last fifth of their windows held out.

    Raises InputError for a text of fewer than two windows.
    """
    length = min(model.config.max_position_embeddings, LONGEST, n_tokens // SHARE)
    windows = document_windows(tokenizer, text[: CHARACTERS * n_tokens], length)[: n_tokens // length]
    windows = [window for window in windows if len(window) > 1]
    if len(windows) < 2:
        raise InputError(
            f"a text of {len(windows)} windows of {length} tokens; expected two or more, to take moments "
            "from some and R² from others: give a longer text"
        )
    n_held_out = max(1, len(windows) // SHARE)
    return SplitText(windows[:-n_held_out], windows[-n_held_out:])
