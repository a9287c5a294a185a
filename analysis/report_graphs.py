"""Graphs on the page of a report: their features called as the features part calls them."""

from __future__ import annotations

from analysis.graph import Graph
from analysis.report_features import FeatureData
from analysis.tracing import labelled
from analysis.vocabulary import Vocabulary
from bilinear_lm.dictionary import Site


def named_graph(graph: Graph, features: FeatureData, vocabulary: Vocabulary) -> Graph:
    """The graph with the names of its features, those of sites that the report has."""
    sides = {side.site: side for reading in features.layers for side in (reading.inputs, reading.outputs)}
    labels = {}
    for node in graph.of_kind("feature"):
        if node.site is not None and node.index is not None and Site.parse(node.site) in sides:
            labels[node.id] = sides[Site.parse(node.site)].contexts.name(node.index, vocabulary)
    return labelled(graph, labels)
