"""Ranges: the least and the largest output of a bilinear layer along a direction, over all of its inputs.

An RMSNorm bounds what an MLP reads: ‖z‖² = d m / (m + ε) with m the mean square of what the norm reads, so z
lies in the ball ‖z‖ ≤ √d, and for m ≫ ε on its sphere. There u · B(z, z) = zᵀQz + 2 b·z + c has a largest and
a smallest value: without biases d λ_max and d λ_min of Q, with them the solution of a trust-region problem
(`analysis.guarantees.secular`). A range is exact for the layer; inputs that reach it need not occur in the
model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.guarantees.forms import QuadraticForm
from analysis.guarantees.krylov import krylov_extremes
from analysis.guarantees.secular import maximise
from analysis.guarantees.subspaces import restricted
from analysis.spectra.eigen import default_tolerance, fix_signs, require_decomposable
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_number
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import exponents, in_precision, times_two_to
from bilinear_lm.shown import Words, shown
from bilinear_lm.tensor import BilinearTensor

Over = Literal["sphere", "ball"]

Method = Literal["auto", "dense", "krylov"]

LEAST_WIDTH = 128
"""The input width from which many directions are done by Krylov spaces rather than by `eigh`."""


@shown
@dataclass(frozen=True)
class Range:
    """The least and the largest of u · B(z, z) over a set of inputs, and inputs that attain them."""

    low: Float[Tensor, "*axes"]
    high: Float[Tensor, "*axes"]
    argmin: Float[Tensor, "*axes d"]
    """An input of the lowest value, without the constant coordinate."""
    argmax: Float[Tensor, "*axes d"]
    residuals: Float[Tensor, "*axes 2"]
    """‖Qz + b − μz‖ / (size of Q · ‖z‖) at argmin and argmax, within the subspace: how far they are from
    stationary. The value is off by about its square times the size of Q over the spectral gap, times ‖z‖²."""
    over: Over
    radius: float

    def _first(self) -> dict[str, Any]:
        if self.low.ndim:
            return {"over": self.over, "radius": self.radius}
        span = f"{float(self.low):.4g} to {float(self.high):.4g}"
        return {"range": Words(span), "over": self.over, "radius": self.radius}

    @property
    def largest(self) -> Float[Tensor, "*axes"]:
        """The largest |value|."""
        return torch.maximum(self.low.abs(), self.high.abs())


@checked
def certify(
    tensor: BilinearTensor,
    u: Float[Tensor, "*axes d_out"],
    *,
    over: Over = "sphere",
    radius: float | None = None,
    subspace: tuple[Float[Tensor, " d"], Float[Tensor, "m d"]] | None = None,
    method: Method = "auto",
    tolerance: float | None = None,
    seed: int = 0,
) -> Range:
    """The range of u · B(z, z) for output directions u [..., d_out], over all inputs of a norm.

    `over` is the sphere ‖z‖ = radius or the ball ‖z‖ ≤ radius; the radius is √d of the input by default, the
    constant coordinate not counted: what an RMSNorm admits. With `subspace=(z0, P)` only over the inputs
    z0 + aP in it (`inputs_where`), P [m, d] with orthonormal rows.

    `dense` has every eigenvalue of every Q_u (float64, right to rounding). `krylov` has the extreme ones
    alone, by products with the factors (`analysis.guarantees.krylov`), until both residuals are within
    `tolerance` (`default_tolerance` of the precision); directions that do not get there are done densely. Its
    points attain the values given; that no value beyond them exists rests, as in all Krylov methods, on a
    random start, drawn with `seed`, having a part along the extreme eigenvectors. `auto` takes what measures
    faster. Without a constant coordinate −z is as extreme as z: the point is the one of the two whose largest
    entry is positive.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 6))
    >>> reach = certify(tensor, torch.eye(6))
    >>> reach.high.shape, reach.argmax.shape
    (torch.Size([6]), torch.Size([6, 8]))
    >>> z = 8**0.5 * torch.nn.functional.normalize(torch.randn(1000, 8), dim=-1)
    >>> bool((tensor(z) <= reach.high + 1e-3).all())
    True

    Raises InputError for a batch of layers, shapes that do not fit, a subspace without an input of the norm,
    half precision and numbers that are not finite.
    """
    tolerance = default_tolerance(tensor.dtype) if tolerance is None else tolerance
    require_choice(over, get_args(Over), "over")
    require_choice(method, get_args(Method), "method")
    width = tensor.d_in - tensor.constant
    radius = radius_of(tensor, radius)
    require_decomposable(tensor, u, 1, "auto", tolerance, seed, name="certify")
    inner, z0, P, reach = restricted(tensor, subspace, radius)
    balanced, power = inner.balanced()
    rows = u.reshape(-1, tensor.d_out)
    powers = exponents(rows, 1) if len(rows) else rows.new_zeros(0, dtype=torch.int32)
    rows, powers = times_two_to(rows, -powers.unsqueeze(1)), powers + power
    ends = _ends(balanced, rows, reach, over, method, tolerance, seed)
    values = in_precision(ends.values, powers.unsqueeze(1), tensor.dtype, "ranges", "output directions", 1)
    points = ends.points if P is None else z0 + ends.points @ P
    axes = u.shape[:-1]
    return Range(
        low=values[:, 0].reshape(axes),
        high=values[:, 1].reshape(axes),
        argmin=points[:, 0].reshape(*axes, width),
        argmax=points[:, 1].reshape(*axes, width),
        residuals=ends.residuals.reshape(*axes, 2),
        over=over,
        radius=radius,
    )


def radius_of(tensor: BilinearTensor, radius: float | None) -> float:
    """The radius of a sphere of inputs: √d of the tensor, or the one that is given, checked."""
    if radius is None:
        return float(tensor.d_in - tensor.constant) ** 0.5
    require_number(radius, f"radius={radius!r}", "a number above 0", least=math.ulp(0))
    return float(radius)


@dataclass(frozen=True)
class Ends:
    """Minimum and maximum, in that order, of n forms."""

    points: Float[Tensor, "n 2 d"]
    values: Float[Tensor, "n 2"]
    residuals: Float[Tensor, "n 2"]


def form_ends(form: QuadraticForm, radius: float, over: Over) -> Ends:
    """Minimum and maximum of n quadratic forms on the sphere or ball, by their whole spectra."""
    values, columns = torch.linalg.eigh(form.matrix)
    linear = (columns.mT @ form.linear.unsqueeze(-1)).squeeze(-1)
    radii = torch.full_like(form.constant, radius)
    low, high = (maximise(sign * values, sign * linear, radii, over == "ball") for sign in (-1, 1))
    points = torch.stack([low.points, high.points], dim=1)
    multipliers = torch.stack([-low.multipliers, high.multipliers], dim=1)
    reached = torch.stack([-low.values, high.values], dim=1) + form.constant.unsqueeze(1)
    points = points @ columns.mT
    points = torch.where((form.linear == 0).all(-1)[:, None, None], fix_signs(points), points)
    errors = points @ form.matrix + form.linear.unsqueeze(1) - multipliers.unsqueeze(-1) * points
    size = torch.maximum(multipliers.abs(), values.abs().amax(1, keepdim=True)) * radius
    residuals = torch.linalg.vector_norm(errors, dim=-1) / size.clamp(min=torch.finfo(size.dtype).tiny)
    return Ends(points, reached, residuals)


def _ends(
    tensor: BilinearTensor,
    u: Tensor,
    radius: float,
    over: Over,
    method: Method,
    tolerance: float,
    seed: int,
) -> Ends:
    by_krylov = tensor.d_in >= LEAST_WIDTH if method == "auto" else method == "krylov"
    if not by_krylov or not len(u):
        return _dense(tensor, u, radius, over)
    found = krylov_extremes(tensor, u, radius, over == "ball", tolerance, seed)
    points = found.points if tensor.constant else fix_signs(found.points)
    ends = Ends(points, _values(tensor, u, points), found.residuals)
    rest = ~found.converged
    if rest.any():
        others = _dense(tensor, u[rest], radius, over)
        for name in ("points", "values", "residuals"):
            getattr(ends, name)[rest] = getattr(others, name)
    return ends


def _values(tensor: BilinearTensor, u: Tensor, points: Tensor) -> Tensor:
    """u · B(z, z) at the points [n, 2, d] of each u."""
    chunk = tensor.at_once(2 * (2 * tensor.d_mlp + tensor.d_out))
    pieces = zip(u.split(chunk), points.split(chunk), strict=True)
    return torch.cat([(tensor(z) * each.unsqueeze(1)).sum(-1) for each, z in pieces])


def _dense(tensor: BilinearTensor, u: Tensor, radius: float, over: Over) -> Ends:
    width = tensor.d_in - tensor.constant
    pieces = [
        form_ends(QuadraticForm.of(tensor, part), radius, over)
        for part in u.split(rows_at_once(6 * 8 * tensor.d_in**2))
    ]
    if not pieces:
        empty = u.new_zeros(0, 2)
        return Ends(u.new_zeros(0, 2, width), empty, empty)
    columns = zip(*((piece.points, piece.values, piece.residuals) for piece in pieces), strict=True)
    return Ends(*(torch.cat(column).to(u.dtype) for column in columns))
