"""The Hermite expansion of a layer's hidden units at Gaussian inputs: a few numbers a unit and a degree.

For y = w·x + b_y and z = v·x + b_z, jointly Gaussian with means m_y, m_z, s² = Var y, c = Cov(y, z), let ξ =
(y − m_y)/s and h_k = E[σ(y) He_k(ξ)]. In f = σ(y) z, z is E[z|y] = m_z + (c/s) ξ plus a rest that does not
depend on y; so the least-squares polynomial of degree n of f is P_n[σ(y) E[z|y]] + P_{n−1}[σ(y)] (z −
E[z|y]), with P_n[g] = Σ_{k≤n} E[g He_k]/k! He_k(ξ). Collected, with q = v·(x − mean),

    Σ_{k≤n} (m_z h_k + [k ≥ n−1] (c/s) h_{k+1}) He_k(ξ)/k!  +  q Σ_{k<n} h_k He_k(ξ)/k!.

A plain unit σ(y) is the case z = 1.

Its part of degree k in the sense of variance, the k-th Wiener chaos, is He_k contracted with the mean k-th
derivative (Stein's lemma): (m_z h_k + (c/s) h_{k+1}) ŵ^k + k h_{k−1} sym(ŵ^{k−1} v), with ŵ = w/s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.polynomials.hermite import Activation, hermite_moments
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class UnitExpansion:
    """The numbers of the formulas above for every hidden unit, in float64."""

    moments: Float[Tensor, "orders d_mlp"]
    """h_0, h_1, …: up to degree n for an MLP, n + 1 for a GLU."""
    spread: Float[Tensor, " d_mlp"]
    """s; 1 for a unit that does not move, whose moments above h_0 are 0."""
    variance: Float[Tensor, " d_mlp"]
    """s², 0 for a unit that does not move."""
    in_mean: Float[Tensor, " d_mlp"]
    """m_z; 1 for an MLP."""
    in_variance: Float[Tensor, " d_mlp"]
    """Var z."""
    share: Float[Tensor, " d_mlp"]
    """c/s: the covariance of z and ξ; 0 for an MLP."""

    def along_gate(self, k: int) -> Float[Tensor, " d_mlp"]:
        """m_z h_k + (c/s) h_{k+1}, the coefficient of ŵ^k in the mean k-th derivative."""
        own = self.in_mean * self.moments[k]
        return own if k + 1 >= len(self.moments) else own + self.share * self.moments[k + 1]

    def hermite_series(self, degree: int) -> tuple[Float[Tensor, "n d_mlp"], Float[Tensor, "m d_mlp"]]:
        """Coefficients of He_k(ξ)/k!, k = 0 … degree, and of q He_k(ξ)/k!, k < degree, in the projection."""
        own = [
            self.along_gate(k) if k >= degree - 1 else self.in_mean * self.moments[k]
            for k in range(degree + 1)
        ]
        return torch.stack(own), self.moments[:degree]


def expand_units(layer: GLUWeights, activation: Activation, at: Gaussian, degree: int) -> UnitExpansion:
    """The expansion of every hidden unit at x ~ N(mean, cov), up to a degree."""
    b_gate, b_in, _ = layer.biases
    variance = at.variances(layer.W_gate)
    m_y, s = at.mean @ layer.W_gate + b_gate, variance.sqrt()
    moments = hermite_moments(activation, m_y, s, degree + (layer.W_in is not None))
    spread, zero = torch.where(s > 0, s, 1.0), torch.zeros_like(s)
    if layer.W_in is None:
        return UnitExpansion(moments, spread, variance, torch.ones_like(s), zero, zero)
    in_variance = at.variances(layer.W_in)
    covariance = at.covariances(layer.W_gate, layer.W_in, (variance, in_variance))
    m_z = at.mean @ layer.W_in + b_in
    return UnitExpansion(moments, spread, variance, m_z, in_variance, covariance / spread)


def in_powers(series: Float[Tensor, "orders d_mlp"]) -> Float[Tensor, "orders d_mlp"]:
    """The coefficients of ξ^j of Σ_k series_k He_k(ξ)/k!."""
    powers = torch.zeros_like(series)
    before, row = [0.0], [1.0]  # coefficients of He_{k−1} and He_k
    for k in range(len(series)):
        for j, coefficient in enumerate(row):
            if coefficient:
                powers[j] += coefficient / math.factorial(k) * series[k]
        shifted = [0.0, *row]
        before, row = row, [c - k * (before[j] if j < len(before) else 0.0) for j, c in enumerate(shifted)]
    return powers


@shown
@dataclass(frozen=True)
class QuadraticUnits:
    """The expansion to second order in p = w·x̃ and q = v·x̃, x̃ = x − mean, with e_k = E[σ⁽ᵏ⁾(y)] = h_k/s^k:

    E f + g_w p + g_v q + (a/2) (p² − s²) + e_1 (p q − c),
    E f = m_z e_0 + c e_1,  g_w = m_z e_1 + c e_2,  g_v = e_0,  a = m_z e_2 + c e_3.
    """

    mean: Float[Tensor, " d_mlp"]
    """E f."""
    slope: Float[Tensor, " d_mlp"]
    """g_w, along the gate's direction."""
    in_slope: Float[Tensor, " d_mlp"]
    """g_v, along the direction of the ungated factor."""
    curvature: Float[Tensor, " d_mlp"]
    """a."""
    cross: Float[Tensor, " d_mlp"]
    """e_1."""
    variance: Float[Tensor, " d_mlp"]
    """s² = Var y."""
    in_variance: Float[Tensor, " d_mlp"]
    """Var z."""
    covariance: Float[Tensor, " d_mlp"]
    """c = Cov(y, z)."""


def expand_to_quadratics(layer: GLUWeights, activation: Activation, at: Gaussian) -> QuadraticUnits:
    """The expansion of every hidden unit of a GLU at x ~ N(mean, cov) to second order."""
    units = expand_units(layer, activation, at, degree=2)
    s, h = units.spread, units.moments

    def divided(numbers: Tensor, power: int) -> Tensor:
        return torch.where(numbers == 0, 0.0, numbers / s**power)

    return QuadraticUnits(
        mean=units.along_gate(0),
        slope=divided(units.along_gate(1), 1),
        in_slope=h[0],
        curvature=divided(units.along_gate(2), 2),
        cross=divided(h[1], 1),
        variance=units.variance,
        in_variance=units.in_variance,
        covariance=units.share * s,
    )


def gradients(layer: GLUWeights, units: QuadraticUnits) -> Float[Tensor, "d_in d_mlp"]:
    """The mean gradient of every unit of a GLU: g_w w + g_v v."""
    return _combined(layer, units.slope, units.in_slope)


def second_factors(layer: GLUWeights, units: QuadraticUnits) -> Float[Tensor, "d_in d_mlp"]:
    """r = a/2 w + e_1 v of every unit of a GLU: (a/2) p² + e_1 p q is the product of w·x̃ and r·x̃."""
    return _combined(layer, units.curvature / 2, units.cross)


def _combined(layer: GLUWeights, along_gate: Tensor, along_in: Tensor) -> Tensor:
    combined = layer.W_gate * along_gate
    return combined if layer.W_in is None else combined.addcmul_(layer.W_in, along_in)
