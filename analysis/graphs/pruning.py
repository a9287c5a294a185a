"""Parts of a graph: which nodes are the strongest, and what a graph is without the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.graphs.columns import EdgeColumns, Ends, GraphColumns


@dataclass(frozen=True)
class Part:
    """A graph of some nodes of another."""

    columns: GraphColumns
    kept: Bool[np.ndarray, " n_nodes"]
    """Which nodes of the other graph it has."""


def strongest_nodes(
    whole: GraphColumns,
    shares: Float[np.ndarray, " n_nodes"],
    max_nodes: int | None = None,
    min_share: float = 0.0,
) -> Bool[np.ndarray, " n_nodes"]:
    """Which nodes have the largest shares; the target is among them, interactions are with their inputs."""
    strong = [node for node in whole.order if shares[node] >= min_share and node != whole.target]
    strong.sort(key=shares.tolist().__getitem__, reverse=True)
    kept = {whole.target}
    for node in strong:
        group = {node}
        if whole.is_interaction[node]:
            group.update(whole.edges.sources[whole.into.edges[whole.into.at(node)]].tolist())
        if max_nodes is None or len(kept) + len(group - kept) <= max_nodes:
            kept |= group
    chosen = np.zeros(len(whole.nodes), dtype=bool)
    chosen[list(kept)] = True
    return chosen


def part_of(whole: GraphColumns, chosen: Bool[np.ndarray, " n_nodes"], grouping: bool) -> Part:
    """The graph of some nodes, among them the target.

    Of these, nodes go that do not lead to the target, and interactions one of whose inputs is left out.
    Contributions of what is left out are added to what is pruned; with `grouping` those of interactions first
    join the edges of their inputs.
    """
    target, lacking = whole.target, np.zeros_like(chosen)
    lacking[whole.edges.targets[~chosen[whole.edges.sources]]] = True
    kept = chosen & ~(whole.is_interaction & lacking)
    kept[target] = True
    edges = _grouped(whole, kept) if grouping else whole.edges
    out_of = Ends.of(edges.sources, edges.weights, len(kept))
    targets = edges.targets[out_of.edges]
    for node in reversed(whole.order):
        if kept[node] and node != target and not kept[targets[out_of.at(node)]].any():
            kept[node] = False
    inside, number = kept[edges.sources] & kept[edges.targets], kept.cumsum() - 1
    left = edges[kept[edges.targets] & ~kept[edges.sources]]
    pruned, split = _with_left(whole, left)
    edges = edges[inside]
    columns = GraphColumns(
        tuple(node for node, is_kept in zip(whole.nodes, kept.tolist(), strict=True) if is_kept),
        int(number[target]),
        replace(edges, sources=number[edges.sources], targets=number[edges.targets]),
        pruned[kept],
        number[split[kept[split]]],
    )
    return Part(columns, kept)


def _with_left(whole: GraphColumns, left: EdgeColumns) -> tuple[np.ndarray, Int[np.ndarray, " n_split"]]:
    """The pruned contributions with some edges more, and the nodes that have an entry then."""
    pruned = whole.pruned.copy()
    np.add.at(pruned, left.targets, left.as_pruned())
    targets, first = np.unique(left.targets, return_index=True)
    new = targets[np.argsort(first)]
    return pruned, np.concatenate([whole.split, new[~np.isin(new, whole.split)]])


def _grouped(whole: GraphColumns, kept: Bool[np.ndarray, " n_nodes"]) -> EdgeColumns:
    """The edges, with those of interactions that are not kept added to the edges of their inputs."""
    edges, gone = whole.edges, whole.is_interaction & ~kept
    outer = np.flatnonzero(gone[edges.sources])
    outer_of = Ends.of(edges.sources[outer], edges.weights[outer], len(kept))
    passed = [edges[~gone[edges.sources] & ~gone[edges.targets]]]
    for node in np.flatnonzero(gone).tolist():
        inputs = whole.into.edges[whole.into.at(node)]
        outputs = edges.targets[outer[outer_of.edges[outer_of.at(node)]]]
        inner = edges[np.repeat(inputs, len(outputs))]
        weights = inner.weights / len(inputs)
        targets = np.tile(outputs, len(inputs))
        passed.append(EdgeColumns(inner.sources, targets, weights, inner.slopes, weights))
    return EdgeColumns.joined(passed).summed()
