"""How well polynomials stand for a network's layers: on text, in the loss, and in adversarial examples."""

from analysis.polynomials.attacks import Attack, AttackSuccess, attack_success, eigen_attack, svd_attack
from analysis.polynomials.layers import (
    LayerPolynomials,
    ReplacementLosses,
    approximate_layers,
    replacement_losses,
)

__all__ = [
    "Attack",
    "AttackSuccess",
    "LayerPolynomials",
    "ReplacementLosses",
    "approximate_layers",
    "attack_success",
    "eigen_attack",
    "replacement_losses",
    "svd_attack",
]
