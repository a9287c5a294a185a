"""A graph on numbers: nodes from 0 on, edges and what is pruned in columns.

Growing, choosing and summing go through hundreds of thousands of edges, most of which no finished graph has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.graphs.elements import Edge, Node, Pruned

_Rows = TypeVar("_Rows", bound="Columns")


class Columns:
    """Rows in columns: a dataclass of arrays of one length, each a field."""

    @classmethod
    def joined(cls: type[_Rows], parts: Iterable[_Rows]) -> _Rows:
        """The rows of one or more parts after each other."""
        every, names = list(parts), [field.name for field in fields(cls)]  # type: ignore[arg-type]
        return cls(*(np.concatenate([getattr(part, name) for part in every]) for name in names))

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def __getitem__(self: _Rows, chosen: np.ndarray | slice) -> _Rows:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self)(*(value[chosen] for value in values))


@dataclass(frozen=True)
class EdgeColumns(Columns):
    """Edges between numbered ends."""

    sources: Int[np.ndarray, " n"]
    targets: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    slopes: Float[np.ndarray, " n"]
    """NaN where an edge has none."""
    grouped: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, edges: Sequence[Edge], numbers: Mapping[str, int]) -> EdgeColumns:
        """The columns of edges between nodes with these numbers."""
        return cls(
            np.array([numbers[edge.source] for edge in edges], dtype=np.int64),
            np.array([numbers[edge.target] for edge in edges], dtype=np.int64),
            np.array([edge.weight for edge in edges], dtype=np.float64),
            np.array([np.nan if edge.slope is None else edge.slope for edge in edges], dtype=np.float64),
            np.array([edge.grouped for edge in edges], dtype=np.float64),
        )

    @classmethod
    def joined(cls, parts: Iterable[EdgeColumns]) -> EdgeColumns:
        """The edges of some columns, or of none, after each other."""
        return super().joined([cls.of((), {}), *parts])

    def summed(self) -> EdgeColumns:
        """The edges with those between the same ends as one, their sum, in the place of the first."""
        _, first, group = np.unique(
            self.sources * (self.targets.max(initial=0) + 1) + self.targets,
            return_index=True,
            return_inverse=True,
        )
        if len(first) == len(self):
            return self
        places = np.sort(first)
        result, place = self[places], np.searchsorted(places, first)[group]
        again = np.ones(len(self), dtype=bool)
        again[places] = False
        for name in ("weights", "slopes", "grouped"):
            np.add.at(getattr(result, name), place[again], getattr(self, name)[again])
        return result

    @property
    def known_slopes(self) -> Float[np.ndarray, " n"]:
        """The slopes, 0 where an edge has none."""
        return np.where(np.isnan(self.slopes), 0.0, self.slopes)

    def as_pruned(self) -> Float[np.ndarray, "n 5"]:
        """The numbers of `Pruned` of each, were it left out."""
        slopes = self.known_slopes
        numbers = [self.weights, np.abs(self.weights), np.ones(len(self)), slopes, np.abs(slopes)]
        return np.stack(numbers, axis=1)

    def listed(self, names: Sequence[str]) -> tuple[Edge, ...]:
        """The edges, their ends by name."""
        columns = (getattr(self, field.name).tolist() for field in fields(self))
        return tuple(
            Edge(names[source], names[target], weight, None if slope != slope else slope, grouped)
            for source, target, weight, slope, grouped in zip(*columns, strict=True)
        )


@dataclass(frozen=True)
class Ends:
    """Edges by one of their ends, strongest first, by weight."""

    edges: Int[np.ndarray, " n"]
    starts: list[int]
    """Where those of each node begin in `edges`; one entry more for the end."""

    @classmethod
    def of(cls, ends: Int[np.ndarray, " n"], weights: Float[np.ndarray, " n"], n_nodes: int) -> Ends:
        """The edges with these ends and weights."""
        counts = np.bincount(ends, minlength=n_nodes)
        return cls(np.lexsort((-np.abs(weights), ends)), [0, *counts.cumsum().tolist()])

    def at(self, node: int) -> slice:
        """The place of a node's edges in `edges`."""
        return slice(self.starts[node], self.starts[node + 1])


@dataclass(frozen=True)
class GraphColumns:
    """A graph on numbers; see `analysis.graphs.graph`."""

    nodes: tuple[Node, ...]
    target: int
    edges: EdgeColumns
    pruned: Float[np.ndarray, "n_nodes 5"]
    """For each node the numbers of `Pruned`."""
    split: Int[np.ndarray, " n_split"]
    """The nodes that have an entry of pruned, in its order."""

    @classmethod
    def of(
        cls, nodes: Sequence[Node], edges: Sequence[Edge], target: str, pruned: Mapping[str, Pruned]
    ) -> GraphColumns:
        """The columns of a graph whose ids are unique and known."""
        numbers = {node.id: number for number, node in enumerate(nodes)}
        rest, split = np.zeros((len(nodes), 5)), np.array([numbers[node] for node in pruned], dtype=np.int64)
        if len(split):
            rest[split] = [tuple(vars(part).values()) for part in pruned.values()]
        return cls(tuple(nodes), numbers[target], EdgeColumns.of(edges, numbers), rest, split)

    @property
    def ids(self) -> list[str]:
        """The ids of the nodes."""
        return [node.id for node in self.nodes]

    @cached_property
    def is_interaction(self) -> Bool[np.ndarray, " n_nodes"]:
        """Which nodes are interactions."""
        return np.array([node.kind == "interaction" for node in self.nodes], dtype=bool)

    @cached_property
    def into(self) -> Ends:
        """The edges by what they lead to."""
        return Ends.of(self.edges.targets, self.edges.weights, len(self.nodes))

    @cached_property
    def order(self) -> list[int]:
        """All nodes that no cycle leads to, so that every edge goes forward."""
        out_of = Ends.of(self.edges.sources, self.edges.weights, len(self.nodes))
        targets = self.edges.targets[out_of.edges]
        waiting = np.bincount(targets, minlength=len(self.nodes))
        ready = np.flatnonzero(waiting == 0).tolist()
        for node in ready:  # grows while it is gone through
            reached = targets[out_of.at(node)]
            waiting[reached] -= 1
            ready += reached[waiting[reached] == 0].tolist()
        return ready

    def listed_pruned(self) -> dict[str, Pruned]:
        """The pruned contributions, by node."""
        return {
            self.nodes[node].id: Pruned(signed, absolute, int(count), slope, absolute_slope)
            for node, (signed, absolute, count, slope, absolute_slope) in zip(
                self.split.tolist(), self.pruned[self.split].tolist(), strict=True
            )
        }
