"""Low rank in perspective: how few eigenvectors it takes, over all features of the page and beside chance.

A feature that two eigenvectors explain says little alone. Here are all output features of the page as
histograms, with those of a dictionary turned at random (`analysis.report.nulls`) as a line over them, and the
feature that is chosen marked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.features.explained import Explained
from analysis.report.drawing import histogram
from analysis.report.features import FeatureData, Spectra
from analysis.report.nulls import RandomFeatures

SCRIPT = "features/perspective.js"

RANKS = (1, 2, 5)
"""Numbers of eigenvectors that are looked at."""


@dataclass(frozen=True)
class Distribution:
    """One number of all output features on the page, and of the dictionaries turned at random."""

    measure: str
    """The name by which the page's script finds it: rank, active, all or error."""
    k: int
    """How many eigenvectors; 0 for the effective rank."""
    values: Float[Tensor, " n"]
    random: Float[Tensor, " m"]


def distributions(data: FeatureData, exact_bounds: bool) -> tuple[Distribution, ...]:
    """The effective rank; the correlation with 1, 2, 5 eigenvectors, where active and everywhere; the error.

    The error is the largest that leaving the others out makes at any input, over the largest value of the
    feature's quadratic part at any input: on a ball |λ_{k+1}| / |λ_1|. It is there with `exact_bounds`, where
    a norm bounds the input and no biases are beside it. Numbers that do not exist are left out.
    """
    found = [_of(data, "rank", 0)]
    n_vectors = min(reading.explained.all_tokens.shape[1] for reading in data.layers)
    n_values = min(reading.spectra.values.shape[1] for reading in data.layers)
    for measure in ("active", "all"):
        found += [_of(data, measure, k) for k in RANKS if k <= n_vectors]
    if exact_bounds and all(reading.most is not None for reading in data.layers):
        found += [_of(data, "error", k) for k in RANKS if k < n_values]
    return tuple(found)


def _of(data: FeatureData, measure: str, k: int) -> Distribution:
    both = (
        torch.cat([_values(one.spectra, one.explained, measure, k) for one in data.layers]),
        torch.cat([_values(one.random, one.random.explained, measure, k) for one in data.layers]),
    )
    values, random = (side[side.isfinite()] for side in both)
    return Distribution(measure, k, values, random)


def _values(spectra: Spectra | RandomFeatures, explained: Explained, measure: str, k: int) -> Tensor:
    if measure == "rank":
        return spectra.effective_rank.cpu()
    if measure == "error":
        return error_of_rank(spectra.values, k).cpu()
    return (explained.active_tokens if measure == "active" else explained.all_tokens)[:, k - 1].cpu()


def error_of_rank(values: Float[Tensor, "n m"], k: int) -> Float[Tensor, " n"]:
    """|λ_{k+1}| / |λ_1|: the worst error over a ball of the k largest eigenvectors, in parts of that of none.

    `values` are eigenvalues by magnitude; NaN where all are 0.
    """
    sizes = values.abs()
    return sizes[:, k] / sizes[:, 0]


_TITLES = {
    "rank": "Effective rank",
    "active": "Correlation where active",
    "all": "Correlation at all tokens",
    "error": "Worst error, any input",
}

_ABOUT = {
    "rank": "How many eigenvectors share the work.",
    "active": "With what the largest eigenvectors give alone, at the tokens where the feature is active: the "
    "harder test.",
    "all": "The same at all tokens of the text, most of which the feature has nothing to do with.",
    "error": "The most that leaving the others out can change at any input, as a part of the largest value "
    "there is.",
}


def perspective_section(data: FeatureData, exact_bounds: bool) -> str:
    """The histograms by measure, with medians in words."""
    found = distributions(data, exact_bounds)
    groups = ""
    for measure, title in _TITLES.items():
        if figures := "".join(_figure(one) for one in found if one.measure == measure):
            groups += (
                f'<section class="measure"><h3>{title}</h3><p class="note">{_ABOUT[measure]}</p>'
                f'<div class="histograms">{figures}</div></section>'
            )
    return (
        '<section id="perspective" aria-labelledby="perspective-title"><h2 id="perspective-title">Low rank '
        'in perspective</h2><p class="prose">How few <dfn data-term="eigenvector">eigenvectors</dfn> explain '
        f"a feature, for all {len(found[0].values):,} output features of this page "
        '(<span class="p key">bars</span>), beside <dfn>chance</dfn>: the same dictionaries turned at random '
        f'({len(found[0].random):,} features, <span class="null key">line</span>). '
        f'<span id="perspective-shown"></span></p><div class="measures">{groups}</div></section>'
    )


def _figure(one: Distribution) -> str:
    low, high = _ends(one)
    median, random = (
        f"{float(side.median()):.3g}" if len(side) else "–" for side in (one.values, one.random)
    )
    name = "" if not one.k else f"{one.k} eigenvector{'s' if one.k > 1 else ''}: "
    says = f"A histogram. {_TITLES[one.measure]}. {name}median {median}; by chance {random}."
    return (
        f'<figure class="distribution" data-measure="{one.measure}" data-k="{one.k}">'
        f"{histogram(one.values, one.random, low, high, says)}"
        f'<p class="axis" aria-hidden="true"><span>{"−1" if low < 0 else "0"}</span>'
        f"<span>{high:.3g}</span></p>"
        f'<figcaption>{name}median <b>{median}</b>, by chance {random}<span class="this"></span></figcaption>'
        "</figure>"
    )


def _ends(one: Distribution) -> tuple[float, float]:
    """The ends of the axis: 0 to 1, from further down where more than a hundredth of the values lie there."""
    both = torch.cat([one.values, one.random])
    if one.measure != "rank":
        negative = len(both) > 0 and float(both.double().quantile(0.01)) < 0
        return (-1.0 if negative else 0.0), 1.0
    return (0.0, max(1.0, float(both.max()))) if len(both) else (0.0, 1.0)
