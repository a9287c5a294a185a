"""Polynomials on measured inputs: moments of points, least squares, and R², each in one pass over pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.ridge import solve_ridge
from bilinear_lm.polynomials.polynomial import Polynomial, from_forms
from bilinear_lm.shown import shown

RIDGE = 1e-10
"""Share of a coefficient's own second moment that is added to it in a fit."""

MAX_BYTES = 2**32
"""Memory of the largest fit; one that needs more is refused."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of points, in float64."""

    mean: Float[Tensor, " d"]
    cov: Float[Tensor, "d d"]
    count: int

    @classmethod
    def of(cls, points: Iterable[Float[Tensor, "... d"]]) -> Moments:
        """The moments of points that come in pieces, each read once."""
        sums = MomentSums()
        for piece in points:
            sums.add(piece)
        return sums.moments()


@dataclass
class MomentSums:
    """Sums of points and of their products, added piece by piece in float64."""

    count: int = 0
    _origin: Tensor | None = None  # points are shifted by it, so that a large mean costs no digits
    _total: Tensor | None = None
    _squares: Tensor | None = None

    def add(self, points: Float[Tensor, "... d"]) -> None:
        """Counts the points of one more piece."""
        x = points.reshape(-1, points.shape[-1]).double()
        if self._origin is None or self._total is None or self._squares is None:
            self._origin = x.mean(dim=0)
            self._total, self._squares = torch.zeros_like(self._origin), x.new_zeros(x.shape[1], x.shape[1])
        x = x - self._origin
        self._total += x.sum(dim=0)
        self._squares += x.T @ x
        self.count += len(x)

    def moments(self) -> Moments:
        """The moments of all points so far."""
        if self._origin is None or self._total is None or self._squares is None:
            raise InputError("no points to take moments of; expected one or more")
        shift = self._total / self.count
        cov = self._squares / self.count - torch.outer(shift, shift)
        return Moments(self._origin + shift, cov, self.count)


@dataclass
class RSquared:
    """R² = 1 − E‖y − P‖² / E‖y − E y‖² of predictions P of outputs y, added piece by piece."""

    count: int = 0
    _origin: Tensor | None = None
    _shift: Tensor | None = None
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)

    def add(self, y: Float[Tensor, "... d_out"], predicted: Float[Tensor, "... d_out"]) -> None:
        """Counts the points of one more piece."""
        y, predicted = (each.reshape(-1, each.shape[-1]).double() for each in (y, predicted))
        if self._origin is None or self._shift is None:
            self._origin = y.mean(0)  # variances are taken about it, so that a large mean costs no digits
            self._shift = torch.zeros_like(self._origin)
        error, square = (y - predicted).square().sum(1), (y - self._origin).square().sum(1)
        self._shift = self._shift + (y - self._origin).sum(0)
        products = (error, square, error * error, error * square, square * square)
        self._sums = [total + float(each.sum()) for total, each in zip(self._sums, products, strict=True)]
        self.count += len(y)

    @property
    def value(self) -> float:
        """R²; below 0 where a constant is nearer. Where y does not vary it is 1 for P = y, else −∞."""
        error, variance = self._error_and_variance()
        if variance <= 0:
            return 1.0 if error == 0 else -math.inf
        return 1 - error / variance

    @property
    def standard_error(self) -> float:
        """The standard error of R² for independent points, by the delta method."""
        error, variance = self._error_and_variance()
        if variance <= 0 or self.count < 2:
            return math.inf
        ratio = error / variance
        aa, ab, bb = (total / self.count for total in self._sums[2:])
        spread = aa - 2 * ratio * ab + ratio**2 * bb
        return math.sqrt(max(spread, 0.0) / self.count) / variance

    def _error_and_variance(self) -> tuple[float, float]:
        if self._shift is None:
            raise InputError("R² of no points; expected one or more")
        error, square = (total / self.count for total in self._sums[:2])
        return error, square - float((self._shift / self.count).square().sum())


@shown
@dataclass(frozen=True)
class FittedPolynomial:
    """The least-squares polynomial on measured points."""

    polynomial: Polynomial
    r_squared: float
    """R² on the points of the fit themselves."""
    n_points: int


@checked
def fit_polynomial(
    pieces: Iterable[tuple[Float[Tensor, "... d_in"], Float[Tensor, "... d_out"]]], degree: int = 2
) -> FittedPolynomial:
    """The polynomial P of degree 1 or 2 with the least Σ‖y − P(x)‖² over points (x, y) that come in pieces.

    One pass, by normal equations over all monomials in float64, about the mean and in the spreads of the
    first piece, with a ridge of 1e-10. The polynomial is in the precision of the points. Time is O(points
    n²) with n the number of monomials, d_in²/2 of them at degree 2, and memory 16 n² bytes.

    `InputError` for fewer points than monomials, for points that are not finite, and for a fit of more than
    `MAX_BYTES`. (For a bilinear layer of a given width, see `finetune.fit_bilinear`.)

    >>> x = torch.randn(1000, 8)
    >>> fit_polynomial([(x, x.square())]).r_squared > 0.999
    True
    """
    require_count(degree, f"degree {degree} of a fitted polynomial", "1 or 2", least=1, most=2)
    sums: _NormalEquations | None = None
    dtype = torch.float64
    for x, y in pieces:
        require_finite_numbers(x, "x of a fit")
        require_finite_numbers(y, "y of a fit")
        if x.shape[:-1] != y.shape[:-1]:
            raise InputError(f"x {list(x.shape)} and y {list(y.shape)}; expected the same points in both")
        x, y, dtype = x.reshape(-1, x.shape[-1]).double(), y.reshape(-1, y.shape[-1]).double(), x.dtype
        sums = sums or _NormalEquations.about(x, y, degree)
        sums.add(x, y)
    if sums is None:
        raise InputError("no points to fit a polynomial to; expected one piece or more")
    polynomial, r_squared = sums.solve()
    return FittedPolynomial(polynomial.in_precision(dtype), r_squared, sums.count)


@dataclass
class _NormalEquations:
    """Second moments of monomials of z = (x − center) / scale, and of these with y − origin."""

    degree: int
    center: Tensor
    scale: Tensor
    origin: Tensor
    gram: Tensor
    right: Tensor
    square: float = 0.0
    count: int = 0

    @classmethod
    def about(cls, x: Tensor, y: Tensor, degree: int) -> _NormalEquations:
        d = x.shape[1]
        n = 1 + d + (d * (d + 1) // 2 if degree == 2 else 0)
        if 16 * n**2 > MAX_BYTES:
            raise InputError(
                f"a fit of {n:,} monomials of {d} coordinates needs {16 * n**2:,} bytes, more than "
                f"{MAX_BYTES:,}; use degree=1, project the inputs, or raise "
                "bilinear_lm.polynomials.measured.MAX_BYTES"
            )
        spread = x.std(0, correction=0)
        scale = torch.where(spread > 0, spread, 1.0)
        return cls(degree, x.mean(0), scale, y.mean(0), x.new_zeros(n, n), x.new_zeros(n, y.shape[1]))

    def add(self, x: Tensor, y: Tensor) -> None:
        widths, expected = (x.shape[1], y.shape[1]), (len(self.center), len(self.origin))
        if widths != expected:
            raise InputError(f"x and y of widths {widths} after pieces of {expected}; expected the same")
        for z, target in self._pieces((x - self.center) / self.scale, y - self.origin):
            monomials = self._monomials(z)
            self.gram.addmm_(monomials.T, monomials)
            self.right.addmm_(monomials.T, target)
            self.square += float(target.square().sum())
        self.count += len(x)

    def solve(self) -> tuple[Polynomial, float]:
        n, d = len(self.gram), len(self.center)
        if self.count < n:
            raise InputError(f"{self.count} points for {n} monomials; expected as many points at least")
        theta = solve_ridge(self.gram.clone(), self.right, RIDGE)
        error = self.square - 2 * float((theta * self.right).sum())
        error = error + float((theta * (self.gram @ theta)).sum())
        variance = self.square - float(self.right[0].square().sum()) / self.count
        linear = theta[1 : d + 1] / self.scale.unsqueeze(1)
        if self.degree == 1:
            polynomial = Polynomial(theta[0] + self.origin, linear, None, 1, self.center)
        else:
            first, second = torch.triu_indices(d, d, device=theta.device)
            forms = theta.new_zeros(theta.shape[1], d, d)
            forms[:, first, second] = (
                theta[d + 1 :] / (self.scale[first] * self.scale[second]).unsqueeze(1)
            ).T
            forms = (forms + forms.mT) / 2
            polynomial = from_forms(theta[0] + self.origin, linear, forms, self.center)
        return polynomial, 1 - max(error, 0.0) / variance if variance > 0 else 1.0

    def _monomials(self, z: Tensor) -> Tensor:
        parts = [torch.ones_like(z[:, :1]), z]
        if self.degree == 2:
            first, second = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
            parts.append(z[:, first] * z[:, second])
        return torch.cat(parts, dim=1)

    def _pieces(self, z: Tensor, y: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        chunk = rows_at_once(4 * 8 * len(self.gram))
        return zip(z.split(chunk), y.split(chunk), strict=True)
