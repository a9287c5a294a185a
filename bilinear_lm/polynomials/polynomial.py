"""Polynomials of degree 0 to 2 in the coordinates of x, the quadratic part in factors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import require_holds
from bilinear_lm.polynomials.expansion import HiddenLayer, UnitExpansion, gradients, second_factors
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class Polynomial:
    """P(x) = constant + x linear + quadratic(x), of degree 0, 1 or 2.

    Below degree 2 `quadratic` is a zero tensor with one hidden unit, and at degree 0 `linear` is zero.
    """

    constant: Float[Tensor, " d_out"]
    linear: Float[Tensor, "d_in d_out"]
    quadratic: BilinearTensor
    degree: int

    def __call__(self, x: Float[Tensor, "*axes x_in"]) -> Float[Tensor, "*axes d_out"]:
        """P(x) [..., d_out] at points x [..., d_in]."""
        require_floating(x, "x")
        if not x.ndim or x.shape[-1] != len(self.linear):
            raise InputError(f"x of shape {list(x.shape)}; expected a last axis of {len(self.linear)}")
        if x.dtype != self.linear.dtype:
            raise InputError(
                f"x is in {x.dtype}, the polynomial in {self.linear.dtype}; expected one precision, convert "
                "with .to"
            )
        value = self.constant + x @ self.linear
        return value + self.quadratic(x) if self.degree == 2 else value

    def to(self, *args: Any, **kwargs: Any) -> Polynomial:
        """The same polynomial on another device or in another precision; as `torch.Tensor.to`."""
        parts = ("constant", "linear", "quadratic")
        return replace(self, **{name: getattr(self, name).to(*args, **kwargs) for name in parts})

    def in_precision(self, dtype: torch.dtype) -> Polynomial:
        """The same polynomial in a precision; InputError where that cannot hold its coefficients."""
        tensor = self.quadratic
        factors = {"W_gate": tensor.W_gate, "W_in": tensor.W_in, "W_out": tensor.W_out}
        terms = {"constant": self.constant, "linear": self.linear}
        quadratic = math.prod(float(factor.abs().max()) for factor in factors.values())
        largest = max(quadratic, *(float(term.abs().max()) for term in terms.values()))
        for name, term in terms.items():
            require_holds(dtype, term, f"the {name} term of the polynomial", largest)
        for name, factor in factors.items() if quadratic > torch.finfo(dtype).eps * largest else ():
            require_holds(dtype, factor, f"{name} of the polynomial", 0.0)
        return self.to(dtype)


def expanded(layer: HiddenLayer, units: UnitExpansion, at: Gaussian, degree: int) -> Polynomial:
    """The polynomial in x of hidden units that are expanded around the mean, in float64."""
    W, W_out = layer.W_gate, layer.W_out
    constant, gradient, quadratic = units.mean, torch.zeros_like(W), zero_tensor(W, W_out.shape[1])
    if degree >= 1:
        gradient = gradients(layer, units)
        constant = constant - at.mean @ gradient
    if degree == 2:
        R = second_factors(layer, units)
        p, r = at.mean @ W, at.mean @ R
        constant = constant + p * r - units.curvature / 2 * units.variance - units.cross * units.covariance
        gradient = gradient - W * r - R * p
        quadratic = BilinearTensor(W, R, W_out)
    return Polynomial(constant @ W_out + layer.b_out, gradient @ W_out, quadratic, degree)


def zero_tensor(like: Float[Tensor, "d_in _"], d_out: int) -> BilinearTensor:
    """The zero tensor with one hidden unit."""
    return BilinearTensor(
        like.new_zeros(len(like), 1), like.new_zeros(len(like), 1), like.new_zeros(1, d_out)
    )
