"""How well polynomials stand for a network's layers: on text, in the loss, and in adversarial examples."""

from analysis.polynomials.attacks import Attack, AttackSuccess, attack_success, eigen_attack, svd_attack
from analysis.polynomials.layers import (
    LayerPolynomials,
    ReplacementLosses,
    approximate_layers,
    replacement_losses,
)
from analysis.polynomials.quadratic_model import QuadraticModel, quadratic_model
from analysis.polynomials.training import TrainingPolynomials, approximate_training

__all__ = [
    "Attack",
    "AttackSuccess",
    "LayerPolynomials",
    "QuadraticModel",
    "ReplacementLosses",
    "TrainingPolynomials",
    "approximate_layers",
    "approximate_training",
    "attack_success",
    "eigen_attack",
    "quadratic_model",
    "replacement_losses",
    "svd_attack",
]
