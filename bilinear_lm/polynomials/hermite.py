"""Moments of an activation at a Gaussian pre-activation.

For y = m + s ξ, ξ ~ N(0, 1), the Hermite moments h_k = E[σ(y) He_k(ξ)] are all that a least-squares
polynomial of σ(y) needs, whatever its degree: σ(y) ≈ Σ_k h_k/k! He_k((y − m)/s). By Stein's lemma h_k = s^k
E[σ⁽ᵏ⁾(y)], where the derivatives of a kink are those of a distribution. ReLU, ReLU², exact GELU and the
identity are in closed form; every other activation is integrated numerically to 1e-9 of its own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_floating, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.quadrature import evaluate, integrate_hermite

MOST_ORDER = 64
"""The highest order of a Hermite moment."""

Activation = str | Callable[[Tensor], Tensor]
"""A name that Hugging Face configs use (`activation_names()`), or an elementwise function or module."""


@checked
def swish(beta: float) -> Callable[[Tensor], Tensor]:
    """Swish_β(y) = y sigmoid(β y): SiLU for β = 1, the linear y/2 for β = 0."""
    require_number(beta, f"swish with beta={beta}", "a finite number")

    def activation(y: Tensor) -> Tensor:
        return y * torch.sigmoid(beta * y)

    activation.__name__ = f"swish({beta:g})"
    return activation


def activation_names() -> tuple[str, ...]:
    """The activations known by name."""
    return tuple(sorted(_FUNCTIONS))


def activation_function(activation: Activation) -> Callable[[Tensor], Tensor]:
    """The function of a name; a function or module is returned as it is."""
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in _FUNCTIONS:
        raise InputError(
            f"activation {activation!r} is not known by name; expected a function or one of "
            f"{', '.join(activation_names())}"
        )
    return _FUNCTIONS[activation]


def hermite_moments(
    activation: Activation, mean: Float[Tensor, "*units"], spread: Float[Tensor, "*units"], order: int = 2
) -> Float[Tensor, "orders *units"]:
    """h_k = E[σ(m + s ξ) He_k(ξ)], k = 0 … order (at most 64), for every mean m and spread s ≥ 0; float64.

    He_k = 1, ξ, ξ² − 1, ξ³ − 3ξ, … Closed forms are exact to rounding; otherwise the error is below
    1e-9 sqrt(E[σ²] k!), checked by the integration itself (`bilinear_lm.polynomials.quadrature` says when).
    At s = 0, or below the rounding of m, only h_0 = σ(m) is not zero.

    >>> hermite_moments("relu", torch.zeros(2), torch.tensor([1.0, 2.0]), order=1)
    tensor([[0.3989, 0.7979],
            [0.5000, 1.0000]], dtype=torch.float64)
    """
    require_count(
        order, f"Hermite moments up to order {order}", f"0 to {MOST_ORDER}", least=0, most=MOST_ORDER
    )
    require_floating(mean, "means of pre-activations")
    require_floating(spread, "spreads of pre-activations")
    function = activation_function(activation)
    if mean.shape != spread.shape:
        raise InputError(
            f"means of shape {list(mean.shape)}, spreads of shape {list(spread.shape)}; expected one"
        )
    m, s = mean.to(torch.float64).flatten(), spread.to(torch.float64).flatten()
    if not (torch.isfinite(m).all() and torch.isfinite(s).all() and (s >= 0).all()):
        raise InputError("means and spreads of pre-activations must be finite, and spreads at least 0")
    moments = m.new_zeros(order + 1, len(m))
    fixed = s <= 4 * torch.finfo(s.dtype).eps * m.abs() + torch.finfo(s.dtype).tiny
    moments[0, fixed] = evaluate(function, m[fixed])
    m, s = m[~fixed], s[~fixed]
    if isinstance(activation, str) and activation in _CLOSED_FORMS:
        moments[:, ~fixed] = torch.stack(_CLOSED_FORMS[activation](m, s, order)[: order + 1])
    else:
        moments[:, ~fixed] = integrate_hermite(function, m, s, order)
    return moments.reshape(order + 1, *mean.shape)


def derivative_moments(
    activation: Activation, mean: Float[Tensor, "*units"], spread: Float[Tensor, "*units"], order: int = 2
) -> Float[Tensor, "orders *units"]:
    """e_k = E[σ⁽ᵏ⁾(y)] for y ~ N(mean, spread²), k = 0 … order: h_k / s^k; float64.

    At spread 0, where y does not move, e_k is 0 for k > 0: it multiplies nothing but zeros.
    """
    moments = hermite_moments(activation, mean, spread, order)
    s = spread.to(moments)
    for k in range(1, order + 1):
        moments[k] = torch.where(moments[k] == 0, 0.0, moments[k] / s**k)
    return moments


def _linear(m: Tensor, s: Tensor, order: int) -> list[Tensor]:
    return [m, s, *[torch.zeros_like(m)] * (order - 1)]


def _relu(m: Tensor, s: Tensor, order: int) -> list[Tensor]:
    """E[σ'] = Φ(m/s), and the derivatives of that by m."""
    t = m / s
    bumps, below = _bumps(t, max(order - 2, 0)), torch.special.ndtr(t)
    return [m * below + s * bumps[0], s * below, *(s * bump for bump in bumps)]


def _relu_squared(m: Tensor, s: Tensor, order: int) -> list[Tensor]:
    """The derivative of relu² is 2 relu."""
    relu = _relu(m, s, order)
    return [m * relu[0] + s * relu[1], *(2 * s * each for each in relu)]


def _gelu(m: Tensor, s: Tensor, order: int) -> list[Tensor]:
    """E[y Φ(y)] = m Φ(u) + s²/r φ(u) with r² = 1 + s², u = m/r, and its derivatives by m times s^k."""
    r = torch.hypot(torch.ones_like(s), s)
    u, share = m / r, s / r
    bumps, below = _bumps(u, order), torch.special.ndtr(u)
    higher = [s * share ** (k - 1) * (bumps[k - 2] - bumps[k] / r**2) for k in range(2, order + 1)]
    return [m * below + s * share * bumps[0], s * (below + u * bumps[0] / r**2), *higher]


def _bumps(t: Tensor, order: int) -> list[Tensor]:
    """(−1)^k He_k(t) φ(t), the k-th derivatives of the density φ, k = 0 … order."""
    before, bump = torch.zeros_like(t), torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)
    bumps = []
    for k in range(order + 1):
        bumps.append(bump)
        # Far out φ is 0 and t may be infinite in its powers.
        before, bump = bump, torch.where(bump == 0, 0.0, -t * bump) - k * before
    return bumps


def _identity(y: Tensor) -> Tensor:
    return y


def _squared_relu(y: Tensor) -> Tensor:
    return y.relu().square()


_gelu_tanh = partial(F.gelu, approximate="tanh")

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "linear": _identity,
    "relu": torch.relu,
    "relu2": _squared_relu,
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "quick_gelu": swish(1.702),
    "silu": F.silu,
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

_CLOSED_FORMS = {
    "identity": _linear,
    "linear": _linear,
    "relu": _relu,
    "relu2": _relu_squared,
    "gelu": _gelu,
    "gelu_python": _gelu,
}
