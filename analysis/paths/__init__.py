"""A measured prompt, and a model's values on it as sums over its parts."""

from analysis.paths.components import Component, Components
from analysis.paths.logits import LogitExpansion, expand_along, expand_logits
from analysis.paths.measured import Measured, MeasuredLayer, measure
from analysis.paths.mlp import PathExpansion, expand_mlp
from analysis.paths.tokens import (
    PathToken,
    TokenInteraction,
    TokenPaths,
    read_along,
    strongest_token_interactions,
    token_paths,
)

__all__ = [
    "Component",
    "Components",
    "LogitExpansion",
    "Measured",
    "MeasuredLayer",
    "PathExpansion",
    "PathToken",
    "TokenInteraction",
    "TokenPaths",
    "expand_along",
    "expand_logits",
    "expand_mlp",
    "measure",
    "read_along",
    "strongest_token_interactions",
    "token_paths",
]
