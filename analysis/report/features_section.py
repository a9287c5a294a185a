"""The section of the page about dictionary features, with the data that its scripts fill it from."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from string import Template

from analysis.report.document import page_file, script_json, shard_element
from analysis.report.features import FeatureData
from analysis.report.shards.content import Tokens, feature_index, layer_shards
from analysis.text.vocabulary import Vocabulary

SCRIPTS = (
    "plotting.js",
    "features/names.js",
    "features/figures.js",
    "features/feature.js",
    "features/rows.js",
    "features/list.js",
    "features/main.js",
)
"""In the order in which they build on each other, behind `document.BASE_SCRIPTS`."""


def features_section(data: FeatureData, vocabulary: Vocabulary, files_beside: bool = False) -> str:
    """The section, with controls that are empty until the script fills them, and the data.

    With `files_beside` the data but for its index lie in files beside the page.
    """
    index = script_json(feature_index(data, vocabulary))
    shards = "" if files_beside else "\n".join(_shards(data))
    return Template(page_file("features/section.html")).substitute(
        about=escape(_about(data)),
        tokens=f"{data.n_tokens:,}",
        folder=' data-folder="data/"' if files_beside else "",
        index=index,
        shards=shards,
    )


def _shards(data: FeatureData) -> Iterator[str]:
    tokens = Tokens(data.windows)
    for reading in data.layers:
        for name, value in layer_shards(reading, tokens, data.source.n_interactions):
            yield shard_element(name, value)


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
