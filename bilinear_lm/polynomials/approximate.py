"""Closed-form least-squares polynomials of MLPs and GLUs on Gaussian inputs.

Among all polynomials P of a degree in the coordinates of x, this is the one with the smallest
E‖f(x) − P(x)‖² at x ~ N(mean, cov). For one Gaussian it is a Hermite expansion unit by unit
(`bilinear_lm.polynomials.expansion`), in closed form and in factors, for any degree: O(d_mlp d_in²) time, no
system of equations. (Belrose and Rigg, arXiv 2502.01032, for MLPs at N(0, 1); any Gaussian, and GLUs, follow
from the same expansion.)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import GLUWeights, double_weights
from bilinear_lm.polynomials.expansion import expand_units, in_powers
from bilinear_lm.polynomials.gaussian import FactoredCovariance, Gaussian, gaussian_components
from bilinear_lm.polynomials.hermite import Activation
from bilinear_lm.polynomials.mixture import project_mixture
from bilinear_lm.polynomials.polynomial import MOST_DEGREE, Polynomial
from bilinear_lm.polynomials.units import ProductUnits


@checked
def approximate_mlp(
    W_in: Float[Tensor, "d_in d_mlp"],
    W_out: Float[Tensor, "d_mlp d_out"],
    activation: Activation,
    b_in: Float[Tensor, " d_mlp"] | None = None,
    b_out: Float[Tensor, " d_out"] | None = None,
    *,
    degree: int = 2,
    mean: Float[Tensor, "*components d_in"] | None = None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | FactoredCovariance | None = None,
) -> Polynomial:
    """The least-squares polynomial of σ(x W_in + b_in) W_out + b_out at x ~ N(mean, cov).

    `degree` is 0 to 16. `mean` is 0 and `cov` the identity by default; a `FactoredCovariance` is one of low
    rank, diagonal or both. `cov` may be singular; then the polynomial is one of those that agree wherever x
    can be. A leading axis on `mean`, `cov` or both makes an equal-weight mixture of Gaussians, up to degree
    2; what that costs is in `bilinear_lm.polynomials.mixture`.

    `activation` is a name or a function (`bilinear_lm.polynomials.hermite`). All is computed in float64 and
    returned in the dtype of the weights. In float64 the Hermite coefficients E[σ He_k]/√k! of every hidden
    unit are exact to rounding for linear, ReLU, ReLU² and exact GELU gates, and to 1e-9 of the unit's root
    mean square for others. For one Gaussian the terms above degree 1 have d_mlp hidden units.

    >>> P = approximate_mlp(torch.randn(8, 32), torch.randn(32, 5), "gelu")
    >>> P.linear.shape, P.quadratic.d_mlp, P(torch.randn(100, 8)).shape
    (torch.Size([8, 5]), 32, torch.Size([100, 5]))
    """
    layer = GLUWeights(W_in, None, W_out, b_in, None, b_out)
    return approximate_layer(layer, activation, degree=degree, mean=mean, cov=cov)


@checked
def approximate_glu(
    W_gate: Float[Tensor, "d_in d_mlp"],
    W_in: Float[Tensor, "d_in d_mlp"],
    W_out: Float[Tensor, "d_mlp d_out"],
    activation: Activation,
    b_gate: Float[Tensor, " d_mlp"] | None = None,
    b_in: Float[Tensor, " d_mlp"] | None = None,
    b_out: Float[Tensor, " d_out"] | None = None,
    *,
    degree: int = 2,
    mean: Float[Tensor, "*components d_in"] | None = None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | FactoredCovariance | None = None,
) -> Polynomial:
    """The least-squares polynomial of [σ(x W_gate + b_gate) ∘ (x W_in + b_in)] W_out + b_out at N(mean, cov).

    Degree, inputs, activation and precision as for `approximate_mlp`. With a linear activation and degree 2
    it is the layer itself. `bilinear_lm.polynomials.bilinear` writes the quadratic one as a bilinear layer.

    >>> W_gate, W_in, W_out, x = (torch.randn(shape) for shape in ((8, 32), (8, 32), (32, 8), (999, 8)))
    >>> P = approximate_glu(W_gate, W_in, W_out, "silu", mean=x.mean(0), cov=x.T.cov())
    >>> P(x).shape
    torch.Size([999, 8])
    """
    layer = GLUWeights(W_gate, W_in, W_out, b_gate, b_in, b_out)
    return approximate_layer(layer, activation, degree=degree, mean=mean, cov=cov)


@checked
def approximate_layer(
    layer: GLUWeights,
    activation: Activation,
    *,
    degree: int = 2,
    mean: Float[Tensor, "*components d_in"] | None = None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | FactoredCovariance | None = None,
) -> Polynomial:
    """The least-squares polynomial of the layer of some weights: `approximate_glu`, without W_in
    `approximate_mlp`.

    >>> layer = GLUWeights(torch.randn(8, 32), None, torch.randn(32, 5))
    >>> approximate_layer(layer, "relu", degree=4).degree
    4
    """
    got, expected = f"degree {degree} of a polynomial", f"0 to {MOST_DEGREE}"
    require_count(degree, got, expected, least=0, most=MOST_DEGREE)
    double = double_weights(**layer.weights)
    components, mixture = gaussian_components(mean, cov, double.W_gate)
    if mixture and degree > 2:
        raise InputError(f"degree {degree} under a mixture of Gaussians; expected 0, 1 or 2, or one Gaussian")
    polynomials = [expanded(double, activation, at, degree) for at in components]
    polynomial = project_mixture(polynomials, components) if mixture else polynomials[0]
    if degree <= 2 and not mixture:
        polynomial = replace(polynomial.around(torch.zeros_like(components[0].mean)), center=None)
    return polynomial.in_precision(layer.W_gate.dtype)


def expanded(layer: GLUWeights, activation: Activation, at: Gaussian, degree: int) -> Polynomial:
    """The least-squares polynomial at x ~ N(mean, cov), about the mean, in float64."""
    units = expand_units(layer, activation, at, degree)
    own, mixed = map(in_powers, units.hermite_series(degree))  # of ξ^j and of q ξ^j
    W, V, W_out = layer.W_gate / units.spread, layer.W_in, layer.W_out
    gradient = torch.zeros_like(W)
    if degree:
        gradient = W * own[1] if V is None else W * own[1] + V * mixed[0]
    products = None if degree < 2 else ProductUnits(W, V, W_out, own[2:], mixed[1:])
    constant = own[0] @ W_out + layer.biases[2]
    return Polynomial(constant, gradient @ W_out, products, degree, at.mean)
