"""Tokens and texts: names of tokens, directions of tokens, and a text as windows."""

from analysis.text.tokens import (
    OutputDirection,
    TokenReading,
    direct_scores,
    parse_direction,
    read_tokens,
    token_direction,
    virtual_scores,
)
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import document_windows, mean_loss, prompt_ids, token_windows, window_losses

__all__ = [
    "OutputDirection",
    "TokenReading",
    "Vocabulary",
    "direct_scores",
    "document_windows",
    "mean_loss",
    "parse_direction",
    "prompt_ids",
    "read_tokens",
    "token_direction",
    "token_windows",
    "virtual_scores",
    "window_losses",
]
