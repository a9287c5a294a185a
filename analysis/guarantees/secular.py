"""The extreme points of diagonal quadratic forms on spheres and balls, many at once, by the secular equation.

In the eigenbasis of its matrix a form is f(a) = Σ_i λ_i a_i² + 2 Σ_i β_i a_i. Its maximum on ‖a‖ = r is where

    a_i = β_i / (μ − λ_i)   for the μ ≥ λ_max with   Σ_i β_i² / (μ − λ_i)² = r².

In the hard case β has no part along the largest eigenvalues and the sum at μ = λ_max is below r²: the missing
length goes along one of their eigenvectors. In the ball μ ≥ max(λ_max, 0), and where the form is concave its
stationary point may lie inside. (Moré and Sorensen, "Computing a trust region step", SIAM J. Sci. Stat.
Comput. 4, 1983; Conn, Gould and Toint, "Trust-Region Methods", 2000, chapter 7.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 60
"""Newton steps at most. They converge from one side; hard problems in float64 take about 12."""


@dataclass(frozen=True)
class Extreme:
    """The maximising points of n forms, in their eigenbases."""

    points: Float[Tensor, "n m"]
    values: Float[Tensor, " n"]
    multipliers: Float[Tensor, " n"]
    """μ: at the points (μ − λ_i) a_i = β_i."""


def maximise(
    eigenvalues: Float[Tensor, "n m"], linear: Float[Tensor, "n m"], radius: Float[Tensor, " n"], ball: bool
) -> Extreme:
    """The largest Σ λ_i a_i² + 2 Σ β_i a_i of each row on ‖a‖ = radius, or on ‖a‖ ≤ radius.

    The radius is above 0. In float64, values are right to a few roundings of max |λ| r² + ‖β‖ r.
    """
    top = eigenvalues.amax(1)
    gaps = top.unsqueeze(1) - eigenvalues
    least = (-top).clamp(min=0) if ball else torch.zeros_like(top)
    # Along the largest eigenvalue alone the point is at least r long up to here: the root is not below.
    at_top = torch.where(gaps == 0, linear.abs(), 0.0).amax(1)
    start = torch.maximum(least, at_top / radius)
    is_short = _point(linear, gaps, start).square().sum(1).sqrt() <= radius
    shift = torch.where(is_short, start, _root(linear, gaps, start, radius))
    points = _point(linear, gaps, shift)
    length = torch.linalg.vector_norm(points, dim=1)
    on_sphere = torch.ones_like(is_short) if not ball else (top > 0) | ~is_short
    missing = (radius.square() - length.square()).clamp(min=0).sqrt()
    along = torch.zeros_like(points).scatter(1, eigenvalues.argmax(1, keepdim=True), missing.unsqueeze(1))
    # Towards the side of β, where rounding left a part of it.
    along = torch.where(linear < 0, -along, along)
    points = points + torch.where((is_short & on_sphere).unsqueeze(1), along, 0.0)
    length = torch.linalg.vector_norm(points, dim=1)
    points = torch.where(on_sphere.unsqueeze(1), points * (radius / length).unsqueeze(1), points)
    values = (points * (eigenvalues * points + 2 * linear)).sum(1)
    return Extreme(points, values, top + shift)


def _point(linear: Tensor, gaps: Tensor, shift: Tensor) -> Tensor:
    """β_i / (μ − λ_i) at μ = λ_max + shift; 0 where β_i is."""
    return torch.where(linear == 0, 0.0, linear / (shift.unsqueeze(1) + gaps))


def _root(linear: Tensor, gaps: Tensor, shift: Tensor, radius: Tensor) -> Tensor:
    """The shift with ‖a(shift)‖ = r, by Newton's method on 1 / ‖a‖, concave in the shift, from below."""
    tolerance = 4 * torch.finfo(shift.dtype).eps
    for _ in range(STEPS):
        point = _point(linear, gaps, shift)
        square = point.square().sum(1)
        slope = torch.where(linear == 0, 0.0, point.square() / (shift.unsqueeze(1) + gaps)).sum(1)
        length = square.sqrt()
        step = torch.where(length > radius, square / slope * (length - radius) / radius, 0.0)
        shift = shift + step
        if bool((step <= tolerance * shift).all()):
            break
    return shift
