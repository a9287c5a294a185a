"""The least-squares polynomial under an equal-weight mixture of Gaussians, from those of its components.

With φ(x) all monomials up to the degree and M_i = E_i[φ φᵀ] for component i, the least-squares polynomial θ
of f has (Σ_i M_i) θ = Σ_i E_i[φ f] = Σ_i M_i θ_i: of f only its projections θ_i under each component matter.
At degree 0 and 1 that is solved in closed form. At degree 2 the components no longer decouple: the equations
are solved by conjugate gradients over the quadratic polynomials of each output, in the coordinates z in which
the mixture has mean 0 and covariance 1. There M is the identity for a single Gaussian, and it is applied by
exact Gaussian moments, never built: a step costs 4 n_components d_out d_in³ multiplications.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.polynomials.polynomial import Polynomial, from_forms

TOLERANCE = 1e-10
"""Largest correlation left of f − P with monomials, relative to the equations' right side, per output."""

MAX_BYTES = 2**32
"""Memory of the largest quadratic problem; those that need more are refused."""

_MOST_STEPS = 5000

_VECTORS = 8  # of d_out · d_in² numbers that live at once


def project_mixture(polynomials: Sequence[Polynomial], components: Sequence[Gaussian]) -> Polynomial:
    """The polynomial nearest to f in the mean over the components; `polynomials` are nearest under each.

    Float64, of the same degree. At degree 2 its hidden units are those of `from_forms`, and E[(f − P) φ] is
    below 1e-10 of its size for every orthonormal monomial φ of z. `InputError` if the memory needed, about
    64 d_out d_in² + 4 d_in² (2 d_in + d_out) bytes, is more than `MAX_BYTES`, or if the iteration does not
    settle: components far narrower than their distances.
    """
    degree, d_in, d_out = polynomials[0].degree, *polynomials[0].linear.shape
    if degree == 2:
        _require_memory(d_in, d_out)
    mean, root, inverse = _whitening(components)
    inside = [
        Gaussian((each.mean - mean) @ inverse, inverse.T @ each.times_cov(inverse)) for each in components
    ]
    targets = [_hermite_coordinates(each, mean, root) for each in polynomials]

    def mean_moments(thetas: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(thetas[0])
        for theta, at in zip(thetas, inside, strict=True):
            total += _moments(theta, at) / len(inside)
        return total

    def normal(theta: Tensor) -> Tensor:
        return mean_moments([theta] * len(inside))

    right = mean_moments(targets)

    # Up to degree 1 the monomials of z are orthonormal under the mixture as they are.
    theta = right if degree < 2 else _conjugate_gradients(normal, right)
    return _in_monomials(theta, mean, inverse, degree)


def _require_memory(d_in: int, d_out: int) -> None:
    needed = 8 * (_VECTORS * d_out * d_in**2 + d_in**2 * (2 * d_in + d_out) // 2)
    if needed > MAX_BYTES:
        raise InputError(
            f"the quadratic of a mixture with d_in {d_in}, d_out {d_out} needs {needed:,} bytes, more than "
            f"{MAX_BYTES:,}; use degree=1 or one Gaussian, project the outputs, or raise "
            "bilinear_lm.polynomials.mixture.MAX_BYTES"
        )


def _whitening(components: Sequence[Gaussian]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [d] of the mixture, root [r, d] and inverse [d, r]: x = mean + z root, z = (x − mean) inverse.

    r is the rank of the mixture's covariance: no coordinate for directions in which it has no spread.
    """
    mean = torch.stack([each.mean for each in components]).mean(0)
    eye = torch.eye(len(mean)).to(mean)
    off = torch.stack([each.mean - mean for each in components])
    cov = torch.stack([each.times_cov(eye) for each in components]).mean(0) + off.T @ off / len(components)
    values, vectors = torch.linalg.eigh(cov)
    kept = values > len(mean) * torch.finfo(values.dtype).eps * values[-1]
    scale, vectors = values[kept].sqrt(), vectors[:, kept]
    return mean, scale.unsqueeze(1) * vectors.T, vectors / scale


def _hermite_coordinates(polynomial: Polynomial, mean: Tensor, root: Tensor) -> Tensor:
    """k, l, √2 Q [d_out, 1 + r (+ r²)] with P = k + l·z + zQz − tr Q: orthonormal for z ~ N(0, 1)."""
    inside = polynomial.around(mean)
    constant, linear = inside.constant, inside.linear.T @ root.T
    if inside.degree < 2:
        return torch.cat([constant.unsqueeze(1), linear], dim=1)
    if not len(root):
        return constant.unsqueeze(1)
    outputs = torch.eye(len(constant)).to(mean)
    Q = inside.quadratic.change_basis(inputs=root).interaction_matrix(outputs)
    constant = constant + Q.diagonal(dim1=1, dim2=2).sum(1)
    return torch.cat([constant.unsqueeze(1), linear, math.sqrt(2) * Q.flatten(1)], dim=1)


def _moments(theta: Float[Tensor, "d_out coordinates"], at: Gaussian) -> Float[Tensor, "d_out coordinates"]:
    """E[P φ] for every orthonormal φ: M θ under one component, z ~ N(mean, S).

    With t = z − mean: E[P t] = S ∇P(mean), E[P ttᵀ] = E[P] S + 2 S Q S (Isserlis).
    """
    mean, S = at.mean, at.times_cov(torch.eye(len(at.mean)).to(at.mean))
    r = len(mean)
    constant, gradient = theta[:, 0], theta[:, 1 : 1 + r]
    expected = constant + gradient @ mean
    if theta.shape[1] == 1 + r:
        return torch.cat([expected.unsqueeze(1), gradient @ S + expected.outer(mean)], dim=1)
    Q = theta[:, 1 + r :].reshape(len(theta), r, r) / math.sqrt(2)
    spread = S + mean.outer(mean) - torch.eye(r).to(S)  # E[zzᵀ] − 1
    expected = expected + (Q * spread).sum((1, 2))
    first = (gradient + 2 * Q @ mean) @ S
    second = 2 * (S @ (Q @ S))
    second += expected.reshape(-1, 1, 1) * spread
    second += first.unsqueeze(2) * mean + mean.unsqueeze(1) * first.unsqueeze(1)
    linear = first + expected.outer(mean)
    return torch.cat([expected.unsqueeze(1), linear, second.flatten(1) / math.sqrt(2)], dim=1)


def _conjugate_gradients(normal: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """θ with normal(θ) = right, every row by itself; from 0, so without a part that M does not see."""
    theta, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), residual.square().sum(1)
    goal = TOLERANCE**2 * square
    for _ in range(_MOST_STEPS):
        active = square > goal
        if not active.any():
            return theta
        image = normal(direction)
        step = torch.where(active, square / (direction * image).sum(1), 0.0).unsqueeze(1)
        theta += step * direction
        residual -= step * image
        new = residual.square().sum(1)
        direction = residual + torch.where(active, new / square, 0.0).unsqueeze(1) * direction
        square = torch.where(active, new, square)
    worst = float((square / goal).max().sqrt()) * TOLERANCE
    raise InputError(
        f"the quadratic of a mixture did not settle in {_MOST_STEPS} steps (error {worst:.1e} of the size, "
        f"expected {TOLERANCE:g}): its components are too narrow for their distances; use degree=1 or widen "
        "them"
    )


def _in_monomials(theta: Tensor, mean: Tensor, inverse: Tensor, degree: int) -> Polynomial:
    r = inverse.shape[1]
    constant, linear = theta[:, 0], inverse @ theta[:, 1 : 1 + r].T
    if degree < 2:
        linear = linear if degree else 0 * linear
        return Polynomial(constant - mean @ linear, linear, None, degree)
    Q = theta[:, 1 + r :].reshape(len(theta), r, r) / math.sqrt(2)
    constant = constant - Q.diagonal(dim1=1, dim2=2).sum(1) - mean @ linear
    Q = inverse @ Q @ inverse.T
    slope = Q @ mean
    return from_forms(constant + slope @ mean, linear - 2 * slope.T, Q)
