"""`Graph`: the contributions to a value, as nodes and edges whose weights add up.

**Nodes.** A node is a number that the model computes, or an input of it that is not split further:

| kind | what it is | value |
|---|---|---|
| target | the value asked for, where it is none of the kinds below | that value |
| logit | a logit, or a difference of logits | that value |
| feature | a feature of a dictionary at its site | its code |
| eigenvector | an eigenvector v of an interaction matrix | v · x |
| direction | what an MLP writes, along one direction u | u · B(x, x) |
| interaction | two inputs of an MLP at one of its outputs | what the pair adds to that output |
| head | what a head moves from one position to another, along one direction | that number |
| score | an attention score above the mean of those that its query reads; moves what its head writes | that |
| token | the embedding of a token (not split) | none |
| error | what a dictionary leaves out (not split) | none |
| bias | what biases add (not split) | none |

**Edges.** An edge says what its source adds to the value of its target. Over the edges into a node

    Σ weights + pruned.signed = value,

where `pruned` holds what is not shown; a node with neither edges in nor an entry of `pruned` is not split.
**Interactions are nodes of their own**, two in and one out: the edge from an interaction to its output
carries what the pair adds, and each of the edges from its inputs repeats that number, to say who takes part.
An interaction of an input with itself (a square) has one edge in. So the edges into an interaction are not to
be added up; those into all other nodes are.

**Interactions too weak to be nodes are grouped by their inputs**: half of each is in the edge from either of
its inputs to the output (`Edge.grouped`), so that nothing of them is lost where both are in the graph.

A graph of weights alone has no prompt: its nodes have no position and no value, and an edge's weight is the
coefficient instead of the contribution.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from analysis.graphs.columns import GraphColumns
from analysis.graphs.elements import By, Edge, Kind, Node, Pruned
from analysis.graphs.pruning import part_of, strongest_nodes
from analysis.graphs.shares import edge_parts, followed, node_shares, parts_on_prompt, settings_of_part
from bilinear_lm.errors import InputError
from bilinear_lm.shown import Words, shown, shown_by


@shown
@dataclass(frozen=True)
class Graph:
    """Nodes and edges that lead to a target; `analysis.graphs.graph` says what they mean.

    Raises InputError for two nodes of one id, an edge to a node that is not there, two edges between the same
    nodes, and a cycle.

    >>> nodes = (Node("logit 7 @1", "logit", value=2.0), Node("token 5 @1", "token"))
    >>> graph = Graph(nodes, (Edge("token 5 @1", "logit 7 @1", 2.0),), target="logit 7 @1")
    >>> graph.into("logit 7 @1")
    (Edge(source='token 5 @1', target='logit 7 @1', weight=2.0),)
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    target: str
    """The id of the node that all others lead to."""
    model: str | None = None
    tokens: tuple[int, ...] | None = None
    """The prompt; None for a graph of weights alone."""
    texts: tuple[str, ...] | None = None
    """The text of each token of the prompt, where it is known."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How the graph was made, in values that JSON can hold."""
    pruned: Mapping[str, Pruned] = field(default_factory=dict)
    """Contributions to each node that the graph does not show."""

    def _told(self) -> dict[str, Any]:
        target, kinds = self.node(self.target), Counter(node.kind for node in self.nodes)
        value = "from weights alone" if target.value is None else f"= {target.value:.4g}"
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(4))
        return {
            "target": Words(f"{target.text} [{target.id}] {value}"),
            "nodes": Words(f"{len(self)} ({listed}{', …' if len(kinds) > 4 else ''})"),
            "edges": len(self.edges),
            "followed": Words(f"{self.shown:.0%}"),
            "model": self.model,
        }

    _repr_html_ = shown_by("analysis.report.notebook", "graph_html")

    def __post_init__(self):
        for what, kind in (("nodes", Node), ("edges", Edge)):
            if odd := [entry for entry in getattr(self, what) if not isinstance(entry, kind)]:
                raise InputError(
                    f"{what} of a graph: got a {type(odd[0]).__name__}; expected {kind.__name__}s"
                )
        self.check()

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, node: object) -> bool:
        return node in self._by_id

    def node(self, node: str) -> Node:
        """The node of an id."""
        if node not in self._by_id:
            raise InputError(f"node {node!r} is not in the graph; expected one of its {len(self)} ids")
        return self._by_id[node]

    def into(self, node: str) -> tuple[Edge, ...]:
        """The edges into a node, strongest first."""
        self.node(node)
        return self._edges_into.get(node, ())

    def out_of(self, node: str) -> tuple[Edge, ...]:
        """The edges out of a node, strongest first."""
        self.node(node)
        return self._edges_out_of.get(node, ())

    def of_kind(self, *kinds: Kind) -> tuple[Node, ...]:
        """The nodes of these kinds."""
        return tuple(node for node in self.nodes if node.kind in kinds)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All ids so that every edge goes forward."""
        return tuple(self.nodes[number].id for number in self.columns.order)

    @cached_property
    def columns(self) -> GraphColumns:
        """The graph on numbers, nodes in their order."""
        return GraphColumns.of(self.nodes, self.edges, self.target, self.pruned)

    def check(self) -> None:
        """Raises InputError unless ids are unique, edges join nodes of the graph, and there is no cycle."""
        if doubled := [node for node, count in Counter(node.id for node in self.nodes).items() if count > 1]:
            raise InputError(f"two nodes of a graph are {doubled[0]!r}; expected ids of their own")
        ends = {"the target": [self.target], "an entry of pruned": self.pruned}
        ends |= {"an edge": [end for edge in self.edges for end in (edge.source, edge.target)]}
        for name, named in ends.items():
            if missing := [node for node in named if node not in self._by_id]:
                raise InputError(f"{name} of a graph names {missing[0]!r}, which is none of its nodes")
        if len(self.columns.edges.summed()) < len(self.edges):
            raise InputError("two edges of a graph join the same nodes; expected their sum as one edge")
        if len(self.columns.order) < len(self.nodes):
            ordered = set(self.order)
            inside = next(node.id for node in self.nodes if node.id not in ordered)
            raise InputError(f"a cycle of edges leads to {inside!r}; expected edges from inputs to outputs")
        if self.texts is not None and len(self.texts) != len(self.tokens or ()):
            raise InputError(
                f"a graph has {len(self.texts)} texts for {len(self.tokens or ())} tokens; expected one each"
            )

    @property
    def on_prompt(self) -> bool:
        """Whether nodes have values and positions; a graph of weights alone has coefficients."""
        return self.node(self.target).value is not None

    @property
    def has_slopes(self) -> bool:
        """Whether nodes and edges have slopes; those of weights alone and of older files have none."""
        return self.node(self.target).slope is not None

    @property
    def by(self) -> By:
        """The number that nodes and edges of a graph of a prompt were chosen by, which its shares follow."""
        return "slope" if self.settings.get("by") == "slope" else "weight"

    @cached_property
    def parts(self) -> Mapping[Edge, float]:
        """The part, 0 to 1, that each edge has of the node that it leads to; see `analysis.graphs.shares`."""
        return edge_parts(self)

    def shares(self) -> dict[str, float]:
        """How much of the target goes through each node, 0 to 1; see `analysis.graphs.shares`.

        The target has 1, and a node hands its share on to what it is made of by `parts`: on a prompt in
        proportion to |slope| or |weight| (`by`), by weights alone to weight² among edges of one unit, what is
        pruned counted in all. An interaction hands it on in equal parts. Nodes that no edges join to the
        target have 0.
        """
        return dict(zip(self.columns.ids, self._shares.tolist(), strict=True))

    @cached_property
    def _shares(self) -> Float[np.ndarray, " n_nodes"]:
        if self.on_prompt:
            parts = parts_on_prompt(self.columns, self.by)
        else:
            parts = np.array([self.parts[edge] for edge in self.edges], dtype=np.float64)
        return node_shares(self.columns, parts)

    def prune(self, max_nodes: int | None = None, min_share: float = 0.0) -> Pruning:
        """The graph with only its strongest nodes, by `shares`: at most `max_nodes`, each of `min_share`.

        The target stays. An interaction stays together with its inputs or not at all, and so does what no
        longer leads to the target. What goes is added to `pruned` of the nodes that it went into; where the
        graph groups interactions, they join the edges of their inputs.
        """
        if max_nodes is not None and max_nodes < 1:
            raise InputError(f"max_nodes={max_nodes}; expected at least 1, the target")
        if not 0 <= min_share <= 1:
            raise InputError(f"min_share={min_share}; expected 0 to 1")
        return self._part(strongest_nodes(self.columns, self._shares, max_nodes, min_share))

    def subgraph(self, ids: Iterable[str]) -> Pruning:
        """The graph of some of its nodes, among them the target.

        Of these, nodes go that do not lead to the target, and interactions one of whose inputs is left out.
        Contributions of what is left out are added to `pruned`; where the graph groups interactions, they
        first join the edges of their inputs.
        """
        kept = {self.node(node).id for node in ids}
        if self.target not in kept:
            raise InputError(f"a subgraph without the target {self.target!r}; expected it among the nodes")
        return self._part(np.array([node.id in kept for node in self.nodes]))

    def _part(self, chosen: Bool[np.ndarray, " n_nodes"]) -> Pruning:
        part = part_of(self.columns, chosen, self.settings.get("interactions") == "grouped")
        edges = part.columns.edges.listed(part.columns.ids)
        graph = replace(
            self,
            nodes=part.columns.nodes,
            edges=edges,
            settings=settings_of_part(self, edges),
            pruned=part.columns.listed_pruned(),
        )
        gone = np.flatnonzero(~part.kept)
        gone = gone[np.argsort(self._shares[gone], kind="stable")][::-1]
        removed = tuple(self.nodes[number].id for number in gone.tolist())
        return Pruning(graph, removed, len(self.edges) - len(edges))

    @cached_property
    def shown(self) -> float:
        """The part of the target that is followed down to nodes that are not split, 0 to 1.

        On a prompt it is a part of absolute slopes or contributions, as the graph was chosen (`by`); by
        weights a part of squares, averaged over the groups of a node.
        """
        return followed(self, self.parts)

    def followed(self, by: By) -> float:
        """The same of a graph on a prompt by slope or by weight, whatever it was chosen by."""
        return followed(self, edge_parts(self, by))

    def followed_by_each(self) -> dict[By, float]:
        """`followed` by slope, if the graph has slopes, and by weight."""
        return {by: self.followed(by) for by in get_args(By) if by == "weight" or self.has_slopes}

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def _edges_into(self) -> dict[str, tuple[Edge, ...]]:
        return _grouped(self.edges, "target")

    @cached_property
    def _edges_out_of(self) -> dict[str, tuple[Edge, ...]]:
        return _grouped(self.edges, "source")


@shown
@dataclass(frozen=True)
class Pruning:
    """A smaller graph, and the nodes that were removed."""

    graph: Graph
    removed: tuple[str, ...]
    """The nodes that went, of the largest share first."""
    removed_edges: int

    def __str__(self) -> str:
        whole = len(self.graph) + len(self.removed)
        return (
            f"{len(self.removed)} of {whole} nodes and {self.removed_edges} of "
            f"{self.removed_edges + len(self.graph.edges)} edges were pruned"
        )


def _grouped(edges: Sequence[Edge], end: Literal["source", "target"]) -> dict[str, tuple[Edge, ...]]:
    """Edges by one of their ends, strongest first, by weight."""
    groups: dict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        groups[getattr(edge, end)].append(edge)
    return {node: tuple(sorted(group, key=lambda edge: -abs(edge.weight))) for node, group in groups.items()}
