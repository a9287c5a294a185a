"""Findings about output directions of tokens, for a model without dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from analysis.report.collect import LayerReading, ReportData
from analysis.report.layers import DirectionReading
from analysis.text.tokens import OutputDirection

LEAST_CORRELATION = 0.8
LEAST_REACHED = 0.05


@dataclass(frozen=True)
class FewForDirection:
    """An output direction that a few eigenvectors explain on the text.

    Rule: of the directions on the page, the one that what its eigenvectors shown give together follows best
    over the text; correlation 0.8 or more.
    """

    layer: int
    index: int
    """Its place among the directions of the layer."""
    direction: OutputDirection
    correlation: float
    n_eigenvectors: int
    of: int
    """How many eigenvectors there are."""
    share: float
    """Their share in Σ λ²."""
    median: float
    """The median correlation of the directions on the page."""
    random: float
    """The median of random directions of the same layers."""


@dataclass(frozen=True)
class DirectionBound:
    """An output direction beside the largest value that any input of its layer can give it.

    The bound is d · max(λ, 0): the norm in front lets nothing through whose length passes √d, d the width of
    the input, its constant coordinate counted. Without biases it is reached.

    Rule: the direction whose largest value in the text comes nearest to its bound; a twentieth or more.
    """

    layer: int
    index: int
    direction: OutputDirection
    most: float
    reached: float
    median: float
    """The median of reached / most over the directions on the page."""


def few_for_direction(data: ReportData) -> FewForDirection | None:
    """The finding that `FewForDirection` describes; None where no direction is good enough."""
    read = [(reading.correlation, at, index, reading) for at, index, reading in _readings(data)]
    read = [entry for entry in read if entry[0] == entry[0]]
    if not read:
        return None
    correlation, at, index, reading = max(read, key=lambda entry: entry[0])
    if correlation < LEAST_CORRELATION:
        return None
    n = len(reading.eigenvectors)
    random = torch.cat([part.random.correlation.cpu() for part in data.layers])
    return FewForDirection(
        layer=at.layer,
        index=index,
        direction=reading.direction,
        correlation=correlation,
        n_eigenvectors=n,
        of=len(reading.values),
        share=reading.share(n),
        median=float(torch.tensor([entry[0] for entry in read]).median()),
        random=float(random.nanmedian()),
    )


def direction_bound(data: ReportData) -> DirectionBound | None:
    """The finding that `DirectionBound` describes; None where nothing bounds the layers, or none is near."""
    found = [
        (_reached(reading) / most, at, index, reading, most)
        for at, index, reading in _readings(data)
        if at.bounded and (most := len(reading.values) * float(reading.values.max())) > 0
    ]
    if not found:
        return None
    share, at, index, reading, most = max(found, key=lambda entry: entry[0])
    if share < LEAST_REACHED:
        return None
    return DirectionBound(
        layer=at.layer,
        index=index,
        direction=reading.direction,
        most=most,
        reached=_reached(reading),
        median=float(torch.tensor([entry[0] for entry in found]).median()),
    )


def _readings(data: ReportData) -> Iterator[tuple[LayerReading, int, DirectionReading]]:
    for at in data.layers:
        for index, reading in enumerate(at.directions):
            yield at, index, reading


def _reached(reading: DirectionReading) -> float:
    return max(0.0, float(reading.outputs.max()))
