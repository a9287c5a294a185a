"""`Graph`, a value as nodes and edges that add up: its files, summary, effects and exports."""

from analysis.graphs.effects import Completeness, carried, completeness, effects, predict_target
from analysis.graphs.elements import Edge, Kind, Node, Pruned
from analysis.graphs.export import save_circuit_tracer, to_circuit_tracer, to_networkx
from analysis.graphs.files import load_graph, save_graph
from analysis.graphs.graph import Graph, Pruning
from analysis.graphs.summary import GraphPath, describe, strongest_paths, summary

__all__ = [
    "Completeness",
    "Edge",
    "Graph",
    "GraphPath",
    "Kind",
    "Node",
    "Pruned",
    "Pruning",
    "carried",
    "completeness",
    "describe",
    "effects",
    "load_graph",
    "predict_target",
    "save_circuit_tracer",
    "save_graph",
    "strongest_paths",
    "summary",
    "to_circuit_tracer",
    "to_networkx",
]
