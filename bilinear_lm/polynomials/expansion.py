"""The quadratic expansion of an MLP's hidden units at Gaussian inputs: a few numbers a unit.

For y = w·x + b_y and z = v·x + b_z, jointly Gaussian with means m_y, m_z, s² = Var y, c = Cov(y, z), and
e_k = E[σ⁽ᵏ⁾(y)], the least-squares quadratic of f = σ(y) z is, with p = w·(x − mean), q = v·(x − mean),

    E f + g_w p + g_v q + (a/2) (p² − s²) + e_1 (p q − c),
    E f = m_z e_0 + c e_1,  g_w = m_z e_1 + c e_2,  g_v = e_0,  a = m_z e_2 + c e_3.

It is the Hermite expansion to second order: E f, the mean gradient, half the mean Hessian (Stein's lemma).
A plain unit σ(y) is the case z = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.polynomials.hermite import Activation, derivative_moments
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class HiddenLayer:
    """The weights, in float64, of a GLU, [σ(x W_gate + b_gate) ∘ (x W_in + b_in)] W_out + b_out, or of an
    MLP, σ(x W_gate + b_gate) W_out + b_out.
    """

    W_gate: Float[Tensor, "d_in d_mlp"]
    b_gate: Float[Tensor, " d_mlp"]
    W_in: Float[Tensor, "d_in d_mlp"] | None
    """None for an MLP without the ungated factor."""
    b_in: Float[Tensor, " d_mlp"]
    W_out: Float[Tensor, "d_mlp d_out"]
    b_out: Float[Tensor, " d_out"]


def hidden_layer(**weights: Tensor | None) -> HiddenLayer:
    """The layer of W_gate, W_in, W_out, b_gate, b_in, b_out, in float64. Without W_in it is an MLP; a bias
    that is not given is 0.

    `InputError` for shapes that do not fit, and for weights that are not finite.
    """
    given = {name: value for name, value in weights.items() if value is not None}
    for name, value in given.items():
        require_floating(value, name)
    W_gate, W_out = given["W_gate"], given["W_out"]
    in_shape, (d_mlp, d_out) = tuple(W_gate.shape), (*W_out.shape, None)[:2]
    expected = {"W_gate": (*in_shape[:1], d_mlp), "W_in": in_shape, "W_out": (*in_shape[1:], d_out)}
    expected |= {"b_gate": in_shape[1:], "b_in": in_shape[1:], "b_out": (d_out,)}
    for name, value in given.items():
        if tuple(value.shape) != expected[name]:
            shapes = ", ".join(f"{each} {list(tensor.shape)}" for each, tensor in given.items())
            raise InputError(
                f"weights of a layer: {shapes}; expected [d_in, d_mlp] into it, W_out [d_mlp, d_out], and "
                "biases as long as the last axis of their weights"
            )
        if not torch.isfinite(value).all():
            raise InputError(f"{name} holds numbers that are not finite; expected finite weights")

    def double(name: str) -> Tensor:
        if name in given:
            return given[name].detach().to(torch.float64)
        return W_gate.new_zeros(len(W_out.T) if name == "b_out" else len(W_out), dtype=torch.float64)

    return HiddenLayer(
        W_gate=double("W_gate"),
        b_gate=double("b_gate"),
        W_in=double("W_in") if "W_in" in given else None,
        b_in=double("b_in"),
        W_out=double("W_out"),
        b_out=double("b_out"),
    )


@shown
@dataclass(frozen=True)
class UnitExpansion:
    """The numbers of the formula above for every hidden unit, in float64."""

    mean: Float[Tensor, " d_mlp"]
    """E f."""
    slope: Float[Tensor, " d_mlp"]
    """g_w, along the gate's direction."""
    in_slope: Float[Tensor, " d_mlp"]
    """g_v, along the direction of the ungated factor; 0 for an MLP."""
    curvature: Float[Tensor, " d_mlp"]
    """a."""
    cross: Float[Tensor, " d_mlp"]
    """e_1; 0 for an MLP."""
    variance: Float[Tensor, " d_mlp"]
    """s² = Var y."""
    in_variance: Float[Tensor, " d_mlp"]
    """Var z."""
    covariance: Float[Tensor, " d_mlp"]
    """c = Cov(y, z)."""


def expand_units(layer: HiddenLayer, activation: Activation, at: Gaussian) -> UnitExpansion:
    """The expansion of every hidden unit at x ~ N(mean, cov)."""
    variance = at.variances(layer.W_gate)
    m_y, s = at.mean @ layer.W_gate + layer.b_gate, variance.sqrt()
    if layer.W_in is None:
        e_0, e_1, e_2 = derivative_moments(activation, m_y, s, order=2)
        zero = torch.zeros_like(e_0)
        return UnitExpansion(e_0, e_1, zero, e_2, zero, variance, zero, zero)
    e_0, e_1, e_2, e_3 = derivative_moments(activation, m_y, s, order=3)
    m_z, in_variance = at.mean @ layer.W_in + layer.b_in, at.variances(layer.W_in)
    c = at.covariances(layer.W_gate, layer.W_in, (variance, in_variance))
    return UnitExpansion(
        mean=m_z * e_0 + c * e_1,
        slope=m_z * e_1 + c * e_2,
        in_slope=e_0,
        curvature=m_z * e_2 + c * e_3,
        cross=e_1,
        variance=variance,
        in_variance=in_variance,
        covariance=c,
    )


def gradients(layer: HiddenLayer, units: UnitExpansion) -> Float[Tensor, "d_in d_mlp"]:
    """The mean gradient of every unit: g_w w + g_v v."""
    along_gate = layer.W_gate * units.slope
    return along_gate if layer.W_in is None else along_gate + layer.W_in * units.in_slope


def second_factors(layer: HiddenLayer, units: UnitExpansion) -> Float[Tensor, "d_in d_mlp"]:
    """r = a/2 w + e_1 v of every unit: (a/2) p² + e_1 p q is the product of w·x̃ and r·x̃."""
    along_gate = layer.W_gate * (units.curvature / 2)
    return along_gate if layer.W_in is None else along_gate + layer.W_in * units.cross
