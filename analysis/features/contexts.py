"""Where the features of dictionaries are most active in a text, and their names, in one pass over it.

The processes of a torch.distributed group share the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor, nn

from analysis.features.naming import PEAKS, WIDTH, names_of_peaks, tokens_of
from analysis.features.peaks import Contexts, Peaks
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import Windows, activations_on_windows, batches_of
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import gather_rows, together
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site
from bilinear_lm.weights import embedding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 4
"""Windows read at once: their codes, one number a feature and token, stay in a CPU's cache."""


@checked
def top_contexts(
    model: nn.Module,
    dictionary: Dictionary,
    windows: Windows,
    k: int = 10,
    width: int = 10,
    skip: int = 0,
    batch_size: int = BATCH,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = False,
) -> Contexts:
    """The k highest peaks of every feature of a dictionary in the windows of a text.

    With the `tokenizer` they hold the texts of tokens, for notebooks, and the name of every feature. Names do
    not depend on k and width.

    The first `skip` positions of each window are passed over (a beginning-of-sequence token). Of equal
    peaks the earlier in the text comes first; where not all fit, any of them are left out.
    """
    site = dictionary.site
    if site is None:
        raise InputError("a dictionary without a site; load it with site=Site(layer, point)")
    got = f"k={k} contexts, width={width}, skip={skip}"
    for count, least in ((k, 1), (width, 0), (skip, 0)):
        require_count(count, got, "at least 1, 0 and 0", least=least)
    require_count(batch_size, f"batch_size={batch_size} windows")
    vocabulary = None if tokenizer is None else Vocabulary.of(tokenizer, embedding(model).shape[0])
    text = _on_text(model, {site: dictionary}, windows, k, width, skip, batch_size, vocabulary, progress)
    return text[site].contexts


@shown
@dataclass(frozen=True)
class Activity:
    """Where the features of a dictionary are active in a text."""

    contexts: Contexts
    n_active: Int[Tensor, " n_feat"]
    """Tokens where a feature's code is not zero."""

    def most_active(self, n: int) -> Int[Tensor, " k"]:
        """The n features active at most tokens, in the order of their numbers."""
        return self.n_active.argsort(descending=True, stable=True)[:n].sort().values


def activity_on_text(
    model: nn.Module,
    dictionaries: Mapping[Site, Dictionary],
    windows: Windows,
    k: int,
    width: int,
    skip: int = 0,
    vocabulary: Vocabulary | None = None,
    progress: bool = False,
) -> dict[Site, Activity]:
    """Contexts of every dictionary as by `top_contexts`, and the number of active tokens.

    The first `skip` positions of each window do not count. With the `vocabulary` features are named.
    """
    return _on_text(model, dictionaries, windows, k, width, skip, BATCH, vocabulary, progress)


def feature_names(
    model: nn.Module,
    dictionaries: Mapping[Site, Dictionary],
    windows: Windows,
    vocabulary: Vocabulary,
    skip: int = 0,
    progress: bool = False,
) -> dict[Site, tuple[str, ...]]:
    """The names of all features of dictionaries on a text, without their numbers, such as `␣the, ␣a`.

    No two of a dictionary are the same (`analysis.features.names` has the rule). The first `skip` positions
    of each window are passed over (a beginning-of-sequence token).
    """
    if not dictionaries:
        return {}
    text = _on_text(model, dictionaries, windows, PEAKS, WIDTH, skip, BATCH, vocabulary, progress)
    return {site: activity.contexts.names for site, activity in text.items()}


def _on_text(
    model: nn.Module,
    dictionaries: Mapping[Site, Dictionary],
    windows: Windows,
    k: int,
    width: int,
    skip: int,
    batch_size: int,
    vocabulary: Vocabulary | None,
    progress: bool,
) -> dict[Site, Activity]:
    """The activity of dictionaries in one pass over a text."""
    wanted = {"shown": (k, width)}
    if vocabulary is not None and (width != WIDTH or k < PEAKS):
        wanted["named"] = (PEAKS, WIDTH)
    best = {
        (site, use): Peaks.none(one, size, one.n_feat)
        for site, one in dictionaries.items()
        for use, (_, size) in wanted.items()
    }
    counts = {site: torch.zeros(one.n_feat, dtype=torch.long) for site, one in dictionaries.items()}
    sites = list(dictionaries)
    with together() as worker:
        own = worker.of(len(batches_of(windows, batch_size)))
        for numbers, seen in activations_on_windows(model, windows, sites, batch_size, progress, own):
            for site, dictionary in dictionaries.items():
                code = dictionary.encode(seen[site].to(dictionary.device, dictionary.dtype))
                for use, (most, size) in wanted.items():
                    best[site, use] = best[site, use].merged(Peaks.of(code, numbers, most, size, skip), most)
                counts[site] += (code[:, skip:] != 0).sum(dim=(0, 1)).cpu()
    if worker.world > 1:
        best = {(site, use): peaks.of_all(wanted[use][0]) for (site, use), peaks in best.items()}
        counts = {site: gather_rows(count.unsqueeze(0)).sum(0) for site, count in counts.items()}
    text = tuple(tuple(window) for window in windows)  # all contexts share the windows of one copy
    found = {site: Activity(best[site, "shown"].contexts(text), counts[site]) for site in dictionaries}
    if vocabulary is None:
        return found
    listed = tokens_of(windows, skip)
    for site, dictionary in dictionaries.items():
        contexts = found[site].contexts
        peaks = best[site, "named"].contexts(text) if "named" in wanted else contexts
        names = names_of_peaks(model, dictionary, site, peaks, listed, vocabulary)
        found[site] = replace(found[site], contexts=replace(contexts, vocabulary=vocabulary, names=names))
    return found
