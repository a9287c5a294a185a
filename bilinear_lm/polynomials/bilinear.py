"""A GLU as a bilinear layer of the same width, in closed form.

The least-squares quadratic of a GLU at Gaussian inputs (`bilinear_lm.approximate_glu`) is a sum over hidden
units of (a/2) p² + e_1 p q + g_w p + g_v q + const, with p and q the centred pre-activations of gate and in
(`bilinear_lm.polynomials.expansion`). Each is one product of two affine functions,

    (p + α) (a/2 p + e_1 q + β) + const,   α = g_v / e_1,   β = g_w − α a/2,

so the quadratic is a bilinear layer with biases. Without biases it is not; `biases=False` gives a layer for
models whose MLPs have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.glu_weights import GLUWeights, double_weights
from bilinear_lm.numerics.rescaling import require_holds
from bilinear_lm.numerics.ridge import solve_ridge
from bilinear_lm.polynomials.expansion import (
    QuadraticUnits,
    expand_to_quadratics,
    gradients,
    second_factors,
)
from bilinear_lm.polynomials.fourth_moments import (
    Columns,
    ProductMoments,
    product_gradients,
    product_moments,
    quadratic_variance,
)
from bilinear_lm.polynomials.gaussian import FactoredCovariance, Gaussian, one_gaussian
from bilinear_lm.polynomials.hermite import Activation
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor

RIDGE = 1e-10
"""Share of a hidden unit's own second moment, added to it where W_out is fitted without biases."""

_MOST_DOUBLINGS = 48


@shown
@dataclass(frozen=True, kw_only=True)
class BilinearApproximation(GLUWeights):
    """[(x W_gate + b_gate) ∘ (x W_in + b_in)] W_out + b_out; the biases are None where there are none.

    The fractions compare it with the least-squares quadratic P of the GLU, E over the Gaussian, in float64.
    """

    W_in: Float[Tensor, "d_in d_mlp"]
    explained_variance: float
    """1 − E‖P − layer‖² / E‖P − E P‖²; below 0 where a constant is nearer to P."""
    explained_second_moment: float
    """1 − E‖P − layer‖² / E‖P‖²."""
    n_inexact_units: int
    """Hidden units whose quadratic is no product that the weights' precision can hold."""

    def __call__(self, x: Float[Tensor, "*axes x_in"]) -> Float[Tensor, "*axes d_out"]:
        """The layer's output at x."""
        return self.tensor(x)

    def in_precision(self, dtype: torch.dtype) -> BilinearApproximation:
        """The same layer in a precision; InputError where that cannot hold its weights."""
        gate, up, out = (float(factor.abs().max()) for factor in (self.W_gate, self.W_in, self.W_out))
        beside = {"b_gate": gate, "b_in": up, "b_out": gate * up * out}
        for name, value in self.weights.items():
            require_holds(dtype, value, f"{name} of the bilinear layer", beside.get(name, 0.0))
        return replace(self, **self.moved(dtype))


@checked
def bilinear_approximation(
    W_gate: Float[Tensor, "d_in d_mlp"],
    W_in: Float[Tensor, "d_in d_mlp"],
    W_out: Float[Tensor, "d_mlp d_out"],
    activation: Activation,
    b_gate: Float[Tensor, " d_mlp"] | None = None,
    b_in: Float[Tensor, " d_mlp"] | None = None,
    b_out: Float[Tensor, " d_out"] | None = None,
    *,
    mean: Float[Tensor, "*components d_in"] | None = None,
    cov: Float[Tensor, "*cov_components d_in d_in"] | FactoredCovariance | None = None,
    biases: bool = True,
) -> BilinearApproximation:
    """The bilinear layer of the same width nearest to σ(x W_gate + b_gate) ∘ (x W_in + b_in) W_out + b_out.

    With biases it equals `approximate_glu(...)` of the same arguments, for x ~ N(mean, cov), one Gaussian.
    W_out is kept, and gate and in of a unit have equal norms. Where e_1 is 0 or so small that α drowns the
    unit in rounding, no product equals the unit: α is then cut so that the error of the product and the
    rounding error of the weights' precision are least together; mean and gradient stay right, and
    `explained_variance` shows the loss.

    With `biases=False` the constant 1 in gate and in becomes its best linear prediction t·x, with
    t = E[xxᵀ]⁻¹ E[x], and W_out is the least-squares one for the products that result (a ridge of 1e-10 of
    their second moments), by exact fourth moments. That needs O(d_mlp² (d_in + d_mlp)) time and two
    float64 matrices [d_mlp, d_mlp]. At mean 0 such a layer is even, and linear parts of the GLU are lost.

    Computed in float64, returned in the dtype of the weights.
    """
    layer = double_weights(W_gate=W_gate, W_in=W_in, W_out=W_out, b_gate=b_gate, b_in=b_in, b_out=b_out)
    form = product_form(layer, activation, one_gaussian(mean, cov, layer.W_gate), W_gate.dtype)
    return form.with_biases() if biases else form.without_biases()


@shown
@dataclass(frozen=True)
class ProductForm:
    """The quadratic of a GLU, each hidden unit one product of affine functions, in float64.

    Both layers of `bilinear_approximation` are made from it.
    """

    layer: GLUWeights
    units: QuadraticUnits
    cross: Float[Tensor, " d_mlp"]
    """The coefficient of p q in the products: e_1, but for units that are no product."""
    gate: Float[Tensor, "d_in_and_1 d_mlp"]
    """One factor of each product, its bias last: w times `scale`."""
    into: Float[Tensor, "d_in_and_1 d_mlp"]
    """The other factor of each product, its bias last."""
    scale: Float[Tensor, " d_mlp"]
    constant: Float[Tensor, " d_mlp"]
    """The constant that is left of each unit."""
    at: Gaussian
    dtype: torch.dtype
    """The precision of the layers to be made."""

    def with_biases(self) -> BilinearApproximation:
        """The layer that equals the quadratic, but for units that are no product."""
        cut = self._inexact
        fractions = 1.0, 1.0
        if cut.any():
            error = self.units.cross - self.cross
            left = replace(self.units, curvature=torch.zeros_like(error), cross=error)
            R = second_factors(self.layer, left)
            lost = BilinearTensor(self.layer.W_gate[:, cut], R[:, cut], self.layer.W_out[cut])
            W, V = self.layer.W_gate, second_factors(self.layer, self.units)
            whole = quadratic_variance(BilinearTensor(W, V, self.layer.W_out), self.at)
            fractions = self._target(whole).fractions(quadratic_variance(lost, self.at))
        return BilinearApproximation(
            W_gate=self.gate[:-1],
            W_in=self.into[:-1],
            W_out=self.layer.W_out,
            b_gate=self.gate[-1],
            b_in=self.into[-1],
            b_out=self.constant @ self.layer.W_out + self.layer.biases[2],
            explained_variance=fractions[0],
            explained_second_moment=fractions[1],
            n_inexact_units=int(cut.sum()),
        ).in_precision(self.dtype)

    def without_biases(self) -> BilinearApproximation:
        """The least-squares layer of the same products without their constant 1."""
        at, layer, t = self.at, self.layer, _constant_predictor(self.at)
        W, V, W_out = layer.W_gate, layer.W_in, layer.W_out
        assert V is not None
        zero, half = torch.zeros_like(self.scale), self.units.curvature / 2
        P = Columns(self.scale, zero, self.gate[-1])
        Q = Columns(half / self.scale, self.cross / self.scale, self.into[-1])
        even = _evening(P.vectors(W, V, t), Q.vectors(W, V, t))
        P, Q = P.times(even), Q.times(1 / even)
        target = Columns(torch.ones_like(zero), zero, zero), Columns(half, self.units.cross, zero)
        moments = product_moments((W, V, W_out), t, (P, Q), target, at)
        return self._with_solved_output(P.vectors(W, V, t), Q.vectors(W, V, t), moments)

    def _with_solved_output(self, P: Tensor, Q: Tensor, moments: ProductMoments) -> BilinearApproximation:
        target = self._target(moments.target_variance)
        right = moments.with_target
        right += product_gradients(P, Q, self.at).T @ self.at.times_cov(target.gradient)
        right.addr_(moments.means, target.mean)
        sizes = moments.gram.diagonal().clone()
        W_out = solve_ridge(moments.gram, right, RIDGE)
        # E‖P − layer‖²: gram W_out is the right side less the ridge's part.
        error = target.square - float((W_out * right).sum()) - RIDGE * float(sizes @ W_out.square().sum(1))
        fractions = target.fractions(max(error, 0.0))
        return BilinearApproximation(
            W_gate=P,
            W_in=Q,
            W_out=W_out,
            explained_variance=fractions[0],
            explained_second_moment=fractions[1],
            n_inexact_units=int(self._inexact.sum()),
        ).in_precision(self.dtype)

    @property
    def _inexact(self) -> Tensor:
        return (self.cross != self.units.cross) & (self.units.variance > 0)

    def _target(self, quadratic_part: float) -> _Quadratic:
        """The quadratic P, given Σ_outputs of the variance of its part of degree 2."""
        gradient = gradients(self.layer, self.units) @ self.layer.W_out
        variance = float((gradient * self.at.times_cov(gradient)).sum()) + quadratic_part
        mean = self.units.mean @ self.layer.W_out + self.layer.biases[2]
        return _Quadratic(gradient, mean, variance)


def product_form(layer: GLUWeights, activation: Activation, at: Gaussian, dtype: torch.dtype) -> ProductForm:
    """The products of a GLU's hidden units at x ~ N(mean, cov), for layers whose weights will be `dtype`."""
    units = expand_to_quadratics(layer, activation, at)
    alpha, cross = _offsets(units, torch.finfo(dtype).eps)
    gate, up, scale, constant = _products(layer, replace(units, cross=cross), alpha, at)
    return ProductForm(layer, units, cross, gate, up, scale, constant, at, dtype)


@dataclass(frozen=True)
class _Quadratic:
    """The least-squares quadratic P of a GLU, and its moments over the Gaussian."""

    gradient: Tensor
    """The mean gradient of P."""
    mean: Tensor
    variance: float

    @property
    def square(self) -> float:
        """E‖P‖²."""
        return self.variance + float(self.mean @ self.mean)

    def fractions(self, error: float) -> tuple[float, float]:
        """1 − error / variance and 1 − error / second moment; 1 where there is no error."""
        if not error:
            return 1.0, 1.0
        shares = [1 - error / whole if whole else -math.inf for whole in (self.variance, self.square)]
        return shares[0], shares[1]


def _offsets(units: QuadraticUnits, eps: float) -> tuple[Tensor, Tensor]:
    """α of every unit, and the coefficient of p q that comes with it, g_v / α: e_1 wherever that is best.

    α is g_v / e_1 or ± s 2^j, whichever has the least squared error: from leaving e_1, and from rounding
    (p + α)(…) to `eps`.
    """
    s = torch.where(units.variance > 0, units.variance, 1.0).sqrt()
    sign = torch.where(units.cross * units.in_slope < 0, -1.0, 1.0)
    exact = torch.where(units.in_slope == 0, 0.0, units.in_slope / units.cross)
    powers = 2.0 ** torch.arange(_MOST_DOUBLINGS, device=s.device).to(s)
    alpha = torch.cat([exact.unsqueeze(0), sign * s * powers.unsqueeze(1)])
    cross = torch.cat([units.cross.unsqueeze(0), units.in_slope / alpha[1:]])
    beta = units.slope - alpha * units.curvature / 2
    half = units.curvature / 2
    in_variance = half**2 * units.variance + cross**2 * units.in_variance
    in_variance = (in_variance + 2 * half * cross * units.covariance).clamp(min=0)
    error = (cross - units.cross) ** 2 * (units.variance * units.in_variance + units.covariance**2)
    error = error + eps**2 * (units.variance + alpha**2) * (in_variance + beta**2)
    error = error.nan_to_num(nan=torch.inf, posinf=torch.inf)
    best = error.argmin(0, keepdim=True)
    best = torch.where(error[:1] <= error.gather(0, best), 0, best)
    return alpha.gather(0, best)[0], cross.gather(0, best)[0]


def _products(
    layer: GLUWeights, units: QuadraticUnits, alpha: Tensor, at: Gaussian
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gate and in as [d_in + 1, d_mlp], biases last, the scale of gate, and what is left of every unit."""
    half = units.curvature / 2
    beta = units.slope - alpha * half
    R = second_factors(layer, units)
    gate = torch.cat([layer.W_gate, (alpha - at.mean @ layer.W_gate).unsqueeze(0)])
    up = torch.cat([R, (beta - at.mean @ R).unsqueeze(0)])
    expected = half * units.variance + units.cross * units.covariance + alpha * beta
    scale = _evening(gate, up)
    return gate * scale, up / scale, scale, units.mean - expected


def _evening(gate: Tensor, up: Tensor) -> Tensor:
    """The scale with which gate · scale and up / scale have equal norms, a unit."""
    norms = gate.norm(dim=0), up.norm(dim=0)
    zero = (norms[0] == 0) | (norms[1] == 0)
    return torch.where(zero, 1.0, (norms[1] / norms[0]).sqrt())


def _constant_predictor(at: Gaussian) -> Tensor:
    """t = E[xxᵀ]⁻¹ E[x], the pseudo-inverse where it is singular: x·t is nearest to 1."""
    if at.cov is None:
        return at.mean / (1 + at.mean @ at.mean)
    if not at.mean.any():
        return at.mean
    return torch.linalg.pinv(at.dense_cov() + at.mean.outer(at.mean), hermitian=True) @ at.mean
