"""Names for the features of a model's dictionaries: of peaks in a text and weights, and a user's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from analysis.features.names import N_TOKENS, PeakTokens, unique_names
from analysis.features.peaks import Contexts
from analysis.features.weight_tokens import token_verb, weight_tokens
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import Windows
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.sites import Site

PEAKS, WIDTH = 8, 12
"""Peaks of a feature that it is named by, and tokens to both sides among which each is the highest."""


def names_of_peaks(
    model: nn.Module,
    dictionary: Dictionary,
    site: Site,
    peaks: Contexts,
    listed: Sequence[int],
    vocabulary: Vocabulary,
) -> tuple[str, ...]:
    """The names of all features by their `PEAKS` highest peaks; `listed` are the tokens of the text."""
    tokens = PeakTokens.of(
        peaks.values[:, :PEAKS], peaks.window[:, :PEAKS], peaks.position[:, :PEAKS], peaks.windows
    )
    return _names(model, dictionary, site, tokens, listed, vocabulary)


def names_by_weights(
    model: nn.Module, dictionary: Dictionary, site: Site, vocabulary: Vocabulary
) -> tuple[str, ...]:
    """The names of all features where there is no text: each by tokens that it acts on.

    Time grows with n_feat · d_model · d_vocab.
    """
    none = torch.zeros(dictionary.n_feat, 1)
    tokens = PeakTokens(none, *[torch.full_like(none, -1, dtype=torch.long)] * 3)
    return _names(model, dictionary, site, tokens, vocabulary.words, vocabulary)


def _names(
    model: nn.Module,
    dictionary: Dictionary,
    site: Site,
    peaks: PeakTokens,
    listed: Sequence[int],
    vocabulary: Vocabulary,
) -> tuple[str, ...]:
    tokens = torch.tensor(listed)

    def by_weights(features: Int[Tensor, " n"]) -> Int[Tensor, "n k"]:
        return weight_tokens(model, dictionary, site, features, tokens, N_TOKENS + 1).top.cpu()

    return unique_names(peaks, vocabulary.label, by_weights, token_verb(site))


def tokens_of(windows: Windows, skip: int) -> list[int]:
    """The tokens that occur in a text, ascending; the first `skip` of each window do not count."""
    return sorted({token for window in windows for token in window[skip:]})
