"""The section of the page about dictionary features, with the data that explorer.js fills it from."""

from __future__ import annotations

from html import escape
from string import Template

from analysis.page_document import page_file
from analysis.page_features_data import features_json
from analysis.report_features import FeatureData
from analysis.vocabulary import Vocabulary

SCRIPTS = (
    "explorer_figures.js",
    "explorer_feature.js",
    "explorer_list.js",
    "explorer.js",
)
"""In the order in which they build on each other, behind `page_document.BASE_SCRIPTS`."""


def features_section(data: FeatureData, vocabulary: Vocabulary) -> str:
    """The section, with controls that are empty until the script fills them, and the data."""
    return Template(page_file("features.html")).substitute(
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
