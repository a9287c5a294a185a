"""The pieces of the features part, as JSON values: an index, a list for each side, and details.

The index is always read: layers and their sides, the text, and which feature is shown first. The list of a
side has a name and the numbers to sort by for each feature. Details are everything else about `PER_SHARD`
features that follow each other. Features are told by their places in the order of `Side.features`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.submatrix import Submatrix
from analysis.report.features import FeatureData, FeatureReading, Side, with_two
from analysis.report.html import rounded
from analysis.text.vocabulary import Vocabulary, visible
from analysis.text.windows import Windows

PER_SHARD = 256
"""Features whose details are read at once."""

Numbers = list[int | float | None]


class Tokens:
    """The tokens of a text, in the order in which they first occur: all that is told about features."""

    def __init__(self, windows: Windows):
        every = (token for window in windows for token in window)
        self.indices = {token: index for index, token in enumerate(dict.fromkeys(every))}

    def index(self, token: int) -> int:
        """The place of a token among them."""
        return self.indices[token]

    def texts(self, vocabulary: Vocabulary) -> list[str]:
        """As running text: blanks are blanks, other characters that cannot be seen are signs."""
        return [visible(vocabulary.texts[token], keep=" ") for token in self.indices]

    def special(self, vocabulary: Vocabulary) -> list[int]:
        """The indices of tokens that are not text but marks, such as the end of one."""
        every = vocabulary.tokenizer.all_special_ids
        return [self.indices[token] for token in every if token in self.indices]


def feature_index(data: FeatureData, vocabulary: Vocabulary, per_shard: int = PER_SHARD) -> dict[str, Any]:
    """The index: what the page knows before it reads a list or details."""
    tokens = Tokens(data.windows)
    return {
        "windows": [list(map(tokens.index, window)) for window in data.windows],
        "skip": int(data.has_first),
        "width": data.source.width,
        "nTokens": data.n_tokens,
        "perShard": per_shard,
        "layers": [
            {"layer": reading.layer, "in": _side(reading.inputs), "out": _side(reading.outputs)}
            for reading in data.layers
        ],
        "first": list(data.first),
        "tokens": tokens.texts(vocabulary),
        "special": tokens.special(vocabulary),
    }


def _side(side: Side) -> dict[str, Any]:
    """A side in the index; `id` is null where all features of the dictionary are shown."""
    features = side.features.tolist()
    return {
        "site": str(side.site),
        "nFeat": side.n_feat,
        "n": len(features),
        "id": None if len(features) == side.n_feat else features,
        "given": {str(feature): [made, side.names[feature]] for feature, made in sorted(side.given.items())},
        "fingerprint": side.fingerprint,
    }


def layer_shards(
    reading: FeatureReading, tokens: Tokens, n_listed: int, per_shard: int = PER_SHARD
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lists and details of a layer, one by one, each with its name; `n_listed` interactions a feature."""
    for key, side in (("in", reading.inputs), ("out", reading.outputs)):
        yield f"{reading.layer}-{key}-list", _list(reading, side)
        for number, start in enumerate(range(0, len(side.features), per_shard)):
            places = slice(start, start + per_shard)
            of_side = _inputs(reading, places) if key == "in" else _outputs(reading, places, n_listed)
            yield f"{reading.layer}-{key}-{number}", _both(side, places, tokens) | of_side


def _list(reading: FeatureReading, side: Side) -> dict[str, Any]:
    entries = {
        "name": [side.names[feature] for feature in side.features.tolist()],
        "active": side.n_active.tolist(),
    }
    if side is reading.inputs:
        return entries
    explained = with_two(reading.explained.active_tokens)
    return entries | {"explained": _short(explained), "strength": _short(reading.spectra.strength)}


def _both(side: Side, places: slice, tokens: Tokens) -> dict[str, Any]:
    return {
        "contexts": _contexts(side, places),
        "up": _scored(side.tokens.top[places], side.tokens.top_scores[places], tokens),
        "down": _scored(side.tokens.bottom[places], side.tokens.bottom_scores[places], tokens),
    }


def _inputs(reading: FeatureReading, places: slice) -> dict[str, Any]:
    index = reading.index
    columns = (index.reached, index.partner, index.reach_values)
    return {"feeds": _interactions(*(column[places] for column in columns))}


def _outputs(reading: FeatureReading, places: slice, n_listed: int) -> dict[str, Any]:
    index, spectra, explained = reading.index, reading.spectra, reading.explained
    strongest = (column[places] for column in (index.left, index.right, index.values))
    return {
        "into": [flat[: 3 * n_listed] for flat in _interactions(*strongest)],
        "corner": [_corner(corner) for corner in reading.corners[places]],
        "values": _short(spectra.values[places]),
        "strength": _short(spectra.strength[places]),
        "rank": _short(spectra.effective_rank[places]),
        "share": _short(spectra.share[places, : explained.all_tokens.shape[1]]),
        "all": _short(explained.all_tokens[places]),
        "activeOnly": _short(explained.active_tokens[places]),
        "most": None if reading.most is None else _short(reading.most[places]),
    }


def _contexts(side: Side, places: slice) -> list[list[Numbers]]:
    """Passages of each feature: window, position of the peak, then offset and code of each nonzero code."""
    contexts, features = side.contexts, side.features[places].cpu()
    width = contexts.around.shape[-1] // 2
    columns = (contexts.values, contexts.window, contexts.position, contexts.around)
    rows = zip(*(column[features].tolist() for column in columns), strict=True)
    return [
        [
            [
                window,
                position,
                *(
                    number
                    for offset, code in enumerate(around, start=-width)
                    if code
                    for number in (offset, _three_digits(code))
                ),
            ]
            for value, window, position, around in zip(*row, strict=True)
            if value > 0
        ]
        for row in rows
    ]


def _scored(some: Int[Tensor, "n k"], scores: Float[Tensor, "n k"], tokens: Tokens) -> list[Numbers]:
    """Token and score in turn, for each feature."""
    rows = zip(some.tolist(), scores.tolist(), strict=True)
    return [
        [
            number
            for token, score in zip(*row, strict=True)
            for number in (tokens.index(token), _three_digits(score))
        ]
        for row in rows
    ]


def _interactions(
    first: Int[Tensor, "n k"], second: Int[Tensor, "n k"], values: Float[Tensor, "n k"]
) -> list[Numbers]:
    """Two features and a value in turn, for each feature, without the zeros that fill up a row.

    Into an output feature the two are left and right; of an input feature, output feature and partner.
    """
    rows = zip(first.tolist(), second.tolist(), values.tolist(), strict=True)
    return [
        [
            number
            for one, other, value in zip(*row, strict=True)
            if value
            for number in (one, other, _three_digits(value))
        ]
        for row in rows
    ]


def _corner(corner: Submatrix) -> list[Any]:
    """Places, the largest value, and all values in thousandths of it: Q_ii, 2 Q_ij, by rows from Q_ii on."""
    values = corner.matrix + corner.matrix.triu(1)
    largest = _three_digits(float(values.abs().max())) or 1
    thousandths = (1000 * values / largest).round().int().tolist()
    return [corner.features.tolist(), largest, [n for i, row in enumerate(thousandths) for n in row[i:]]]


def _short(values: Tensor) -> list[Any]:
    return _shortened(values.tolist())


def _shortened(values: Iterable[Any]) -> list[Any]:
    return [_shortened(value) if isinstance(value, list) else _three_digits(value) for value in values]


def _three_digits(value: float) -> int | float | None:
    """Three significant digits; None for a number that does not exist."""
    return None if math.isnan(value) else rounded(value, 3)
