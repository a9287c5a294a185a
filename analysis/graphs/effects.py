"""A graph with values as a function of its nodes: what a change does to the target, and whether it adds up.

Each node is v = Σ contributions + pruned. With patterns and norms held, a contribution is proportional to the
value of its source, an interaction to the product of its two inputs (to the square of one), and what is
pruned stays as it is. So with r the value of a node relative to what it was,

    v̂ = Σ weight · r_source + pruned.signed,      r = v̂ / v,      r_interaction = r_left · r_right,

and interactions that are grouped in an edge change it at first order, by grouped · (r_source − 1) more.

With norms and patterns free, a value changes by Σ slope · (r_source − 1) at first order. A node that writes
has a slope of the target besides, by the model's own derivative. What the edges of the graph **carry** of it
is the sum over the edges out of it of slope · (slope of what they lead to / value of what they lead to).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import get_args

from analysis.graphs.elements import By, Node
from analysis.graphs.graph import Graph
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

_OF_ONE_READER = ("interaction", "eigenvector", "direction", "head")
"""Kinds of nodes that are read by nothing but the nodes that their edges lead to."""


@checked
def predict_target(graph: Graph, factors: Mapping[str, float], by: By = "slope") -> float:
    """The value of the target if some nodes were changed by (factor - 1) · their value, by the graph.

    A factor of 0 removes a node, 2 doubles it. By "slope" it is Σ (factor - 1) · effect beyond the target's
    value, at first order, with norms and patterns free to change as `attribute` was asked. A change that is
    not small, as of a token, needs the model: `analysis.causal_check` predicts it. By "weight" patterns and
    norms are held, and the graph is taken as the polynomial that it is: nodes that read a changed node change
    with it, products exactly, and each change comes on top of those from below. The set of active features,
    errors and pruned contributions stay as they are.

    Raises InputError for nodes that are not there, and by slope for a graph that has none.
    """
    _require(graph, by)
    for node in factors:
        graph.node(node)
    added = {node: factor - 1 for node, factor in factors.items()}
    if by == "weight":
        return _target_value(graph, added=added)
    slopes = effects(graph)
    return _value(graph.node(graph.target)) + sum(added[node] * slopes[node] for node in added)


@checked
def effects(graph: Graph, by: By = "slope") -> dict[str, float]:
    """The first-order effect of each node on the target: ∂ target / ∂ log node.

    By "slope" it is the model's derivative by what the node writes (`Node.slope`), and what the edges carry
    for nodes that write nothing (biases). By "weight" it is the derivative of the graph, patterns and norms
    held: the target's loss without the node, unless the node is multiplied with a value that it is itself
    part of; for a square it is twice that loss. The effect of the target itself is its value.

    Raises InputError by slope for a graph that has none: of an older file, or of weights alone.
    """
    _require(graph, by)
    if by == "weight":
        return _passed_back(graph, by)
    edges = carried(graph)
    return {node.id: edges[node.id] if node.slope is None else node.slope for node in graph.nodes}


@checked
def carried(graph: Graph) -> dict[str, float]:
    """The part of each node's slope that its edges carry, to nodes whose own slope is the model's.

    With nothing pruned and no dictionaries whose errors lie between, it is the slope itself.
    """
    _require(graph, "slope")
    return _passed_back(graph, "slope")


def _passed_back(graph: Graph, by: By) -> dict[str, float]:
    """∂ target / ∂ log node through the edges out of each node; by slope the nodes that they lead to have
    their own slopes, but for those that only one node reads."""
    result = dict.fromkeys((node.id for node in graph.nodes), 0.0)
    result[graph.target] = _value(graph.node(graph.target))
    for name in reversed(graph.order):
        node, edges = graph.node(name), graph.into(name)
        of_node = result[name]
        if by == "slope" and node.kind not in _OF_ONE_READER and node.slope is not None:
            of_node = node.slope
        if node.kind == "interaction":
            for edge in edges:
                result[edge.source] += of_node * (2 if len(edges) == 1 else 1)
            continue
        unit = 1.0 if name == graph.target else of_node / _value(node) if _value(node) else 0.0
        for edge in edges:
            result[edge.source] += unit * ((edge.slope or 0.0) if by == "slope" else edge.held_slope)
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
    followed: dict[By, float]
    """The parts of the target's absolute contributions, and of its absolute slopes if it has these, that are
    followed to the end (`Graph.followed`)."""
    carried: float | None
    """The part of the nodes' slopes that the edges carry: Σ carried · sign(slope) / Σ |slope| over the nodes
    but the target that have one (`carried`); None without slopes."""

    @property
    def largest(self) -> float:
        """The largest of the gaps of `total` and `by_layer`, relative to the target's value."""
        totals = [self.total, *self.by_layer.values()]
        return max(abs(total - self.value) for total in totals) / (abs(self.value) or 1.0)


@checked
def completeness(graph: Graph) -> Completeness:
    """Adds up the contributions of a graph: node by node, layer by layer, and from the bottom up."""
    _require(graph, "weight")
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
        followed=graph.followed_by_each(),
        carried=_part_carried(graph) if graph.has_slopes else None,
    )


def _part_carried(graph: Graph) -> float:
    edges = carried(graph)
    nodes = [
        (node.slope, edges[node.id])
        for node in graph.nodes
        if node.slope is not None and node.kind not in _OF_ONE_READER and node.id != graph.target
    ]
    whole = sum(abs(slope) for slope, _ in nodes)
    return sum(own * math.copysign(1.0, slope) for slope, own in nodes) / whole if whole else 1.0


def _target_value(
    graph: Graph, kept: Set[str] = frozenset(), added: Mapping[str, float] | None = None
) -> float:
    """v̂ of the target by weights: some nodes are `kept` at their values, to r of others a number is added."""
    relative: dict[str, float] = {}
    for name in graph.order:
        node, edges = graph.node(name), graph.into(name)
        r = 1.0
        if name not in kept and node.kind == "interaction":
            for edge in edges:
                r *= relative[edge.source] ** (2 if len(edges) == 1 else 1)
        elif name not in kept and (edges or name in graph.pruned):
            total = sum(edge.weight + edge.held_slope * (relative[edge.source] - 1) for edge in edges)
            total += graph.pruned[name].signed if name in graph.pruned else 0.0
            if name == graph.target:
                return total + (added or {}).get(name, 0.0) * _value(node)
            r = total / _value(node) if _value(node) else 1.0
        relative[name] = r + (added or {}).get(name, 0.0)
    return relative[graph.target] * _value(graph.node(graph.target))


def _value(node: Node) -> float:
    return node.value or 0.0


def _require(graph: Graph, by: By) -> None:
    require_choice(by, get_args(By), "by")
    if graph.node(graph.target).value is None:
        raise InputError(
            f"the target {graph.target!r} has no value; expected a graph of a prompt, as `attribute` gives it"
        )
    if by == "slope" and not graph.has_slopes:
        raise InputError(
            "a graph without slopes (of a file of format version 1, or made by hand); expected one that "
            '`attribute` makes now, or by="weight"'
        )
