"""Where the features of a dictionary are most active in a text, and names made of that.

Each feature keeps its k highest peaks: tokens where its code is positive and the largest within `width`
tokens to both sides, so that one passage does not fill the list. One pass over the text, with n_feat · k
windows of 2 width + 1 codes in memory. The processes of a torch.distributed group share the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import max_pool1d, pad

from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import Windows, activations_on_windows, batches_of
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import gather_rows, together
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown, shown_by
from bilinear_lm.sites import Site
from bilinear_lm.weights import embedding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 4
"""Windows read at once: their codes, one number a feature and token, stay in a CPU's cache."""


@dataclass(frozen=True)
class Context:
    """A passage around a peak of a feature."""

    tokens: tuple[int, ...]
    activations: tuple[float, ...]
    """The feature's code at each of the tokens."""
    peak: int
    """Which of the tokens is the peak."""
    window: int
    """The number of the window that it was found in."""


@shown
@dataclass(frozen=True)
class Contexts:
    """The highest peaks of every feature of a dictionary in a text, highest first."""

    values: Float[Tensor, "n_feat k"]
    """Code at the peak; 0 where a feature has fewer peaks."""
    window: Int[Tensor, "n_feat k"]
    position: Int[Tensor, "n_feat k"]
    around: Float[Tensor, "n_feat k span"]
    """Codes from `width` tokens before the peak to `width` after it; 0 beyond the window."""
    windows: tuple[tuple[int, ...], ...]
    """The text."""
    vocabulary: Vocabulary | None = None
    """Texts of the tokens, where a tokenizer was given."""

    _repr_html_ = shown_by("analysis.report.notebook", "contexts_html")

    def _first(self) -> dict[str, Any]:
        return {"n_feat": len(self.values), "never_active": int((self.values[:, 0] == 0).sum())}

    def of(self, feature: int) -> tuple[Context, ...]:
        """The contexts of a feature, highest peak first; none of a feature that is never active."""
        require_index(feature, len(self.values), "feature")
        n_peaks = int((self.values[feature] > 0).sum())
        return tuple(self._context(feature, rank) for rank in range(n_peaks))

    def _context(self, feature: int, rank: int) -> Context:
        number, position = int(self.window[feature, rank]), int(self.position[feature, rank])
        width, window = self.around.shape[-1] // 2, self.windows[number]
        start, end = max(0, position - width), min(len(window), position + width + 1)
        codes = self.around[feature, rank, start - position + width : end - position + width]
        return Context(window[start:end], tuple(codes.tolist()), position - start, number)

    def name(self, feature: int, vocabulary: Vocabulary | None = None, n_tokens: int = 3) -> str:
        """A feature in a few words: its number and its `words`, as in `#12 ␣the, ␣a`."""
        return numbered(feature, self.words(feature, vocabulary, n_tokens))

    def words(self, feature: int, vocabulary: Vocabulary | None = None, n_tokens: int = 3) -> str:
        """The different tokens at a feature's highest peaks; empty for a feature that is never active."""
        vocabulary = vocabulary or self.vocabulary
        if vocabulary is None:
            raise InputError(
                "contexts without a vocabulary; make them with tokenizer=, or give the vocabulary"
            )
        peaks = dict.fromkeys(context.tokens[context.peak] for context in self.of(feature))
        return ", ".join(vocabulary.label(token) for token in list(peaks)[:n_tokens])


def numbered(feature: int, words: str) -> str:
    """A feature's number and words, `#12 ␣the, ␣a`; the number alone where there are no words."""
    return f"#{feature} {words}" if words else f"#{feature}"


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

    With the `tokenizer` they hold the texts of tokens, for `Contexts.name` and for notebooks.

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
    text = _on_text(model, {site: dictionary}, {}, windows, k, width, skip, batch_size, progress)
    contexts = text[site].contexts
    if tokenizer is None:
        return contexts
    return replace(contexts, vocabulary=Vocabulary.of(tokenizer, embedding(model).shape[0]))


@shown
@dataclass(frozen=True)
class Peaks:
    """The highest peaks found so far, for whoever reads a text for several dictionaries at once.

    Columns as in `Contexts`.
    """

    values: Tensor
    window: Tensor
    position: Tensor
    around: Tensor

    @classmethod
    def none(cls, dictionary: Dictionary, width: int, n: int) -> Peaks:
        """No peaks yet, of n features."""
        values = dictionary.encoder.new_empty(n, 0)
        return cls(values, values.long(), values.long(), values.new_empty(len(values), 0, 2 * width + 1))

    @classmethod
    def of(cls, code: Tensor, numbers: list[int], k: int, width: int, skip: int) -> Peaks:
        """The k highest peaks of each feature in codes [batch, pos, n_feat], in the order of the text."""
        by_feature = code.permute(2, 0, 1)
        kept = by_feature.clone()
        kept[..., :skip] = 0
        highest = max_pool1d(kept, 2 * width + 1, stride=1, padding=width)
        flat = torch.where(kept == highest, kept, 0.0).flatten(1)
        indices = flat.topk(min(k, flat.shape[1]), dim=1, sorted=False).indices.sort(dim=1).values
        values = flat.gather(1, indices)
        # Where there is no peak any more, topk takes zeros from anywhere: they are put at the beginning.
        indices = torch.where(values == 0, 0, indices)
        row, position = indices // code.shape[1], indices % code.shape[1]
        steps = torch.arange(2 * width + 1, device=code.device)
        feature = torch.arange(len(flat), device=code.device)[:, None, None]
        around = pad(by_feature, (width, width))[feature, row[..., None], position[..., None] + steps]
        return cls(values, torch.tensor(numbers, device=code.device)[row], position, around)

    def merged(self, other: Peaks, k: int) -> Peaks:
        """The k highest of both, highest first; `other` comes later in the text."""
        values = torch.cat([self.values, other.values], dim=1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
        feature = torch.arange(len(values), device=values.device)[:, None]
        rest = ((self.window, other.window), (self.position, other.position), (self.around, other.around))
        columns = (torch.cat(pair, dim=1)[feature, order] for pair in rest)
        return Peaks(values.gather(1, order), *columns)

    def of_all(self, k: int) -> Peaks:
        """The k highest of all processes of a group, each with those of its part of the text."""
        columns = (gather_rows(column.transpose(0, 1)).transpose(0, 1) for column in vars(self).values())
        return Peaks.merged(Peaks(*(column[:, :0] for column in vars(self).values())), Peaks(*columns), k)

    def contexts(self, windows: Windows) -> Contexts:
        """The peaks on the CPU, with the text that they were found in."""
        return Contexts(
            values=self.values.cpu(),
            window=self.window.cpu(),
            position=self.position.cpu(),
            around=self.around.cpu(),
            windows=tuple(tuple(window) for window in windows),
        )


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
    progress: bool = False,
) -> dict[Site, Activity]:
    """Contexts of every dictionary as by `top_contexts`, and the number of active tokens.

    The first `skip` positions of each window do not count.
    """
    return _on_text(model, dictionaries, {}, windows, k, width, skip, BATCH, progress)


_NAMING = 10
"""Peaks of a feature that is to be named, and tokens between them."""


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
    if not columns:
        return {}
    named = {site: dictionaries[site] for site in columns}
    text = _on_text(model, named, columns, windows, _NAMING, _NAMING, skip, BATCH, progress)
    return {
        site: {
            feature: numbered(feature, text[site].contexts.words(at, vocabulary))
            for at, feature in enumerate(chosen)
        }
        for site, chosen in columns.items()
    }


def _on_text(
    model: nn.Module,
    dictionaries: Mapping[Site, Dictionary],
    columns: Mapping[Site, list[int]],
    windows: Windows,
    k: int,
    width: int,
    skip: int,
    batch_size: int,
    progress: bool,
) -> dict[Site, Activity]:
    """The activity of dictionaries in one pass over a text: of all features, or of `columns` of a site."""
    n_feat = {site: len(columns.get(site, range(one.n_feat))) for site, one in dictionaries.items()}
    best = {site: Peaks.none(one, width, n_feat[site]) for site, one in dictionaries.items()}
    counts = {site: torch.zeros(n, dtype=torch.long) for site, n in n_feat.items()}
    sites = list(dictionaries)
    with together() as worker:
        own = worker.of(len(batches_of(windows, batch_size)))
        for numbers, seen in activations_on_windows(model, windows, sites, batch_size, progress, own):
            for site, dictionary in dictionaries.items():
                code = dictionary.encode(seen[site].to(dictionary.device, dictionary.dtype))
                if site in columns:
                    code = code[..., columns[site]]
                best[site] = best[site].merged(Peaks.of(code, numbers, k, width, skip), k)
                counts[site] += (code[:, skip:] != 0).sum(dim=(0, 1)).cpu()
    if worker.world > 1:
        best = {site: peaks.of_all(k) for site, peaks in best.items()}
        counts = {site: gather_rows(count.unsqueeze(0)).sum(0) for site, count in counts.items()}
    text = tuple(tuple(window) for window in windows)  # all contexts share the windows of one copy
    return {site: Activity(peaks.contexts(text), counts[site]) for site, peaks in best.items()}
