"""Contributions that wait, in columns, until it is the turn of the stage at which their sources stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.graphs.columns import Columns, EdgeColumns


@dataclass(frozen=True)
class Offers(Columns):
    """Contributions of sources, by their numbers in the catalogue, to numbered nodes of the graph."""

    sources: Int[np.ndarray, " n"]
    partners: Int[np.ndarray, " n"]
    """The number of the other source of a pair (of a square the same); -1: there is none."""
    targets: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    slopes: Float[np.ndarray, " n"]
    grouped: Float[np.ndarray, " n"]
    """The part of the weight that is interactions with others; of a pair NaN if it is not to be grouped."""
    parts: Float[np.ndarray, " n"]
    """The part that each has in its group."""
    groups: Int[np.ndarray, " n"]
    """The number of the group; -1: nobody counts what of it is shown."""
    shares: Float[np.ndarray, " n"]
    """The part of the target that each is."""
    depths: Int[np.ndarray, " n"]
    """The fewest MLPs between the source and the target."""
    claims: Bool[np.ndarray, " n"]
    """Which are no contributions: inputs of an interaction that is in the graph, which has their edges."""

    def edges(self) -> EdgeColumns:
        """The contributions as edges."""
        edges = EdgeColumns(self.sources, self.targets, self.weights, self.slopes, self.grouped)
        return edges[~self.claims] if self.claims.any() else edges

    def of_inputs(self, admitted: Bool[np.ndarray, " n"]) -> Offers:
        """Pairs by their inputs, each of a pair with half of it, a square whole: `admitted` as claims, the
        others as contributions."""
        n_inputs = np.where(self.sources == self.partners, 1, 2)
        whole = np.repeat(np.arange(len(self)), n_inputs)
        is_right = np.append(False, whole[1:] == whole[:-1])[: len(whole)]
        pairs, claims, inputs = self[whole], admitted[whole], n_inputs[whole]
        weights = pairs.weights / inputs
        return Offers(
            np.where(is_right, pairs.partners, pairs.sources),
            np.full_like(whole, -1),
            pairs.targets,
            weights,
            # A square changes by twice as much as its input, relative to what they are.
            pairs.slopes * (3 - inputs),
            weights,
            pairs.parts / inputs,
            pairs.groups,
            pairs.shares / inputs,
            pairs.depths + claims,
            claims,
        )


@dataclass(frozen=True)
class Waiting:
    """The sources of offers, in the order in which they were first met."""

    numbers: Int[np.ndarray, " n_sources"]
    shares: Float[np.ndarray, " n_sources"]
    depths: Int[np.ndarray, " n_sources"]
    required: Bool[np.ndarray, " n_sources"]
    """Which are inputs of an interaction that is in the graph."""
    of_offers: Int[np.ndarray, " n"]
    """The index of the source of each offer."""

    @classmethod
    def of(cls, offers: Offers) -> Waiting:
        """The sources of some offers."""
        numbers, first, index = np.unique(offers.sources, return_index=True, return_inverse=True)
        arrival = first.argsort()
        place = np.empty_like(arrival)
        place[arrival] = np.arange(len(arrival))
        index = place[index]
        depths = np.full(len(numbers), np.iinfo(np.int64).max)
        np.minimum.at(depths, index, offers.depths)
        required = np.zeros(len(numbers), dtype=bool)
        required[index[offers.claims]] = True
        return cls(numbers[arrival], np.bincount(index, offers.shares), depths, required, index)
