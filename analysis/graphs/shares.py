"""How strong the nodes and edges of a graph are beside each other: one rule, on a prompt and by weights.

An edge has a **part** of its target, and a node's **share** is 1 for the target, else the sum over the edges
out of it of part · share of what they lead to. An interaction has its inputs as equal parts. Elsewhere

- on a prompt a part is |slope| / Σ |slopes|, what is pruned counted, or |weight| / Σ |contributions| in a
  graph whose nodes were chosen by weight: the shares of what a node is made of add up to its own;
- by weights alone coefficients have units of their own: parts are weight² / Σ weight² among the edges of one
  **group** (tokens; heads; features of one dictionary; …), what is not shown counted. A group adds up to the
  node's share, so that a strong feature and a strong token are both strong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.graphs.columns import GraphColumns
from bilinear_lm.sites import Site

if TYPE_CHECKING:
    from analysis.graphs.elements import By, Edge, Kind, Node
    from analysis.graphs.graph import Graph

_GROUPS = {"token": "tokens", "head": "heads", "direction": "MLPs", "bias": "biases"}


def edge_parts(graph: Graph, by: By | None = None) -> dict[Edge, float]:
    """The part that each edge has of the node that it leads to.

    On a prompt it is by slope or weight, by default by what the graph was chosen by.
    """
    if graph.on_prompt:
        columns = parts_on_prompt(graph.columns, graph.by if by is None else by)
        return dict(zip(graph.edges, columns.tolist(), strict=True))
    parts: dict[Edge, float] = {}
    for node in graph.nodes:
        if node.kind == "interaction":
            edges = graph.into(node.id)
            parts |= dict.fromkeys(edges, 1 / len(edges) if edges else 0.0)
        else:
            parts |= _squares_by_group(graph, node)
    return parts


def parts_on_prompt(columns: GraphColumns, by: By) -> Float[np.ndarray, " n_edges"]:
    """The part that each edge of a graph on a prompt has of the node that it leads to."""
    edges, into = columns.edges, columns.into.edges
    sizes = np.abs(edges.known_slopes if by == "slope" else edges.weights)
    whole = np.bincount(edges.targets[into], sizes[into], minlength=len(columns.nodes))
    whole = (whole + columns.pruned[:, 4 if by == "slope" else 1])[edges.targets]
    parts = np.divide(sizes, whole, out=np.zeros_like(sizes), where=whole != 0)
    n_inputs = np.bincount(edges.targets, minlength=len(columns.nodes))[edges.targets]
    return np.where(columns.is_interaction[edges.targets], 1 / n_inputs, parts)


def node_shares(columns: GraphColumns, parts: Float[np.ndarray, " n_edges"]) -> Float[np.ndarray, " n_nodes"]:
    """The share of each node; 0 of those that no edges join to the target."""
    into, shares = columns.into, np.zeros(len(columns.nodes))
    sources, parts = columns.edges.sources[into.edges], parts[into.edges]
    shares[columns.target] = 1.0
    for node in reversed(columns.order):
        at = into.at(node)
        shares[sources[at]] += shares[node] * parts[at]
    return shares


def followed(graph: Graph, parts: Mapping[Edge, float]) -> float:
    """The part of the target that is followed down to nodes that are not split, 0 to 1.

    On a prompt it is a part of absolute contributions; by weights a part of squares, averaged over the groups
    of a node, without biases.
    """
    split = {edge.target for edge in graph.edges} | set(graph.pruned)
    reached: dict[str, float] = {}
    for name in graph.order:
        node, edges = graph.node(name), graph.into(name)
        if name not in split:
            reached[name] = 1.0
        elif graph.on_prompt or node.kind == "interaction":
            reached[name] = sum((parts[edge] * reached[edge.source] for edge in edges), 0.0)
        else:
            groups = {
                group: sum((parts[edge] * reached[edge.source] for edge in inside), 0.0)
                for group, inside in _groups(graph, node).items()
                if group != "biases"
            }
            groups |= dict.fromkeys(_shown(graph, name).keys() - groups.keys(), 0.0)
            reached[name] = sum(groups.values()) / len(groups) if groups else 1.0
    return reached[graph.target]


def ends(graph: Graph, by: By | None = None) -> dict[Kind, float]:
    """The part of the target that ends at nodes of each kind that are not split.

    They add up to what is followed to the end (`Graph.followed`): the rest is contributions that are not
    shown. Errors are among them, which say where the way through dictionaries stops. On a prompt by slope or
    weight, by default by what the graph was chosen by.

    >>> ends(graph)  # doctest: +SKIP
    {'token': 0.21, 'error': 0.24, 'bias': 0.02}
    """
    parts = edge_parts(graph, by)
    shares = node_shares(graph.columns, np.array([parts[edge] for edge in graph.edges], dtype=np.float64))
    split = {edge.target for edge in graph.edges} | set(graph.pruned)
    result: dict[Kind, float] = defaultdict(float)
    for node, share in zip(graph.nodes, shares.tolist(), strict=True):
        if node.id not in split:
            result[node.kind] += share
    return dict(result)


def variance_carried(graph: Graph) -> dict[int, float]:
    """By layer, the part of the variance of its MLP's outputs at N(0, I) that the products shown can carry.

    It is the mean over the outputs in a static circuit, each weighted by its share; {} for a graph on a
    prompt, and for one whose settings have no `variance`.
    """
    shares, by_layer = graph.shares(), defaultdict[int, list[tuple[float, float]]](list)
    for name, carried in graph.settings.get("variance", {}).items():
        layer = graph.node(name).layer
        by_layer[-1 if layer is None else layer].append((shares[name], carried))
    weights = {layer: sum(share for share, _ in parts) for layer, parts in by_layer.items()}
    return {
        layer: sum(share * carried for share, carried in parts) / weights[layer]
        for layer, parts in by_layer.items()
        if weights[layer]
    }


def settings_of_part(graph: Graph, edges: Sequence[Edge]) -> dict[str, Any]:
    """The settings of a graph that keeps only these edges: `shown` loses the parts of the others, and
    `variance` goes."""
    settings = dict(graph.settings)
    settings.pop("variance", None)  # of the products that the whole graph has
    if "shown" not in settings:
        return settings
    kept, shown = set(edges), {}
    ends = {edge.target for edge in edges} | {graph.target}
    for name, by_group in settings["shown"].items():
        if name not in graph or name not in ends:
            continue
        shown[name] = dict(by_group)
        for group, inside in _groups(graph, graph.node(name)).items():
            squares = sum(edge.weight**2 for edge in inside)
            if group in shown[name] and squares:
                left = sum(edge.weight**2 for edge in inside if edge in kept)
                shown[name][group] *= left / squares
    return settings | {"shown": shown}


def _squares_by_group(graph: Graph, node: Node) -> dict[Edge, float]:
    parts, shown = {}, _shown(graph, node.id)
    for group, edges in _groups(graph, node).items():
        whole = sum(edge.weight**2 for edge in edges)
        for edge in edges:
            parts[edge] = edge.weight**2 / whole * shown.get(group, 1.0) if whole else 0.0
    return parts


def _shown(graph: Graph, node: str) -> dict[str, float]:
    """The part of a node's squares that the graph shows, by group (`static_circuit`)."""
    return graph.settings.get("shown", {}).get(node, {})


def _groups(graph: Graph, node: Node) -> dict[str, list[Edge]]:
    """The edges into a node by group."""
    groups: dict[str, list[Edge]] = defaultdict(list)
    for edge in graph.into(node.id):
        groups[_group(graph, graph.node(edge.source))].append(edge)
    return groups


def _group(graph: Graph, source: Node) -> str:
    """The name that the graph's settings have for the group of an edge."""
    if source.kind == "interaction":
        squares = [graph.node(edge.source).kind == "eigenvector" for edge in graph.into(source.id)]
        return "eigenvectors" if all(squares) else "pairs"
    if source.kind == "feature" and source.site is not None:
        return (
            f"features of {source.site}" if Site.parse(source.site).point == "mlp-out" else "features alone"
        )
    return _GROUPS.get(source.kind, source.kind)
