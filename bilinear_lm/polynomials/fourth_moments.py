"""Exact moments of products of two linear functions of Gaussian inputs: the fourth moments of x.

Everything is taken around the mean, x̃ = x − mean, so that a mean far larger than the spread costs no digits.
Products are given by columns: h_i = (x p_i)(x q_i).
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.tensor import BilinearTensor


def product_means(
    P: Float[Tensor, "d_in n"], Q: Float[Tensor, "d_in n"], at: Gaussian
) -> Float[Tensor, " n"]:
    """E[h_i]."""
    return (at.mean @ P) * (at.mean @ Q) + (P * at.times_cov(Q)).sum(0)


def product_gradients(
    P: Float[Tensor, "d_in n"], Q: Float[Tensor, "d_in n"], at: Gaussian
) -> Float[Tensor, "d_in n"]:
    """The gradients of h_i at the mean, which are their mean gradients."""
    return P * (at.mean @ Q) + Q * (at.mean @ P)


def form_covariances(
    P: Float[Tensor, "d_in n"],
    Q: Float[Tensor, "d_in n"],
    tensor: BilinearTensor,
    at: Gaussian,
) -> Iterator[tuple[slice, Float[Tensor, "_rows d_mlp"]]]:
    """Cov((x̃ p_i)(x̃ q_i), (x̃ w_h)(x̃ v_h)) for the columns w, v of a tensor's factors, by blocks of i.

    Isserlis: (p·Σw)(q·Σv) + (p·Σv)(q·Σw).
    """
    W, V = at.times_cov(tensor.W_gate), at.times_cov(tensor.W_in)
    chunk = rows_at_once(4 * W.shape[1] * W.dtype.itemsize)
    for start in range(0, P.shape[1], chunk):
        rows = slice(start, start + chunk)
        left, right = P[:, rows].T, Q[:, rows].T
        yield rows, (left @ W) * (right @ V) + (left @ V) * (right @ W)


def second_moments(
    P: Float[Tensor, "d_in n"], Q: Float[Tensor, "d_in n"], at: Gaussian
) -> Float[Tensor, "n n"]:
    """E[h_i h_j], every pair."""
    means, gradients = product_means(P, Q, at), product_gradients(P, Q, at)
    moments = gradients.T @ at.times_cov(gradients)
    moments.addr_(means, means)
    for rows, block in form_covariances(P, Q, BilinearTensor(P, Q, P.T), at):
        moments[rows] += block
    return moments


def quadratic_variance(tensor: BilinearTensor, at: Gaussian) -> float:
    """Σ_outputs Var B(x̃, x̃), for a tensor without the constant coordinate."""
    total = tensor.W_out.new_zeros(())
    for rows, block in form_covariances(tensor.W_gate, tensor.W_in, tensor, at):
        total += (block * (tensor.W_out[rows] @ tensor.W_out.T)).sum()
    return max(float(total), 0.0)
