"""The section of the page about dictionary features, with the data that its scripts fill it from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from string import Template
from typing import Any

from torch import Tensor

from analysis.features.interactions import Interactions
from analysis.features.peaks import Contexts
from analysis.features.submatrix import Submatrix
from analysis.report.features import FeatureData, FeatureReading, Side
from analysis.report.html import page_file, rounded, script_json
from analysis.text.tokens import TokenReading
from analysis.text.vocabulary import Vocabulary, visible

SCRIPTS = (
    "features/names.js",
    "features/figures.js",
    "features/feature.js",
    "features/list.js",
    "features/main.js",
)
"""In the order in which they build on each other, behind `html.BASE_SCRIPTS`."""


def features_section(data: FeatureData, vocabulary: Vocabulary) -> str:
    """The section, with controls that are empty until the script fills them, and the data."""
    return Template(page_file("features/section.html")).substitute(
        about=escape(_about(data)), tokens=f"{data.n_tokens:,}", data=features_json(data, vocabulary)
    )


def _about(data: FeatureData) -> str:
    layers = [str(reading.layer) for reading in data.layers]
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(layers[:-1])} and {layers[-1]}"
    parts = [
        (len(side.features), side.n_feat)
        for reading in data.layers
        for side in (reading.inputs, reading.outputs)
    ]
    shown, there = (sum(column) for column in zip(*parts, strict=True))
    if shown == there:
        return f"Here are all {there:,} features of {where}."
    return (
        f"Here are {shown:,} of the {there:,} features of {where}, those active at most tokens of the text; "
        "interactions are between these."
    )


Numbers = list[int | float | None]


def features_json(data: FeatureData, vocabulary: Vocabulary) -> str:
    """The data as JSON that can stand in a script element."""
    tokens = _Tokens(vocabulary)
    value = {
        "windows": [list(map(tokens.index, window)) for window in data.windows],
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
        self.indices: dict[int, int] = {}

    def index(self, token: int) -> int:
        return self.indices.setdefault(token, len(self.indices))

    @property
    def texts(self) -> list[str]:
        """As running text: blanks are blanks, other characters that cannot be seen are signs."""
        return [visible(self.vocabulary.texts[token], keep=" ") for token in self.indices]

    @property
    def special(self) -> list[int]:
        """The indices of tokens that are not text but marks, such as the end of one."""
        return [
            self.indices[token]
            for token in self.vocabulary.tokenizer.all_special_ids
            if token in self.indices
        ]


def _layer(reading: FeatureReading, data: FeatureData, tokens: _Tokens) -> dict[str, Any]:
    n_in, n_out = len(reading.inputs.features), len(reading.outputs.features)
    spectra, explained, index = reading.spectra, reading.explained, reading.index
    return {
        "layer": reading.layer,
        "in": _side(reading.inputs, tokens)
        | {"feeds": [_feeds(index.of(number), number) for number in range(n_in)]},
        "out": _side(reading.outputs, tokens)
        | {
            "into": [
                _strongest_into(index.into(number), data.source.n_interactions) for number in range(n_out)
            ],
            "corner": [_corner(corner) for corner in reading.corners],
            "values": _short(spectra.values),
            "strength": _short(spectra.strength),
            "rank": _short(spectra.effective_rank),
            "share": _short(spectra.share[:, : explained.all_tokens.shape[1]]),
            "all": _short(explained.all_tokens),
            "activeOnly": _short(explained.active_tokens),
            "most": None if reading.most is None else _short(reading.most),
        },
    }


def _side(side: Side, tokens: _Tokens) -> dict[str, Any]:
    features = side.features.tolist()
    return {
        "site": str(side.site),
        "nFeat": side.n_feat,
        "id": features,
        "name": [side.names[feature] for feature in features],
        "given": {str(feature): [made, side.names[feature]] for feature, made in sorted(side.given.items())},
        "fingerprint": side.fingerprint,
        "active": side.n_active.tolist(),
        "contexts": _contexts(side.contexts, features),
        "up": _scored(side.tokens, "top", tokens),
        "down": _scored(side.tokens, "bottom", tokens),
    }


def _contexts(contexts: Contexts, features: list[int]) -> list[list[Numbers]]:
    """Passages of each feature: window, position of the peak, then offset and code of each nonzero code."""
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
    """Token and score in turn, for each feature."""
    rows = zip(getattr(reading, end).tolist(), getattr(reading, f"{end}_scores").tolist(), strict=True)
    return [
        [
            number
            for token, score in zip(*row, strict=True)
            for number in (tokens.index(token), _three_digits(score))
        ]
        for row in rows
    ]


def _strongest_into(strongest: Interactions, n: int) -> Numbers:
    """Left, right and value of each in turn."""
    return [
        number
        for item in list(strongest)[:n]
        for number in (item.left, item.right, _three_digits(item.value))
    ]


def _feeds(strongest: Interactions, feature: int) -> Numbers:
    """Output feature, partner and value of each in turn."""
    return [
        number
        for item in strongest
        for number in (
            item.output,
            item.right if item.left == feature else item.left,
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
    """Three significant digits; None for a number that does not exist."""
    return None if math.isnan(value) else rounded(value, 3)
