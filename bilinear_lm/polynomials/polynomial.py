"""Polynomials of a vector, their degrees above one in factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_count, require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import require_holds
from bilinear_lm.polynomials.units import ProductUnits, SymmetricTerm
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor

MOST_DEGREE = 16
"""The highest degree of a polynomial."""


@shown
@dataclass(frozen=True)
class Polynomial:
    """P(x) = constant + x̃ linear + quadratic(x̃) + …, with x̃ = x − center.

    The closed forms give polynomials about 0 (`center` None) up to degree 2, and about the mean of their
    inputs above, where powers of a far mean would cost digits. `around` writes the same polynomial about any
    point: then `constant` is the value there, `linear` the gradient, `quadratic` half the second derivatives.

    >>> P = approximate_mlp(torch.randn(8, 32), torch.randn(32, 5), "gelu", degree=4)
    >>> P.term(4).W.shape, P.quadratic.d_mlp, P.jacobian(torch.randn(8)).shape
    (torch.Size([8, 32]), 32, torch.Size([8, 5]))
    """

    constant: Float[Tensor, " d_out"]
    linear: Float[Tensor, "d_in d_out"]
    """Zero at degree 0."""
    units: ProductUnits | None
    """The degrees from 2 on; None below."""
    degree: int
    center: Float[Tensor, " d_in"] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the coefficients."""
        return self.linear.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the coefficients, and of everything computed from them."""
        return self.linear.dtype

    @property
    def quadratic(self) -> BilinearTensor:
        """The term of degree 2; below that degree the zero tensor with one hidden unit."""
        if self.units is None:
            zero = self.linear.new_zeros(len(self.linear), 1)
            return BilinearTensor(zero, zero, self.linear.new_zeros(1, len(self.constant)))
        return BilinearTensor(self.units.W, self.units.factors(2), self.units.W_out)

    def term(self, degree: int) -> Tensor | SymmetricTerm:
        """The homogeneous term of a degree: `constant`, `linear`, and from 2 on in factors."""
        got, expected = f"term of degree {degree} of a polynomial", f"0 to {self.degree}"
        require_count(degree, got, expected, least=0, most=self.degree)
        if degree < 2:
            return self.linear if degree else self.constant
        assert self.units is not None
        return self.units.term(degree)

    def __call__(self, x: Float[Tensor, "*axes x_in"]) -> Float[Tensor, "*axes d_out"]:
        """P(x) [..., d_out] at points x [..., d_in]."""
        x = self._centered(x)
        value = self.constant + x @ self.linear
        return value if self.units is None else value + self.units(x)

    def jacobian(self, x: Float[Tensor, "*axes x_in"]) -> Float[Tensor, "*axes d_in d_out"]:
        """∂P_o/∂x_i [..., d_in, d_out] at points x [..., d_in]."""
        x = self._centered(x)
        if self.units is None:
            return self.linear.expand(*x.shape[:-1], -1, -1)
        chunk = rows_at_once(2 * self.units.W.numel() * x.element_size())
        pieces = [self.units.jacobian(piece) for piece in x.reshape(-1, x.shape[-1]).split(chunk)]
        return self.linear + torch.cat(pieces).reshape(*x.shape[:-1], *self.linear.shape)

    def around(self, point: Float[Tensor, " d_in"]) -> Polynomial:
        """The same polynomial, written in x − point."""
        offset = self._centered(point)
        if offset.ndim != 1:
            raise InputError(f"a center of shape {list(point.shape)}; expected [{len(offset[0])}]")
        constant, linear, units = self.constant + offset @ self.linear, self.linear, self.units
        if units is not None:
            value, slope, units = units.around(offset)
            constant, linear = constant + value, linear + slope
        return replace(self, constant=constant, linear=linear, units=units, center=point)

    def to(self, *args: Any, **kwargs: Any) -> Polynomial:
        """The same polynomial on another device or in another precision; as `torch.Tensor.to`."""
        parts = ("constant", "linear", "units", "center")
        held = {name: getattr(self, name) for name in parts if getattr(self, name) is not None}
        return replace(self, **{name: part.to(*args, **kwargs) for name, part in held.items()})

    def in_precision(self, dtype: torch.dtype) -> Polynomial:
        """The same polynomial in a precision; InputError where that cannot hold its coefficients."""
        terms = {"constant": self.constant, "linear": self.linear}
        sizes = {name: _largest(value) for name, value in terms.items()}
        factors = {} if self.units is None else self.units.tensors
        if self.units is not None:
            held = {name: _largest(value) for name, value in factors.items()}
            products = held["powers"] * held["W"] + held["mixed"] * held.get("V", 0.0)
            sizes["units"] = held["W"] * products * held["W_out"]
        largest = max(sizes.values())
        for name, term in terms.items():
            require_holds(dtype, term, f"the {name} term of the polynomial", largest)
        if sizes.get("units", 0.0) > torch.finfo(dtype).eps * largest:
            for name, factor in factors.items():
                require_holds(dtype, factor, f"{name} of the polynomial", 0.0)
        return self.to(dtype)

    def _centered(self, x: Tensor) -> Tensor:
        require_floating(x, "x")
        if not x.ndim or x.shape[-1] != len(self.linear):
            raise InputError(f"x of shape {list(x.shape)}; expected a last axis of {len(self.linear)}")
        if x.dtype != self.dtype:
            raise InputError(
                f"x is in {x.dtype}, the polynomial in {self.dtype}; expected one precision, convert with .to"
            )
        return x if self.center is None else x - self.center


def from_forms(
    constant: Float[Tensor, " d_out"],
    linear: Float[Tensor, "d_in d_out"],
    forms: Float[Tensor, "d_out d_in d_in"],
    center: Float[Tensor, " d_in"] | None = None,
) -> Polynomial:
    """The polynomial of degree 2 with the quadratic part x̃ forms_o x̃, each form symmetric.

    Its hidden units are the monomials x_i x_j, d_in (d_in + 1) / 2 of them, or the d_out d_in squares along
    the forms' eigenvectors where these are fewer.
    """
    d_out, d = forms.shape[:2]
    if d_out * d < d * (d + 1) // 2:
        values, vectors = torch.linalg.eigh(forms)
        W = vectors.transpose(0, 1).reshape(d, d_out * d)
        W_out = torch.block_diag(*values.unsqueeze(2))
        one = torch.ones_like(W[:1])
        return Polynomial(constant, linear, ProductUnits(W, None, W_out, one, 0 * one), 2, center)
    first, second = torch.triu_indices(d, d, device=forms.device)
    eye = torch.eye(d).to(forms)
    coefficients = forms[:, first, second] * torch.where(first == second, 1.0, 2.0)
    one = torch.ones_like(coefficients[:1])
    units = ProductUnits(eye[:, first], eye[:, second], coefficients.T, 0 * one, one)
    return Polynomial(constant, linear, units, 2, center)


def _largest(value: Tensor) -> float:
    return float(value.detach().abs().max()) if value.numel() else 0.0
