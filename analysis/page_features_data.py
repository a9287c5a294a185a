"""The data of the features part of the page, as explorer_data.js reads it.

Everything of a side is a list with one entry a feature, by place; features refer to each other by place, and
to tokens by their place in one list of texts. Numbers have three digits, and lists of small records are flat.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from analysis.contexts import Contexts
from analysis.interactions import Interactions
from analysis.page_json import rounded, script_json
from analysis.report_features import FeatureData, FeatureReading, Side
from analysis.submatrix import Submatrix
from analysis.tokens import TokenReading
from analysis.vocabulary import Vocabulary, visible

Numbers = list[int | float | None]


def features_json(data: FeatureData, vocabulary: Vocabulary) -> str:
    """The data as JSON that can stand in a script element."""
    tokens = _Tokens(vocabulary)
    value = {
        "windows": [list(map(tokens.place, window)) for window in data.windows],
        "skip": int(data.has_first),
        "width": data.source.width,
        "nTokens": data.n_tokens,
        "nListed": data.source.n_interactions,
        "layers": [_layer(reading, data, tokens) for reading in data.layers],
        "first": list(data.first),
        "tokens": tokens.texts,
        "special": tokens.special,
    }
    return script_json(value)


class _Tokens:
    """The tokens that occur, in the order in which they first did."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.places: dict[int, int] = {}

    def place(self, token: int) -> int:
        return self.places.setdefault(token, len(self.places))

    @property
    def texts(self) -> list[str]:
        """As running text: blanks are blanks, other characters that cannot be seen are signs."""
        return [visible(self.vocabulary.texts[token], keep=" ") for token in self.places]

    @property
    def special(self) -> list[int]:
        """The places of those that are not text but marks, such as the end of one."""
        return [
            self.places[token] for token in self.vocabulary.tokenizer.all_special_ids if token in self.places
        ]


def _layer(reading: FeatureReading, data: FeatureData, tokens: _Tokens) -> dict[str, Any]:
    n_in, n_out = len(reading.inputs.features), len(reading.outputs.features)
    spectra, explained, index = reading.spectra, reading.explained, reading.index
    return {
        "layer": reading.layer,
        "in": _side(reading.inputs, tokens)
        | {"feeds": [_feeds(index.of(place), place) for place in range(n_in)]},
        "out": _side(reading.outputs, tokens)
        | {
            "into": [_into(index.into(place), data.source.n_interactions) for place in range(n_out)],
            "corner": [_corner(corner) for corner in reading.corners],
            "values": _short(spectra.values),
            "strength": _short(spectra.strength),
            "rank": _short(spectra.effective_rank),
            "share": _short(spectra.share[:, : explained.all_tokens.shape[1]]),
            "all": _short(explained.all_tokens),
            "activeOnly": _short(explained.active_tokens),
        },
    }


def _side(side: Side, tokens: _Tokens) -> dict[str, Any]:
    features = side.features.tolist()
    return {
        "site": str(side.site),
        "nFeat": side.n_feat,
        "id": features,
        "name": [side.contexts.words(feature, tokens.vocabulary) for feature in features],
        "active": side.n_active.tolist(),
        "contexts": _contexts(side.contexts, features),
        "up": _scored(side.tokens, "top", tokens),
        "down": _scored(side.tokens, "bottom", tokens),
    }


def _contexts(contexts: Contexts, features: list[int]) -> list[list[Numbers]]:
    """Of each feature its passages: window, position of the peak, then offset and code of what is not 0."""
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


def _scored(reading: TokenReading, end: str, tokens: _Tokens) -> list[Numbers]:
    """Of each feature token and score in turn."""
    rows = zip(getattr(reading, end).tolist(), getattr(reading, f"{end}_scores").tolist(), strict=True)
    return [
        [
            number
            for token, score in zip(*row, strict=True)
            for number in (tokens.place(token), _three_digits(score))
        ]
        for row in rows
    ]


def _into(found: Interactions, n: int) -> Numbers:
    """Left, right and value of each in turn."""
    return [
        number for item in list(found)[:n] for number in (item.left, item.right, _three_digits(item.value))
    ]


def _feeds(found: Interactions, place: int) -> Numbers:
    """Output feature, partner and value of each in turn."""
    return [
        number
        for item in found
        for number in (
            item.output,
            item.right if item.left == place else item.left,
            _three_digits(item.value),
        )
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
    """Three significant digits; None for what does not exist."""
    return None if math.isnan(value) else rounded(value, 3)
