"""Findings about dictionary features: one of few eigenvectors, a pair of opposites, a certified bound.

Words of a feature are those at its peaks. Only features that are active at `LEAST_ACTIVE` tokens of the text
or more are looked at: of others the text says too little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from analysis.features.explained import Explained
from analysis.features.peaks import Context
from analysis.graphs.graph import Graph
from analysis.report.features import FeatureData, FeatureReading, Side, with_two
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.sites import Site

LEAST_ACTIVE = 20
LEAST_PURITY = 0.75
LEAST_CORRELATION = 0.9
MOST_COSINE, MOST_SIMILARITY = -0.7, -0.5
LEAST_REACHED = 0.25

AROUND = 6
"""Tokens of a passage to both sides of its peak."""


@dataclass(frozen=True)
class FeatureShown:
    """An output feature, and the passage where it is most active."""

    layer: int
    site: Site
    """The site that it is a feature of."""
    feature: int
    name: str
    """Its name, without the number."""
    passage: Context


@dataclass(frozen=True)
class FewEigenvectors:
    """An output feature that stands for one word, and whose circuit is two eigenvectors.

    Rule: of the features whose peaks are at one word in three of four passages or more, the one that what two
    eigenvectors give follows best where it is active; correlation 0.9 or more. Those of layer 0, which a
    word's embedding alone can give, count only where no later layer is shown.
    """

    shown: FeatureShown
    correlation: float
    """The correlation of the feature, where it is active, with its two largest eigenvectors."""
    everywhere: float
    """The same at all tokens of the text."""
    n_eigenvectors: int
    """2, or 1 where no more are read."""
    of: int
    """How many eigenvectors there are."""
    n_active: int
    word: str
    """The word at most of its peaks."""
    purity: float
    """The part of its passages whose peak is at that word."""
    n_passages: int
    median: float
    """The median correlation of all output features shown."""
    random: float
    """The median of a dictionary turned at random."""


@dataclass(frozen=True)
class OppositeFeatures:
    """Two output features that write in opposite directions, and that compute the opposite.

    Rule: of the pairs of a layer with a cosine of what they write of −0.7 or less, and a similarity of their
    interaction matrices of −0.5 or less, the one where the sum of both is lowest.
    """

    left: FeatureShown
    right: FeatureShown
    cosine: float
    similarity: float
    n_features: int
    """Features among which the pair was looked for."""
    lowest_random: float
    """The lowest cosine among as many random directions."""
    similarity_of_others: float
    """The median |similarity| of random pairs."""


@dataclass(frozen=True)
class FeatureBound:
    """An output feature beside the largest value that any input of its layer can give it.

    Rule: the feature whose largest value in the text comes nearest to its bound; a quarter of it or more.
    """

    shown: FeatureShown
    most: float
    """No input gives more."""
    reached: float
    """The largest value in the text."""
    median: float
    """The median of reached / most over all output features shown."""


def has_circuit(graphs: Sequence[Graph], shown: FeatureShown) -> bool:
    """Whether one of the graphs is the circuit of a feature, by weights alone."""
    targets = (graph.node(graph.target) for graph in graphs if not graph.on_prompt)
    return any(
        (target.kind, target.site, target.index) == ("feature", str(shown.site), shown.feature)
        for target in targets
    )


def few_eigenvectors(data: FeatureData, vocabulary: Vocabulary) -> FewEigenvectors | None:
    """The finding that `FewEigenvectors` describes; None where no feature is good enough."""
    best: tuple[float, FeatureReading, int, int, float] | None = None
    later = any(reading.layer for reading in data.layers)
    for reading, index in _active(data):
        if later and not reading.layer:
            continue
        correlation = float(with_two(reading.explained.active_tokens)[index])
        if correlation < LEAST_CORRELATION or (best is not None and correlation <= best[0]):
            continue
        word, purity = purest_word(reading.outputs, index)
        if purity >= LEAST_PURITY and _is_word(vocabulary, word):
            best = correlation, reading, index, word, purity
    if best is None:
        return None
    correlation, reading, index, word, purity = best
    feature = int(reading.outputs.features[index])
    return FewEigenvectors(
        shown=_shown(reading, index, vocabulary),
        correlation=correlation,
        everywhere=float(with_two(reading.explained.all_tokens)[index]),
        n_eigenvectors=min(2, reading.explained.active_tokens.shape[1]),
        of=reading.spectra.vectors.shape[-1],
        n_active=int(reading.outputs.n_active[index]),
        word=vocabulary.label(word),
        purity=purity,
        n_passages=len(reading.outputs.contexts.of(feature)),
        median=_median([part.explained for part in data.layers]),
        random=_median([part.random.explained for part in data.layers]),
    )


def opposite_features(data: FeatureData, vocabulary: Vocabulary) -> OppositeFeatures | None:
    """The finding that `OppositeFeatures` describes; None where no pair is good enough."""
    best: tuple[float, FeatureReading, int] | None = None
    for reading in data.layers:
        pairs = reading.opposition.pairs
        for place, (cosine, similarity) in enumerate(
            zip(pairs.cosines.tolist(), pairs.similarity.tolist(), strict=True)
        ):
            ends = [int(pairs.left[place]), int(pairs.right[place])]
            enough = all(int(reading.outputs.n_active[end]) >= LEAST_ACTIVE for end in ends)
            if not enough or cosine > MOST_COSINE or similarity > MOST_SIMILARITY:
                continue
            if best is None or cosine + similarity < best[0]:
                best = cosine + similarity, reading, place
    if best is None:
        return None
    _, reading, place = best
    opposition, pairs = reading.opposition, reading.opposition.pairs
    left, right = (_shown(reading, int(side[place]), vocabulary) for side in (pairs.left, pairs.right))
    return OppositeFeatures(
        left=left,
        right=right,
        cosine=float(pairs.cosines[place]),
        similarity=float(pairs.similarity[place]),
        n_features=len(reading.outputs.features),
        lowest_random=opposition.lowest_random,
        similarity_of_others=opposition.similarity_of_others,
    )


def feature_bound(data: FeatureData, vocabulary: Vocabulary) -> FeatureBound | None:
    """The finding that `FeatureBound` describes; None without certified ranges, or where none is near."""
    shares = {
        reading.layer: _reached(reading) / reading.most.cpu()
        for reading in data.layers
        if reading.most is not None
    }
    ranked = [
        (float(shares[reading.layer][index]), reading, index)
        for reading, index in _active(data)
        if reading.most is not None and float(reading.most[index]) > 0
    ]
    if not ranked:
        return None
    share, reading, index = max(ranked, key=lambda entry: entry[0])
    if share < LEAST_REACHED or reading.most is None:
        return None
    return FeatureBound(
        shown=_shown(reading, index, vocabulary),
        most=float(reading.most[index]),
        reached=float(_reached(reading)[index]),
        median=float(torch.cat(list(shares.values())).nanmedian()),
    )


def purest_word(side: Side, index: int) -> tuple[int, float]:
    """The token at most of a feature's peaks, and the part of its passages whose peak is there.

    A feature without peaks has purity 0.
    """
    contexts = side.contexts.of(int(side.features[index]))
    if not contexts:
        return 0, 0.0
    ((token, count),) = Counter(context.tokens[context.peak] for context in contexts).most_common(1)
    return token, count / len(contexts)


def _active(data: FeatureData) -> Iterator[tuple[FeatureReading, int]]:
    """Every output feature that is active often enough, by its place."""
    for reading in data.layers:
        for index in (reading.outputs.n_active >= LEAST_ACTIVE).nonzero().flatten().tolist():
            yield reading, index


def _median(explained: Sequence[Explained]) -> float:
    """The median of correlations where active with two eigenvectors, over all layers."""
    return float(torch.cat([with_two(part.active_tokens) for part in explained]).nanmedian())


def _reached(reading: FeatureReading) -> torch.Tensor:
    """The largest code of each output feature in the text."""
    return reading.outputs.contexts.values[reading.outputs.features, 0].cpu()


def _is_word(vocabulary: Vocabulary, token: int) -> bool:
    special = token in vocabulary.tokenizer.all_special_ids
    return not special and any(map(str.isalpha, vocabulary.texts[token]))


def _shown(reading: FeatureReading, index: int, vocabulary: Vocabulary) -> FeatureShown:
    side = reading.outputs
    feature = int(side.features[index])
    passage = _cut(side.contexts.of(feature)[0])
    return FeatureShown(reading.layer, side.site, feature, side.names[feature], passage)


def _cut(context: Context) -> Context:
    """The passage with `AROUND` tokens to both sides of its peak at most."""
    start, end = max(0, context.peak - AROUND), context.peak + AROUND + 1
    return replace(
        context,
        tokens=context.tokens[start:end],
        activations=context.activations[start:end],
        peak=context.peak - start,
    )
