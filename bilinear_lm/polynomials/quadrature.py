"""Integrals of a function of one Gaussian variable, to a computed error.

Gauss–Hermite nodes lie in units of the spread, so they miss a function that varies on its own scale once the
spread is large: 50 of them are off by 3e-2 for tanh at spread 8. Here the line is cut into panels that are
halved where the 7-point Gauss and the 15-point Kronrod sum of a panel differ (Piessens et al., QUADPACK,
1983), or where the panel's ends do not continue its nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once

TOLERANCE = 1e-12
"""Largest difference of the two sums of an accepted panel, relative to the size of the function."""

REACH = 9.5
"""Spreads on either side of the mean; 2e-21 of a Gaussian lies further out."""

FAR_REACH = 13.0
"""The same for orders above 3, whose Hermite polynomials are large further out."""

CHUNK_BYTES = 2**22
"""Intermediates of the units that are integrated at once; what fits the cache is integrated fastest."""

_WIDTH = REACH / 9  # of the first panels, in spreads

_EDGES = (-64.0, -8.0, -1.0, 0.0, 1.0, 8.0, 64.0)  # of the first panels, where activations bend

_MOST_PANELS = 256  # a unit and a round; a jump needs two

_MOST_ROUNDS = 80

_NODES = (
    *(0.991455371120812639, 0.949107912342758525, 0.864864423359769073, 0.741531185599394440),
    *(0.586087235467691130, 0.405845151377397167, 0.207784955007898468, 0.0),
)

_KRONROD = (
    *(0.022935322010529225, 0.063092092629978553, 0.104790010322250184, 0.140653259715525919),
    *(0.169004726639267903, 0.190350578064785410, 0.204432940075298892, 0.209482141084727828),
)

_GAUSS = (
    *(0.0, 0.129484966168869693, 0.0, 0.279705391489276668),
    *(0.0, 0.381830050505118945, 0.0, 0.417959183673469388),
)


def integrate_hermite(
    function: Callable[[Tensor], Tensor],
    mean: Float[Tensor, " units"],
    spread: Float[Tensor, " units"],
    order: int,
) -> Float[Tensor, "orders units"]:
    """E[f(mean + spread ξ) He_k(ξ)] for ξ ~ N(0, 1), k = 0 … order, float64, one column a unit.

    He_k are the probabilists' Hermite polynomials. The error is estimated on every panel and stays below
    1e-9 sqrt(k!) S for functions of at most polynomial growth that are smooth but for single kinks or jumps,
    whatever the spread. S = sqrt(E[f²]) + 0.01 min(1, sqrt(E[y²])): the second term, y the argument of f,
    leaves room for the rounding of f where it nearly vanishes. `InputError` where the estimate does not come
    down, where f is not finite, or where it grows so fast that the tails beyond
    `REACH` (`FAR_REACH`) spreads count.
    """
    units = mean.shape[0]
    panels_each = round(2 * _reach(order) / _WIDTH) + len(_EDGES)
    bytes_each = panels_each * 8 * (17 * 10 + 5 * (order + 1))
    chunk = min(rows_at_once(bytes_each), max(1, CHUNK_BYTES // bytes_each))
    parts = [
        _integrate(function, mean[i : i + chunk], spread[i : i + chunk], order)
        for i in range(0, units, chunk)
    ]
    return torch.cat(parts, dim=1) if parts else mean.new_zeros(order + 1, 0)


def _integrate(function: Callable, mean: Tensor, spread: Tensor, order: int) -> Tensor:
    unit, left, right = _first_panels(mean, spread, _reach(order))
    integrals = mean.new_zeros(order + 1, len(mean))
    size: Tensor | None = None
    # The Kronrod sum of k = 0 … order, each in units of sqrt(k!), the norm of He_k.
    norms = torch.tensor([math.sqrt(math.factorial(k)) for k in range(order + 1)]).to(mean).unsqueeze(1)
    for _ in range(_MOST_ROUNDS):
        sums, differences, squares = _panel_sums(function, mean, spread, unit, left, right, order)
        if size is None:
            size = mean.new_zeros(len(mean)).index_add_(0, unit, squares).sqrt()
            size += 0.01 * torch.hypot(mean, spread).clamp(max=1)
            _require_decay(function, mean, spread, size, order)
        settled = (differences / norms).amax(0) <= TOLERANCE * size[unit]
        integrals.index_add_(1, unit[settled], sums[:, settled])
        if settled.all():
            integrals[integrals.abs() <= 4 * torch.finfo(integrals.dtype).eps * size * norms] = 0
            return integrals
        unit, left, right = (each[~settled] for each in (unit, left, right))
        middle = (left + right) / 2
        unit = unit.repeat(2)
        left, right = torch.cat([left, middle]), torch.cat([middle, right])
        if len(unit) > _MOST_PANELS * len(mean):
            break
    raise InputError(
        f"the Gaussian moments of {_named(function)} did not settle to {TOLERANCE:g} of its size; expected a "
        "function that computes in float64 and is smooth but for a few kinks or jumps"
    )


def _reach(order: int) -> float:
    return REACH if order <= 3 else FAR_REACH


def _first_panels(mean: Tensor, spread: Tensor, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Unit, left and right end of panels that cover ±reach: a grid in spreads, cut where activations bend."""
    grid = torch.linspace(-reach, reach, round(2 * reach / _WIDTH) + 1).to(mean)
    bends = (torch.tensor(_EDGES).to(mean) - mean.unsqueeze(1)) / spread.unsqueeze(1)
    bends = bends.nan_to_num(nan=reach).clamp(-reach, reach)
    edges = torch.cat([grid.expand(len(mean), -1), bends], dim=1).sort(dim=1).values
    left, right = edges[:, :-1].flatten(), edges[:, 1:].flatten()
    unit = torch.arange(len(mean), device=mean.device).repeat_interleave(edges.shape[1] - 1)
    wide = right > left
    return unit[wide], left[wide], right[wide]


def _panel_sums(
    function: Callable, mean: Tensor, spread: Tensor, unit: Tensor, left: Tensor, right: Tensor, order: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Kronrod sums [orders, panels] of f He_k φ, estimates of their errors, and ∫ f² φ [panels]."""
    half = (right - left) / 2
    nodes, rules = (torch.tensor(rows, dtype=mean.dtype, device=mean.device) for rows in _rules())
    xi = ((left + right) / 2).unsqueeze(1) + half.unsqueeze(1) * nodes
    values = evaluate(function, mean[unit].unsqueeze(1) + spread[unit].unsqueeze(1) * xi)
    weighted = values * torch.exp(-xi.square() / 2) * (half / math.sqrt(2 * math.pi)).unsqueeze(1)
    squares = (weighted * values) @ rules[:, 0]
    before, hermite = torch.zeros_like(xi), torch.ones_like(xi)
    rows = []
    for k in range(order + 1):
        rows.append((weighted * hermite) @ rules)
        before, hermite = hermite, xi * hermite - k * before
    sums = torch.stack(rows)
    return sums[..., 0], sums[..., 1:].abs().amax(-1), squares


@cache
def _rules() -> tuple[list[float], list[list[float]]]:
    """Nodes of a panel [-1, 1], its ends the last two, and for each the weights of four sums.

    The first is the integral. The others vanish where the integrand is smooth: Kronrod less Gauss, and for
    either end what lies between it and the outermost node, which neither rule sees: the value at the end
    less the value that the polynomial through the inner nodes has there, times that gap.
    """
    nodes, kronrod, gauss = (
        [*(sign * x for x in row), *reversed(row[:-1])]
        for row, sign in ((_NODES, -1.0), (_KRONROD, 1.0), (_GAUSS, 1.0))
    )
    gap = 1 - nodes[-1]
    at_left = [math.prod((-1 - x) / (node - x) for x in nodes if x != node) for node in nodes]
    rules = [
        [weight, weight - coarse, gap * left, gap * right]
        for weight, coarse, left, right in zip(kronrod, gauss, at_left, reversed(at_left), strict=True)
    ]
    return [*nodes, -1.0, 1.0], [*rules, [0.0, 0.0, -gap, 0.0], [0.0, 0.0, 0.0, -gap]]


def evaluate(function: Callable[[Tensor], Tensor], y: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """f(y) without gradients, checked to be finite and of the shape of y."""
    with torch.no_grad():
        values = function(y)
    if not isinstance(values, Tensor) or values.shape != y.shape:
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"{_named(function)} of a tensor of shape {list(y.shape)} is {got}; expected the same shape"
        )
    if not torch.isfinite(values).all():
        worst = float(y[~torch.isfinite(values)][0])
        raise InputError(f"{_named(function)} is not finite at {worst:g}; expected a finite activation")
    return values.to(y)


def _require_decay(function: Callable, mean: Tensor, spread: Tensor, size: Tensor, order: int) -> None:
    reach = _reach(order)
    ends = torch.stack([mean - reach * spread, mean + reach * spread])
    # |He_k| is at most r^k out there, and sqrt(k!) exp(r²/4) everywhere.
    largest = max(
        min(reach**k / math.sqrt(math.factorial(k)), math.exp(reach**2 / 4)) for k in range(order + 1)
    )
    beyond = math.exp(-(reach**2) / 2) * largest * evaluate(function, ends).abs()
    if not ((beyond <= 1e-10 * size) & torch.isfinite(size)).all():
        raise InputError(
            f"{_named(function)} grows too fast: the tails of the Gaussian beyond {reach} spreads count; "
            "expected an activation of at most polynomial growth"
        )


def _named(function: Callable) -> str:
    return f"activation {getattr(function, '__name__', None) or type(function).__name__}"
