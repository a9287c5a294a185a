"""Names for some features of several dictionaries, from one pass over a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from analysis.contexts import BATCH, Peaks, numbered
from analysis.vocabulary import Vocabulary
from analysis.windows import Windows, activations_on_windows, token_windows
from bilinear_lm.dictionary import Dictionary, Site
from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "<|endoftext|>"
"""What stands between the documents of a text file."""
_N_PEAKS = 10
_WIDTH = 10


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


def feature_names(
    model: nn.Module,
    dictionaries: Mapping[Site, Dictionary],
    wanted: Mapping[Site, Sequence[int]],
    windows: Windows,
    vocabulary: Vocabulary,
    skip: int = 0,
    progress: bool = False,
) -> dict[Site, dict[int, str]]:
    """The names of the wanted features as `Contexts.name` gives them: number, and tokens at its peaks.

    The first `skip` positions of each window are passed over (a beginning-of-sequence token). Memory and time
    grow with the features wanted, beside one run of the model over the text.
    """
    columns = {site: sorted(set(features)) for site, features in wanted.items() if features}
    best = {site: Peaks.none(dictionaries[site], _WIDTH, len(chosen)) for site, chosen in columns.items()}
    batches = activations_on_windows(model, windows, list(columns), BATCH, progress) if columns else ()
    for numbers, seen in batches:
        for site, chosen in columns.items():
            dictionary = dictionaries[site]
            code = dictionary.encode(seen[site].to(dictionary.device, dictionary.dtype))[..., chosen]
            best[site] = best[site].merged(Peaks.of(code, numbers, _N_PEAKS, _WIDTH, skip), _N_PEAKS)
    return {site: _names(peaks, columns[site], windows, vocabulary) for site, peaks in best.items()}


def _names(peaks: Peaks, chosen: list[int], windows: Windows, vocabulary: Vocabulary) -> dict[int, str]:
    """Names by number; the peaks are those of the features at places 0, 1, … in `chosen`."""
    found = peaks.contexts(windows)
    return {feature: numbered(feature, found.words(at, vocabulary)) for at, feature in enumerate(chosen)}
