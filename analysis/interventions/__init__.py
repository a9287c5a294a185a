"""A model with an MLP replaced, interactions taken out, or attention and norms frozen."""

from analysis.interventions.frozen import frozen
from analysis.interventions.interactions import (
    AblationControl,
    AblationEffect,
    ablated,
    ablation_control,
    random_interactions,
)
from analysis.interventions.mlp import TruncationCosts, replaced_mlp, truncation_costs

__all__ = [
    "AblationControl",
    "AblationEffect",
    "TruncationCosts",
    "ablated",
    "ablation_control",
    "frozen",
    "random_interactions",
    "replaced_mlp",
    "truncation_costs",
]
