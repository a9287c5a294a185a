"""A layer without what only its shards hold: small enough to be kept of all layers, and to be put on disk.

Findings and histograms, which look over all layers, are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.features.explained import Explained
from analysis.features.index import InteractionIndex
from analysis.features.patterns import OpposingFeatures
from analysis.features.peaks import Contexts
from analysis.report.features import FeatureReading, Side, Spectra
from analysis.report.nulls import Opposition, RandomFeatures
from analysis.text.tokens import TokenReading
from analysis.text.windows import Windows
from bilinear_lm.files import read_json, read_tensors, write_json, write_tensors
from bilinear_lm.sites import Site

_PARTS: Mapping[type, Mapping[str, type]] = {
    FeatureReading: {
        "inputs": Side,
        "outputs": Side,
        "spectra": Spectra,
        "index": InteractionIndex,
        "explained": Explained,
        "random": RandomFeatures,
        "opposition": Opposition,
    },
    Side: {"contexts": Contexts, "tokens": TokenReading},
    RandomFeatures: {"explained": Explained},
    Opposition: {"pairs": OpposingFeatures},
}
"""Fields that are dataclasses themselves."""


def slimmed(reading: FeatureReading) -> FeatureReading:
    """The reading without eigenvectors, corners, tokens, weaker interactions, and passages of inputs."""
    index = reading.index
    strongest = {name: getattr(index, name)[:, :1].clone() for name in ("left", "right", "values")}
    into = {name: getattr(index, name)[:, :0].clone() for name in ("reached", "partner", "reach_values")}
    spectra = replace(reading.spectra, vectors=reading.spectra.vectors[:, :0].clone())
    inputs, outputs = map(_without_tokens, (reading.inputs, reading.outputs))
    none = {
        name: getattr(inputs.contexts, name)[:0].clone()
        for name in ("values", "window", "position", "around")
    }
    return replace(
        reading,
        inputs=replace(inputs, contexts=replace(inputs.contexts, **none)),
        outputs=outputs,
        spectra=spectra,
        index=InteractionIndex(**strongest, **into),
        corners=(),
    )


def _without_tokens(side: Side) -> Side:
    """The side without the tokens at its ends, and with its names only once."""
    columns = {field.name: getattr(side.tokens, field.name)[:, :0].clone() for field in fields(TokenReading)}
    return replace(side, tokens=TokenReading(**columns), contexts=replace(side.contexts, names=()))


def save_reading(folder: Path, reading: FeatureReading) -> None:
    """Writes a slim reading as tensors and JSON."""
    tensors, rest = _apart(reading)
    write_tensors(folder / f"{reading.layer}.safetensors", tensors)
    write_json(folder / f"{reading.layer}.json", rest)


def load_reading(folder: Path, layer: int, windows: Windows) -> FeatureReading:
    """The slim reading of a layer, with the text that its passages are of."""
    tensors = read_tensors(folder / f"{layer}.safetensors", finite=False)
    text = tuple(tuple(window) for window in windows)
    return _together(FeatureReading, "", tensors, read_json(folder / f"{layer}.json"), text)


def _apart(value: Any, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by dotted name, and everything else, of a dataclass of dataclasses."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for field in fields(value):
        part, name = getattr(value, field.name), f"{prefix}{field.name}"
        if isinstance(part, Tensor):
            tensors[name] = part.clone()  # a file refuses tensors that share memory
        elif field.name in _PARTS.get(type(value), {}):
            more, others = _apart(part, f"{name}.")
            tensors |= more
            rest[field.name] = others
        elif isinstance(part, Site):
            rest[field.name] = str(part)
        elif field.name not in ("windows", "vocabulary", "corners"):
            rest[field.name] = part
    return tensors, rest


def _together(
    kind: type,
    prefix: str,
    tensors: dict[str, Tensor],
    rest: dict[str, Any],
    text: Windows,
) -> Any:
    """The dataclass that `_apart` took apart."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        name, part = f"{prefix}{field.name}", rest.get(field.name)
        if name in tensors:
            values[field.name] = tensors[name]
        elif field.name in _PARTS.get(kind, {}):
            inner = rest[field.name]
            values[field.name] = _together(_PARTS[kind][field.name], f"{name}.", tensors, inner, text)
        elif field.name == "windows":
            values[field.name] = text
        elif field.name == "corners":
            values[field.name] = ()
        elif field.name != "vocabulary":
            values[field.name] = _value(field.name, part)
    return kind(**values)


def _value(name: str, part: Any) -> Any:
    """A value as it was before JSON."""
    if name == "site":
        return Site.parse(part)
    if name == "given":
        return {int(feature): made for feature, made in part.items()}
    return tuple(part) if isinstance(part, list) else part
