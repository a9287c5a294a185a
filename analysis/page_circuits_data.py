"""The data of the graph part of the page, as circuit_data.js reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from analysis.graph import Graph, Node
from analysis.graph_parts import edge_parts, strengths
from analysis.page_json import rounded, script_json
from analysis.vocabulary import visible

_COLUMNS = ("id", "kind", "layer", "position", "index", "site", "label")


def circuits_json(graphs: Sequence[Graph]) -> str:
    """Graphs as JSON that can stand in a script element.

    Of each the nodes by column, edges as source, target, weight and part (`graph_parts`) in turn, nodes by
    their place.
    """
    return script_json([_packed(graph) for graph in graphs])


def circuit_name(graph: Graph) -> str:
    """A graph in a few words: its target, and on which prompt it is."""
    target = graph.node(graph.target)
    name = f"{target.label} ({target.id})" if target.label else target.id
    if graph.texts is None:
        return f"{name}, from weights alone"
    position = target.position or 0
    words = "".join(graph.texts[max(0, position - 5) : position + 1])
    return f"{name} on “…{visible(words, keep=' ').strip()}”"


def _packed(graph: Graph) -> dict[str, Any]:
    parts = edge_parts(graph)
    strength = strengths(graph, parts)
    places = {node.id: place for place, node in enumerate(graph.nodes)}
    rows = [asdict(node) for node in graph.nodes]
    edges: list[int | float] = []
    for edge in graph.edges:
        edges += [places[edge.source], places[edge.target], _short(edge.weight), _short(parts[edge])]
    return {
        "name": circuit_name(graph),
        "target": places[graph.target],
        "texts": None if graph.texts is None else [visible(text, keep=" ") for text in graph.texts],
        "probability": graph.settings.get("probability"),
        **{column: [row[column] for row in rows] for column in _COLUMNS},
        "value": [None if node.value is None else _short(node.value) for node in graph.nodes],
        "strength": [_short(strength[node.id]) for node in graph.nodes],
        "left": [_left(graph, node) for node in graph.nodes],
        "edges": edges,
    }


def _left(graph: Graph, node: Node) -> list[int | float] | None:
    """What is not shown of a node's contributions: sum, sum of magnitudes, and number."""
    pruned = graph.pruned.get(node.id)
    if pruned is None or not pruned.count:
        return None
    return [_short(pruned.signed), _short(pruned.absolute), pruned.count]


def _short(value: float) -> int | float:
    """Four significant digits."""
    return rounded(value, 4)
