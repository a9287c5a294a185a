"""Graphs grown down from a target, on a prompt or by weights alone, and their causal checks."""

from analysis.circuits.agreement import (
    Agreement,
    CausalCheck,
    Intervention,
    patch_node,
    scale_nodes,
    steer_node,
)
from analysis.circuits.attribution import Attribution, attribute
from analysis.circuits.causal import causal_check
from analysis.circuits.coactivation import Coactivation, coactivations
from analysis.circuits.labels import labelled
from analysis.circuits.opened import OpenInteraction, open_interactions
from analysis.circuits.prompt.prompt import Prompt, open_prompt
from analysis.circuits.static import static_circuit
from analysis.circuits.targets import (
    DirectionTarget,
    EigenvectorTarget,
    FeatureTarget,
    LogitTarget,
    ScoreTarget,
)
from analysis.circuits.trace import trace, trace_prompts

__all__ = [
    "Agreement",
    "Attribution",
    "CausalCheck",
    "Coactivation",
    "DirectionTarget",
    "EigenvectorTarget",
    "FeatureTarget",
    "Intervention",
    "LogitTarget",
    "OpenInteraction",
    "Prompt",
    "ScoreTarget",
    "attribute",
    "causal_check",
    "coactivations",
    "labelled",
    "open_interactions",
    "open_prompt",
    "patch_node",
    "scale_nodes",
    "static_circuit",
    "steer_node",
    "trace",
    "trace_prompts",
]
