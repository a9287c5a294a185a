"""`Graph`, a value as nodes and edges that add up: its files, summary, effects and exports."""

from analysis.graphs.effects import Completeness, carried, completeness, effects, predict_target
from analysis.graphs.elements import Edge, Kind, Node, Pruned
from analysis.graphs.export import save_circuit_tracer, to_circuit_tracer, to_networkx
from analysis.graphs.files import load_graph, save_graph
from analysis.graphs.graph import Graph, Pruning
from analysis.graphs.groups import supernodes
from analysis.graphs.shares import ends, variance_carried
from analysis.graphs.summary import GraphPath, describe, strongest_paths, summary
from analysis.graphs.view import GraphView, Supernode, load_view, save_view

__all__ = [
    "Completeness",
    "Edge",
    "Graph",
    "GraphPath",
    "GraphView",
    "Kind",
    "Node",
    "Pruned",
    "Pruning",
    "Supernode",
    "carried",
    "completeness",
    "describe",
    "effects",
    "ends",
    "load_graph",
    "load_view",
    "predict_target",
    "save_circuit_tracer",
    "save_graph",
    "save_view",
    "strongest_paths",
    "summary",
    "supernodes",
    "to_circuit_tracer",
    "to_networkx",
    "variance_carried",
]
