"""Toy models read from their weights: gates, hops of two gates, features in superposition, Fourier modes."""

from analysis.toys.fourier import frequency_shares
from analysis.toys.gates import (
    GateCoefficients,
    NamedGate,
    gate_coefficients,
    least_error,
    name_gate,
    nearest_gate,
)
from analysis.toys.hops import (
    Hop,
    Hops,
    find_hops,
    gate_values,
    hops_of,
    second_layer_signals,
    share_in_span,
)
from analysis.toys.multilinear import (
    coefficients_of,
    composed_polynomials,
    corner_values,
    degrees,
    layer_polynomials,
)
from analysis.toys.superposition import (
    Geometry,
    Shape,
    canonical_encoder,
    dimensionality,
    geometry,
    solo_reconstruction,
)

__all__ = [
    "GateCoefficients",
    "Geometry",
    "Hop",
    "Hops",
    "NamedGate",
    "Shape",
    "canonical_encoder",
    "coefficients_of",
    "composed_polynomials",
    "corner_values",
    "degrees",
    "dimensionality",
    "find_hops",
    "frequency_shares",
    "gate_coefficients",
    "gate_values",
    "geometry",
    "hops_of",
    "layer_polynomials",
    "least_error",
    "name_gate",
    "nearest_gate",
    "second_layer_signals",
    "share_in_span",
    "solo_reconstruction",
]
