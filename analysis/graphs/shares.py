"""How strong the nodes and edges of a graph are beside each other, on a prompt and by weights alone.

An edge has a **part** of its target, and a node's **strength** is 1 for the target, else the sum over the
edges out of it of part · strength of what they lead to. An interaction has its inputs as equal parts.
Elsewhere

- on a prompt a part is |weight| / Σ |contributions|, what is pruned counted: strengths are `Graph.shares`;
- by weights alone coefficients have units of their own: parts are weight² / Σ weight² among the edges of one
  kind (tokens; heads; features of one dictionary; …), times how much of these squares the graph shows.
"""

from __future__ import annotations

from collections import defaultdict

from analysis.graphs.graph import Edge, Graph, Node
from bilinear_lm.sites import Site

_GROUPS = {"token": "tokens", "head": "heads", "direction": "MLPs", "bias": "biases"}


def edge_parts(graph: Graph) -> dict[Edge, float]:
    """The part that each edge has of the node that it leads to."""
    on_prompt = graph.node(graph.target).value is not None
    parts: dict[Edge, float] = {}
    for node in graph.nodes:
        edges = graph.into(node.id)
        if node.kind == "interaction":
            parts |= dict.fromkeys(edges, 1 / len(edges) if edges else 0.0)
        elif on_prompt:
            whole = sum(abs(edge.weight) for edge in edges)
            whole += graph.pruned[node.id].absolute if node.id in graph.pruned else 0.0
            parts |= {edge: abs(edge.weight) / whole if whole else 0.0 for edge in edges}
        else:
            parts |= _by_group(graph, node)
    return parts


def strengths(graph: Graph, parts: dict[Edge, float] | None = None) -> dict[str, float]:
    """The strength of each node, by `edge_parts`."""
    parts = edge_parts(graph) if parts is None else parts
    found = {node.id: 0.0 for node in graph.nodes}
    found[graph.target] = 1.0
    for name in reversed(graph.order):
        for edge in graph.into(name):
            found[edge.source] += found[name] * parts[edge]
    return found


def _by_group(graph: Graph, node: Node) -> dict[Edge, float]:
    groups: dict[str, list[Edge]] = defaultdict(list)
    for edge in graph.into(node.id):
        groups[_group(graph, graph.node(edge.source))].append(edge)
    shown = graph.settings.get("shown", {}).get(node.id, {})
    parts = {}
    for name, edges in groups.items():
        whole = sum(edge.weight**2 for edge in edges)
        for edge in edges:
            parts[edge] = edge.weight**2 / whole * shown.get(name, 1.0) if whole else 0.0
    return parts


def _group(graph: Graph, source: Node) -> str:
    """The name that the graph's settings have for the kind of an edge."""
    if source.kind == "interaction":
        squares = [graph.node(edge.source).kind == "eigenvector" for edge in graph.into(source.id)]
        return "eigenvectors" if all(squares) else "pairs"
    if source.kind == "feature" and source.site is not None:
        return (
            f"features of {source.site}" if Site.parse(source.site).point == "mlp-out" else "features alone"
        )
    return _GROUPS.get(source.kind, source.kind)
