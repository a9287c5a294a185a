"""Gates in bilinear layers: their equations and their names, from the weights alone.

With biases a layer on boolean inputs is Σ_ij f_ij x_i x_j + Σ_i b_i x_i + γ, where only f_ii + b_i, f_ij +
f_ji and γ are fixed by its values. So a layer of two inputs is XOR exactly when f_00 + b_0 = f_11 + b_1 = 1,
f_01 + f_10 = −2 and γ = 0; AND when these are 0, 0, 1, 0; XNOR when −1, −1, 2, 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.toys.multilinear import coefficients_of, composed_polynomials, corner_values, degrees
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_finite_numbers, require_index, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import gate_name
from bilinear_lm.shown import first_numbers, shown
from bilinear_lm.tensor import BilinearTensor

TOLERANCE = 0.1
"""How far the values of a gate may lie from 0 and 1 to have its name, by default."""


@shown
@dataclass(frozen=True)
class GateCoefficients:
    """The identified part of a layer on boolean inputs: constant, linear part and pairs."""

    constant: Float[Tensor, "*axes"]
    """γ."""
    linear: Float[Tensor, "*axes n"]
    """f_ii + b_i."""
    pairs: Float[Tensor, "*axes n n"]
    """f_ij + f_ji, symmetric, 0 on the diagonal."""

    def _first(self) -> dict[str, Any]:
        return {"linear": first_numbers(self.linear)} if self.linear.ndim == 1 else {}


@checked
def gate_coefficients(tensor: BilinearTensor) -> GateCoefficients:
    """The coefficients of every output of a layer on boolean inputs, [*batch, d_out] and their own axes.

    >>> tensor = ToyModel(ToySettings(n_inputs=2)).folded()[0]
    >>> gate_coefficients(tensor).pairs.shape
    torch.Size([1, 2, 2])
    """
    n = tensor.d_in - tensor.constant
    polynomials = composed_polynomials([tensor])
    places = 2 ** torch.arange(n - 1, -1, -1, device=polynomials.device)
    pairs = polynomials[..., places[:, None] | places]
    pairs = pairs * (1 - torch.eye(n, dtype=pairs.dtype, device=pairs.device))
    return GateCoefficients(polynomials[..., 0], polynomials[..., places], pairs)


@shown
@dataclass(frozen=True)
class NamedGate:
    """A gate that was named from the weights."""

    name: str | None
    """Name of the gate, its table in digits if it has none; None where the values are not near 0 and 1."""
    table: Float[Tensor, " corners"]
    """The nearest truth table."""
    error: float
    """The largest distance of a value from the table."""


@checked
def name_gate(
    tensors: BilinearTensor | Sequence[BilinearTensor], output: int = 0, tolerance: float = TOLERANCE
) -> NamedGate:
    """The gate that an output computes, of one layer or of layers that follow each other, by their weights.

    The values on all inputs follow from the coefficients of the multilinear polynomial; the name is given
    where every one is within `tolerance` of 0 or of 1. InputError for a batch of layers, an output that does
    not exist, and a tolerance that is not between 0 and ½.

    >>> layer = BilinearTensor(torch.eye(2), torch.eye(2).flip(0), torch.tensor([[1.0], [0.0]]))
    >>> name_gate(layer).name
    'AND'
    """
    tensors = [tensors] if isinstance(tensors, BilinearTensor) else tensors
    if any(tensor.batch_shape for tensor in tensors):
        raise InputError("name_gate takes single layers; give the layers of a batch one by one")
    polynomials = composed_polynomials(tensors)
    require_index(output, len(polynomials), "output")
    return nearest_gate(corner_values(polynomials[output]), tolerance)


@checked
def nearest_gate(values: Float[Tensor, " corners"], tolerance: float = TOLERANCE) -> NamedGate:
    """The gate with these values on all inputs, within `tolerance`."""
    require_number(
        tolerance,
        f"tolerance {tolerance}",
        "0 to below 0.5: values nearer to neither would have a name",
        least=0,
        most=math.nextafter(0.5, 0),
    )
    table = (values >= 0.5).to(values.dtype)
    error = float((values - table).abs().max())
    return NamedGate(gate_name(table) if error <= tolerance else None, table, error)


@checked
def least_error(
    tables: Float[Tensor, "*axes corners"], degree: int = 2, *, bias: bool = True
) -> Float[Tensor, "*axes"]:
    """The least mean squared error of polynomials of a degree on truth tables; 0 for gates that it can be.

    A bilinear layer with enough hidden units is any polynomial of degree 2, two layers of degree 4; without
    biases any without a constant. So a gate of two inputs needs biases exactly where f(0, 0) = 1. One of
    three inputs is a layer with biases exactly where as many of its ones have an even as an odd number of
    inputs set (70 of 256).

    >>> least_error(torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]), bias=False)
    tensor([0.0000, 0.2500])
    """
    require_finite_numbers(tables, "truth tables")
    require_count(degree, f"degree {degree}", "0 or more", least=0)
    corners = coefficients_of(tables).shape[-1]
    degree_of = degrees(corners.bit_length() - 1, tables.device)
    allowed = (degree_of <= degree) & ((degree_of > 0) | bias)
    monomials = corner_values(torch.eye(corners, dtype=tables.dtype, device=tables.device))[allowed]
    if not len(monomials):
        return tables.square().mean(-1)
    basis = torch.linalg.qr(monomials.mT).Q  # [corners, allowed]
    return (tables - tables @ basis @ basis.mT).square().mean(-1)
