"""Labels for the nodes of a finished graph: the text of tokens, the passages of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.features.names import numbered
from analysis.graphs.elements import Node
from analysis.graphs.graph import Graph
from analysis.graphs.nodes import logit_tokens
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Site

if TYPE_CHECKING:
    pass

FeatureNames = Mapping[Site, Mapping[int, str] | Sequence[str]]
"""By site, the name of each feature without its number; not all have to have one."""


@checked
def labelled(graph: Graph, vocabulary: Vocabulary | None = None, names: FeatureNames | None = None) -> Graph:
    """The graph with labels: tokens and logits by `vocabulary`, features by number and `names`, pairs by
    their inputs.

    Nodes that neither knows keep their labels. Raises InputError for a vocabulary without a token of
    the graph, and for names that are fewer than the features.
    """
    labels = {node.id: _label(node, vocabulary, names or {}) for node in graph.nodes}
    for node in graph.of_kind("interaction"):
        inputs = [edge.source for edge in graph.into(node.id)]
        both = [labels[source] or source for source in inputs] * (2 if len(inputs) == 1 else 1)
        labels[node.id] = " × ".join(both)
    texts = graph.texts
    if vocabulary is not None and graph.tokens is not None:
        texts = tuple(_text(vocabulary, token) for token in graph.tokens)
    nodes = tuple(replace(node, label=labels[node.id]) for node in graph.nodes)
    return replace(graph, nodes=nodes, texts=texts)


def sites_of(*graphs: Graph) -> list[Site]:
    """The sites of the features of graphs, in order."""
    nodes = (node for graph in graphs for node in graph.of_kind("feature"))
    sites = {node.site for node in nodes if node.site is not None}
    return sorted(map(Site.parse, sites))


def _label(node: Node, vocabulary: Vocabulary | None, names: FeatureNames) -> str:
    if node.kind == "feature" and node.site is not None and node.index is not None:
        name = _name(names, Site.parse(node.site), node.index)
        return numbered(node.index, name) if name else node.label
    if vocabulary is None:
        return node.label
    if node.kind == "token" and node.index is not None:
        return _text(vocabulary, node.index, label=True)
    if node.kind == "logit":
        own, against = (
            ", ".join(_text(vocabulary, token, label=True) for token in tokens)
            for tokens in logit_tokens(node)
        )
        return own + (f" - {against}" if against else "")
    return node.label


def _name(names: FeatureNames, site: Site, feature: int) -> str:
    known = names.get(site, {})
    if isinstance(known, Mapping):
        return known.get(feature, "")
    if feature >= len(known):
        raise InputError(
            f"{len(known)} names for the features of {site}, with {feature} among them; expected all"
        )
    return known[feature]


def _text(vocabulary: Vocabulary, token: int, label: bool = False) -> str:
    if token >= len(vocabulary.texts):
        raise InputError(
            f"a vocabulary of {len(vocabulary.texts)} tokens for a graph with token {token}; expected that "
            "of the model"
        )
    return vocabulary.label(token) if label else vocabulary.texts[token]
