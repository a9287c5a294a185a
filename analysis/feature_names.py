"""Names for some features of several dictionaries, from one pass over a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from analysis.contexts import Contexts, Peaks
from analysis.vocabulary import Vocabulary
from analysis.windows import Windows, token_windows, window_batches
from bilinear_lm.activations import site_activations
from bilinear_lm.dictionary import Dictionary, Site
from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "<|endoftext|>"
"""What stands between the documents of a text file."""
_N_PEAKS = 10
_WIDTH = 10
_BATCH = 4
"""Windows read at once: their codes, one number a feature and token, stay in a CPU's cache."""


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
    best = {site: _none(dictionaries[site], len(chosen)) for site, chosen in columns.items()}
    numbers: list[list[int]] = []

    def batches() -> Iterator[Tensor]:
        for batch, ids in window_batches(model, windows, _BATCH, progress):
            numbers.append(batch)
            yield ids

    for seen in site_activations(model, batches(), list(columns)) if columns else ():
        for site, chosen in columns.items():
            dictionary = dictionaries[site]
            code = dictionary.encode(seen[site].to(dictionary.device, dictionary.dtype))[..., chosen]
            best[site] = best[site].merged(Peaks.of(code, numbers[-1], _N_PEAKS, _WIDTH, skip), _N_PEAKS)
    return {site: _names(peaks, columns[site], windows, vocabulary) for site, peaks in best.items()}


def _none(dictionary: Dictionary, n: int) -> Peaks:
    values = dictionary.encoder.new_empty(n, 0)
    return Peaks(values, values.long(), values.long(), values.new_empty(n, 0, 2 * _WIDTH + 1))


def _names(peaks: Peaks, chosen: list[int], windows: Windows, vocabulary: Vocabulary) -> dict[int, str]:
    """Names by number; `Contexts` counts from 0."""
    found = Contexts(
        values=peaks.values.cpu(),
        window=peaks.window.cpu(),
        position=peaks.position.cpu(),
        around=peaks.around.cpu(),
        windows=tuple(tuple(window) for window in windows),
    )
    names = (found.name(place, vocabulary).removeprefix(f"#{place}") for place in range(len(chosen)))
    return {feature: f"#{feature}{name}" for feature, name in zip(chosen, names, strict=True)}
