"""Interactions that a graph groups by their inputs, opened: each of them at one output."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from analysis.circuits.attribution import Attribution
from analysis.circuits.catalogue import Catalogue
from analysis.circuits.prompt.mlp import split_mlp
from analysis.circuits.readers import Limits
from analysis.graphs.elements import Node
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError


@dataclass(frozen=True)
class OpenInteraction:
    """Two inputs of an MLP, and what their product adds to one of its outputs."""

    left: Node
    right: Node
    """The same as `left` for the square of an input."""
    weight: float
    slope: float
    """The same along the output's derivative, which is another where a norm lies behind the MLP."""
    in_graph: bool
    """Whether it is a node of the graph, and no part of the edges of its inputs."""


@checked
def open_interactions(
    attribution: Attribution, output: str, source: str | None = None, k: int = 20
) -> tuple[OpenInteraction, ...]:
    """The k strongest interactions at an MLP output of a graph, or those of one input `source` alone.

    With an input dictionary u · B(x, x) holds Σ_ij c_i c_j f_iᵀ Q_u f_j of active features: the interaction
    of i and j is 2 c_i c_j f_iᵀ Q_u f_j, of i with itself c_i² f_iᵀ Q_u f_i (arXiv 2410.08417, section 3.3).
    They come by what the graph was chosen by, slope or weight. Those that are no nodes of the graph add up to
    `Edge.grouped` of a source: half of each, its square whole. Features that the graph does not have are
    among them, and are not labelled.

    >>> for pair in open_interactions(attribution, "2-mlp-out 17 @5", k=3):  # doctest: +SKIP
    ...     print(pair.left.text, pair.right.text, pair.weight)

    Raises InputError for a node that does not read an MLP's output, and a source that is not in the graph.
    """
    require_count(k, f"k={k} interactions")
    graph, prompt = attribution.graph, attribution.prompt
    node = graph.node(output)
    if output not in attribution.readers:
        raise InputError(
            f"node {output!r} does not read the output of an MLP, so that it has no interactions; expected "
            "a feature at mlp-out or a direction that the graph splits"
        )
    if source is not None:
        graph.node(source)
    if graph.settings["norms"] == "held":
        prompt = prompt.holding_norms()
    every = Limits(share=1.0, at_most=sys.maxsize, heads_in_a_row=0, by=graph.by)
    catalogue = Catalogue()
    (group,) = split_mlp(prompt, [(node, attribution.readers[output])], every, catalogue)
    own = {
        frozenset(edge.source for edge in graph.into(inner.source))
        for inner in graph.into(output)
        if graph.node(inner.source).kind == "interaction"
    }
    opened = []
    columns = (getattr(group, name).tolist() for name in ("sources", "partners", "weights", "slopes"))
    for first, second, weight, slope in zip(*columns, strict=True):
        if second < 0:
            continue
        ends = [catalogue[number].node for number in (first, second)]
        if source is not None and source not in {node.id for node in ends}:
            continue
        left, right = (graph.node(node.id) if node.id in graph else node for node in ends)
        opened.append(OpenInteraction(left, right, weight, slope, frozenset((left.id, right.id)) in own))
    return tuple(opened[:k])
