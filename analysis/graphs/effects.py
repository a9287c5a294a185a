"""A graph with values as a polynomial: its target as a function of its nodes, and whether it adds up.

Each node is v = Σ contributions + pruned. A contribution is proportional to the value of its source, an
interaction to the product of its two inputs (to the square of one), and what is pruned stays as it is. So
with r the value of a node relative to what it was,

    v̂ = Σ weight · r_source + pruned.signed,      r = v̂ / v,      r_interaction = r_left · r_right.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from analysis.graphs.graph import Graph, Node
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@checked
def predict_target(graph: Graph, factors: Mapping[str, float]) -> float:
    """The value of the target if some nodes were changed by (factor - 1) · their value, by the graph.

    A factor of 0 removes a node, 2 doubles it. Nodes that read a changed node change with it, products
    exactly, and each change comes on top of those from below. Patterns, scales, the set of active features,
    errors, and pruned contributions stay as they are.
    """
    _require_values(graph)
    for node in factors:
        graph.node(node)
    return _target_value(graph, added={node: factor - 1 for node, factor in factors.items()})


@checked
def effects(graph: Graph) -> dict[str, float]:
    """The first-order effect of each node on the target: ∂ target / ∂ log node.

    It equals the target's loss without the node, unless the node is multiplied with a value that it is itself
    part of; for a square it is twice that loss. The effect of the target itself is its value.
    """
    _require_values(graph)
    slopes = {graph.target: 1.0}
    result = dict.fromkeys((node.id for node in graph.nodes), 0.0)
    result[graph.target] = _value(graph.node(graph.target))
    for name in reversed(graph.order):
        node, edges = graph.node(name), graph.into(name)
        if node.kind == "interaction":
            for edge in edges:
                result[edge.source] += result[name] * (2 if len(edges) == 1 else 1)
            continue
        slope = slopes.get(name, 0.0)
        if name != graph.target and edges:
            slope = result[name] / _value(node) if _value(node) else 0.0
        for edge in edges:
            result[edge.source] += slope * edge.weight
    return result


@shown
@dataclass(frozen=True)
class Completeness:
    """How far the contributions in a graph, kept and pruned, are from adding up."""

    value: float
    """The target's measured value."""
    total: float
    """The target put together again from tokens, errors and biases, through all nodes."""
    by_layer: dict[int, float]
    """The target put together from the layers below this one: nodes of the layer and of all above are sums of
    their contributions, nodes below have their measured values."""
    node: str | None
    """The node whose contributions are furthest from its value; None where none is split."""
    node_gap: float
    """By how much, relative to the sum of its absolute contributions."""

    @property
    def largest(self) -> float:
        """The largest of the gaps of `total` and `by_layer`, relative to the target's value."""
        totals = [self.total, *self.by_layer.values()]
        return max(abs(total - self.value) for total in totals) / (abs(self.value) or 1.0)


@checked
def completeness(graph: Graph) -> Completeness:
    """Adds up the contributions of a graph: node by node, layer by layer, and from the bottom up."""
    _require_values(graph)
    layers = sorted({node.layer for node in graph.nodes if node.layer is not None}, reverse=True)
    by_layer = {}
    for layer in layers:
        below = {node.id for node in graph.nodes if node.layer is not None and node.layer < layer}
        by_layer[layer] = _target_value(graph, kept=below)
    gaps = {}
    for node in graph.nodes:
        edges = graph.into(node.id)
        if node.kind == "interaction" or node.value is None or not (edges or node.id in graph.pruned):
            continue
        total, size = sum(edge.weight for edge in edges), sum(abs(edge.weight) for edge in edges)
        if node.id in graph.pruned:
            total, size = total + graph.pruned[node.id].signed, size + graph.pruned[node.id].absolute
        gaps[node.id] = abs(total - node.value) / (size or 1.0)
    worst = max(gaps, key=gaps.__getitem__, default=None)
    return Completeness(
        value=_value(graph.node(graph.target)),
        total=_target_value(graph),
        by_layer=by_layer,
        node=worst,
        node_gap=0.0 if worst is None else gaps[worst],
    )


def _target_value(
    graph: Graph, kept: Set[str] = frozenset(), added: Mapping[str, float] | None = None
) -> float:
    """v̂ of the target: some nodes are `kept` at their values, to r of others a number is `added`."""
    relative: dict[str, float] = {}
    for name in graph.order:
        node, edges = graph.node(name), graph.into(name)
        r = 1.0
        if name not in kept and node.kind == "interaction":
            for edge in edges:
                r *= relative[edge.source] ** (2 if len(edges) == 1 else 1)
        elif name not in kept and (edges or name in graph.pruned):
            total = sum(edge.weight * relative[edge.source] for edge in edges)
            total += graph.pruned[name].signed if name in graph.pruned else 0.0
            if name == graph.target:
                return total + (added or {}).get(name, 0.0) * _value(node)
            r = total / _value(node) if _value(node) else 1.0
        relative[name] = r + (added or {}).get(name, 0.0)
    return relative[graph.target] * _value(graph.node(graph.target))


def _value(node: Node) -> float:
    return node.value or 0.0


def _require_values(graph: Graph) -> None:
    if graph.node(graph.target).value is None:
        raise InputError(
            f"the target {graph.target!r} has no value; expected a graph of a prompt, as `attribute` gives it"
        )
