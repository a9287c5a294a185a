"""Nodes of a graph that belong together, found by a rule.

By **positions**: on a prompt one thing stands at several of them, as a feature, the error of a site, a token
or an interaction. Nodes whose ids differ in nothing but positions are a group.

By **readers**: nodes of one kind, layer, site and position that exactly the same nodes read are a group. They
have one role in the graph.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Literal

from analysis.graphs.elements import Node
from analysis.graphs.graph import Graph
from analysis.graphs.view import Supernode
from bilinear_lm.arguments import checked

_POSITION = re.compile(r" ?@\d+(<-\d+)?")

_PLURALS = {"bias": "biases"}


GroupRule = Literal["positions", "readers"]


@checked
def supernodes(graph: Graph, rule: GroupRule | None = None) -> tuple[Supernode, ...]:
    """The groups of two or more nodes by a rule, those of the largest share first; the target is in none.

    The rule is by default "positions" on a prompt, and "readers" by weights alone, where nothing has a
    position. By positions a group is called by what its nodes have in common, "#17 ␣sad, layer 0"; by readers
    by how many there are and what reads them, "3 heads of layer 2 for #540 ␣mom".

    >>> [group.name for group in supernodes(graph)]  # doctest: +SKIP
    ['#17 ␣sad, layer 0', 'error at 0-mlp-out']
    """
    by_positions = graph.on_prompt if rule is None else rule == "positions"
    shared, named = (_place, _thing) if by_positions else (_role, _readers)
    groups: dict[Hashable, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.id != graph.target and graph.out_of(node.id):
            groups[shared(graph, node)].append(node)
    several = [nodes for nodes in groups.values() if len(nodes) > 1]
    shares = graph.shares()
    several.sort(key=lambda nodes: -sum(shares[node.id] for node in nodes))
    names = _unique(named(graph, nodes) for nodes in several)
    return tuple(
        Supernode(name, tuple(node.id for node in nodes)) for name, nodes in zip(names, several, strict=True)
    )


def _place(graph: Graph, node: Node) -> Hashable:
    return _POSITION.sub("", node.id) if node.position is not None else node.id


def _role(graph: Graph, node: Node) -> Hashable:
    readers = frozenset(edge.target for edge in graph.out_of(node.id))
    return node.kind, node.layer, node.site, node.position, readers


def _thing(graph: Graph, nodes: list[Node]) -> str:
    """The name of one thing at several positions."""
    node = nodes[0]
    if node.kind == "error":
        return f"error at {node.site}"
    if node.kind in ("head", "score"):
        return f"{node.kind} {node.layer}.{node.index}"
    if node.kind == "feature" and not node.label:
        return f"#{node.index} at {node.site}"
    name = node.label or _POSITION.sub("", node.id)
    return name if node.layer is None else f"{name}, layer {node.layer}"


def _readers(graph: Graph, nodes: list[Node]) -> str:
    """The name of nodes of one role: how many they are, and for which readers."""
    node, (reader, *others) = nodes[0], [graph.node(edge.target) for edge in graph.out_of(nodes[0].id)]
    kind = _PLURALS.get(node.kind, f"{node.kind}s")
    layer = "" if node.layer is None else f" of layer {node.layer}"
    # Of a logit against others the first part: blanks of tokens are signs in labels.
    read = reader.text.partition(" - ")[0] if reader.kind == "logit" else reader.text
    return f"{len(nodes)} {kind}{layer} for {read}{' and others' if others else ''}"


def _unique(names: Iterable[str]) -> list[str]:
    """The names, each later one of a kind with a number behind it."""
    taken: dict[str, None] = {}
    for name in names:
        own, n = name, 1
        while own in taken:
            n += 1
            own = f"{name} ({n})"
        taken[own] = None
    return list(taken)
