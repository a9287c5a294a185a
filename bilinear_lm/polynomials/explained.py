"""The share of a layer's variance that its least-squares polynomials explain at Gaussian inputs, by degree.

The parts of different degree of a Hermite expansion are uncorrelated, so the variance of the least-squares
polynomial of degree n is the sum of those of degree 1 to n. Between two hidden units, with r = ŵ_i·ŵ_j, all
products taken in the covariance of the inputs, and a_k = m_z h_k + (c/s) h_{k+1}
(`bilinear_lm.polynomials.expansion`), the part of degree k has the covariance

    1/k! [a_k a'_k r^k + k r^{k−1} (a_k h'_{k−1} ŵ·v' + h_{k−1} a'_k v·ŵ')]
    + 1/(k−1)! h_{k−1} h'_{k−1} [r^{k−1} v·v' + (k−1) r^{k−2} (ŵ·v') (v·ŵ')],

the first term alone for an MLP. The variance of the layer itself is that series without end. It is summed to
a finite order; the variance of each unit is exact, and what is left out between two units is at most ρ^{K+1}
√(t t'), with K the order, t the variance of a unit beyond it, and ρ the largest canonical correlation of
their (y, z) (Gebelein's inequality).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.glu_weights import GLUWeights, double_weights
from bilinear_lm.polynomials.expansion import UnitExpansion, expand_units
from bilinear_lm.polynomials.fourth_moments import PairProducts, pair_products
from bilinear_lm.polynomials.gaussian import FactoredCovariance, Gaussian, one_gaussian
from bilinear_lm.polynomials.hermite import MOST_ORDER, Activation, activation_function, hermite_moments
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class ExplainedVariance:
    """Variances of a layer's outputs at Gaussian inputs, summed over outputs."""

    by_degree: Float[Tensor, " degrees"]
    """The part of degree k of the layer, k = 0 …; 0 for the constant."""
    variance: float
    """The whole layer."""
    error: float
    """Bound on the error of `variance`, from the end of the series."""

    @property
    def r_squared(self) -> Float[Tensor, " degrees"]:
        """R² of the least-squares polynomial of each degree from 0 on; 1 for a layer that does not vary."""
        if self.variance <= 0:
            return torch.ones_like(self.by_degree)
        return (self.by_degree.cumsum(0) / self.variance).clamp(max=1)

    @property
    def unexplained(self) -> Float[Tensor, " degrees"]:
        """The fraction of variance unexplained, 1 − R², of each degree from 0 on."""
        return 1 - self.r_squared


@checked
def explained_variance(
    layer: GLUWeights,
    activation: Activation,
    *,
    degree: int = 4,
    mean: Float[Tensor, "*components d_in"] | None = None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | FactoredCovariance | None = None,
    order: int = 32,
) -> ExplainedVariance:
    """The variance of an MLP or GLU that its least-squares polynomials of degree 0 to `degree` explain.

    In closed form, for x ~ N(mean, cov), one Gaussian, in O(d_mlp² (d_in + order)) time, in float64. `order`
    is where the series of the variance between different hidden units ends, `degree` to 63. The result says
    how much that can leave out. `activation`, `mean` and `cov` are as for `approximate_mlp`.

    >>> layer = GLUWeights(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 8))
    >>> explained_variance(layer, "silu", degree=2).r_squared.shape  # degrees 0, 1, 2
    torch.Size([3])
    """
    most = MOST_ORDER - 1
    require_count(order, f"a series to order {order}", f"1 to {most}", most=most)
    got, expected = f"degree {degree} of a polynomial", f"0 to {order}, the order of the series"
    require_count(degree, got, expected, least=0, most=order)
    layer = double_weights(**layer.weights)
    at = one_gaussian(mean, cov, layer.W_gate)
    units = expand_units(layer, activation, at, order)
    squares = _unit_squares(layer, units, activation, at)
    beyond = squares - units.along_gate(0).square()
    for k in range(1, order + 1):
        beyond -= _unit_part(units, k)
    # Within the rounding of the second moments that it is a difference of, it is 0.
    beyond = torch.where(beyond > 8 * torch.finfo(beyond.dtype).eps * squares, beyond, 0.0)
    parts, error = layer.W_out.new_zeros(order + 1), 0.0
    for rows, products in pair_products(layer.W_gate / units.spread, layer.W_in, at):
        weights = layer.W_out[rows] @ layer.W_out.T
        parts[1:] += _parts(units, rows, products, weights)
        weights[range(len(weights)), range(*rows.indices(len(beyond)))] = 0
        left = weights.abs() * _largest_correlations(units, rows, products) ** (order + 1)
        error += float(beyond[rows].sqrt() @ left @ beyond.sqrt())
    parts = parts.clamp(min=0)
    variance = float(parts.sum() + layer.W_out.square().sum(1) @ beyond)
    return ExplainedVariance(parts[: degree + 1], variance, error)


def _largest_correlations(units: UnitExpansion, rows: slice, at: PairProducts) -> Tensor:
    """ρ: the largest singular value of the correlations between (y, z) of i and of j."""
    if at.crossed is None:
        return at.ww.abs().clamp(max=1)
    wv, vw, vv = at.crossed
    rest = (units.in_variance - units.share.square()).clamp(min=0).sqrt()
    inverse = torch.where(rest > 1e-6 * units.in_variance.sqrt(), 1 / rest, 0.0)
    i, j = units.share[rows].unsqueeze(1), units.share
    right = (wv - at.ww * j) * inverse
    left = (vw - at.ww * i) * inverse[rows].unsqueeze(1)
    both = (vv - i * wv - j * vw + i * j * at.ww) * inverse * inverse[rows].unsqueeze(1)
    squares = at.ww.square() + right.square() + left.square() + both.square()
    determinant = at.ww * both - left * right
    root = (squares.square() - 4 * determinant.square()).clamp(min=0).sqrt()
    return ((squares + root) / 2).sqrt().clamp(max=1)


def _coefficients(units: UnitExpansion, k: int) -> tuple[Tensor, Tensor]:
    """a_k / √k! and h_{k−1} / √(k−1)!."""
    below = math.sqrt(math.factorial(k - 1))
    return units.along_gate(k) / (below * math.sqrt(k)), units.moments[k - 1] / below


def _unit_part(units: UnitExpansion, k: int) -> Tensor:
    """The variance of the part of degree k of every unit."""
    a, b = _coefficients(units, k)
    if not units.in_variance.any():
        return a.square()
    rest = units.in_variance + (k - 1) * units.share.square()
    return a.square() + 2 * math.sqrt(k) * a * b * units.share + b.square() * rest


def _unit_squares(
    layer: GLUWeights, units: UnitExpansion, activation: Activation, at: Gaussian
) -> Float[Tensor, " d_mlp"]:
    """E f² of every unit, by the moments of σ²."""
    function = activation_function(activation)
    mean, spread = at.mean @ layer.W_gate + layer.biases[0], units.variance.sqrt()
    zeroth, first, second = hermite_moments(lambda y: function(y).square(), mean, spread, order=2)
    square = (units.in_mean.square() + units.in_variance) * zeroth
    return square + 2 * units.in_mean * units.share * first + units.share.square() * second


def _parts(units: UnitExpansion, rows: slice, at: PairProducts, weights: Tensor) -> Float[Tensor, " order"]:
    """Σ_ij weights_ij Cov_k(f_i, f_j) for every degree k from 1 on, i in `rows`."""
    orders = len(units.moments) - (at.crossed is not None)
    low, mid = torch.zeros_like(weights), weights  # times r^{k−2}, r^{k−1}
    totals = []
    for k in range(1, orders):
        a, b = _coefficients(units, k)
        high = mid * at.ww
        total = a[rows] @ (high @ a)
        if at.crossed is not None:
            wv, vw, vv = at.crossed
            total = total + math.sqrt(k) * (a[rows] @ ((mid * wv) @ b) + b[rows] @ ((mid * vw) @ a))
            total = total + b[rows] @ ((mid * vv + (k - 1) * low * wv * vw) @ b)
        totals.append(total)
        low, mid = mid, high
    return torch.stack(totals)
