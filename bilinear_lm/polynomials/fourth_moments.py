"""Exact moments of products of two linear functions of Gaussian inputs: the fourth moments of x.

Everything is taken around the mean, x̃ = x − mean, so that a mean far larger than the spread costs no digits.
Products are given by columns: h_i = (x p_i)(x q_i). By Isserlis, with · taken in the covariance,

    Cov((x̃ p)(x̃ q), (x̃ p')(x̃ q')) = (p·p') (q·q') + (p·q') (q·p').

Where p and q are combinations of the columns w and v of a layer, so are all these products of those of w and
v: they are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.tensor import BilinearTensor


@dataclass(frozen=True)
class PairProducts:
    """Products in the covariance of columns w, v number i (rows) and w', v' number j."""

    ww: Float[Tensor, "rows d_mlp"]
    """w·w'."""
    crossed: tuple[Tensor, Tensor, Tensor] | None = None
    """w·v', v·w', v·v' of the same shape; None without v."""


def pair_products(
    W: Float[Tensor, "d_in d_mlp"], V: Float[Tensor, "d_in d_mlp"] | None, at: Gaussian
) -> Iterator[tuple[slice, PairProducts]]:
    """The products of all pairs of columns, by blocks of i."""
    cov_W, cov_V = at.times_cov(W), None if V is None else at.times_cov(V)
    chunk = rows_at_once(16 * W.shape[1] * W.dtype.itemsize)
    for start in range(0, W.shape[1], chunk):
        rows = slice(start, min(start + chunk, W.shape[1]))
        left = W[:, rows].T
        if V is None or cov_V is None:
            yield rows, PairProducts(left @ cov_W)
        else:
            in_left = V[:, rows].T
            yield rows, PairProducts(left @ cov_W, (left @ cov_V, in_left @ cov_W, in_left @ cov_V))


@dataclass(frozen=True)
class Columns:
    """Vectors p_i = gate_i w_i + up_i v_i + shift_i t, for one direction t."""

    gate: Float[Tensor, " d_mlp"]
    up: Float[Tensor, " d_mlp"]
    shift: Float[Tensor, " d_mlp"]

    def times(self, scale: Float[Tensor, " d_mlp"]) -> Columns:
        """scale_i p_i."""
        return Columns(self.gate * scale, self.up * scale, self.shift * scale)

    def vectors(self, W: Tensor, V: Tensor, t: Tensor) -> Float[Tensor, "d_in d_mlp"]:
        """The vectors themselves."""
        return (W * self.gate).addcmul_(V, self.up).addr_(t, self.shift)


@dataclass(frozen=True)
class ShiftedProducts:
    """p·p' for `Columns`, from the products of w and v and of both with t."""

    pairs: PairProducts
    rows: slice
    along: tuple[Float[Tensor, " d_mlp"], Float[Tensor, " d_mlp"]]
    """w·t and v·t."""
    square: float
    """t·t."""

    def __call__(self, left: Columns, right: Columns) -> Float[Tensor, "rows d_mlp"]:
        """p_i·p'_j for i in `rows` and every j."""
        assert self.pairs.crossed is not None
        wv, vw, vv = self.pairs.crossed
        own = (self.pairs.ww * right.gate).addcmul_(wv, right.up)
        total = own.mul_(left.gate[self.rows].unsqueeze(1))
        if left.up.any():
            other = (vw * right.gate).addcmul_(vv, right.up)
            total.addcmul_(other, left.up[self.rows].unsqueeze(1))
        if left.shift.any() or right.shift.any():
            total.addr_(self._along(left)[self.rows], right.shift)
            total.addr_(left.shift[self.rows], self._along(right) + self.square * right.shift)
        return total

    def _along(self, columns: Columns) -> Tensor:
        return columns.gate * self.along[0] + columns.up * self.along[1]


def product_gradients(
    P: Float[Tensor, "d_in n"], Q: Float[Tensor, "d_in n"], at: Gaussian
) -> Float[Tensor, "d_in n"]:
    """The gradients of h_i at the mean, which are their mean gradients."""
    return P * (at.mean @ Q) + Q * (at.mean @ P)


def quadratic_variance(tensor: BilinearTensor, at: Gaussian) -> float:
    """Σ_outputs Var B(x̃, x̃), for a tensor without the constant coordinate."""
    total = tensor.W_out.new_zeros(())
    for rows, pairs in pair_products(tensor.W_gate, tensor.W_in, at):
        assert pairs.crossed is not None
        wv, vw, vv = pairs.crossed
        block = (pairs.ww * vv).addcmul_(wv, vw)
        total += (block * (tensor.W_out[rows] @ tensor.W_out.T)).sum()
    return max(float(total), 0.0)


@dataclass(frozen=True)
class ProductMoments:
    """Second moments of products h of a layer's columns, and with quadratic targets over the same columns."""

    means: Float[Tensor, " d_mlp"]
    """E[h_i]."""
    gram: Float[Tensor, "d_mlp d_mlp"]
    """E[h_i h_j]."""
    with_target: Float[Tensor, "d_mlp d_out"]
    """Cov(h_i, T_o) for the purely quadratic T_o = Σ_j (x̃ r_j)(x̃ s_j) W_out[j, o]."""
    target_variance: float
    """Σ_o Var T_o."""


def product_moments(
    layer: tuple[Float[Tensor, "d_in d_mlp"], Float[Tensor, "d_in d_mlp"], Float[Tensor, "d_mlp d_out"]],
    t: Float[Tensor, " d_in"],
    products: tuple[Columns, Columns],
    target: tuple[Columns, Columns],
    at: Gaussian,
) -> ProductMoments:
    """The moments of h_i = (x p_i)(x q_i), `products`, and with those of `target`, r and s.

    All of them are columns over the W_gate, W_in of a layer and t. A pair of hidden units costs four products
    of length d_in.
    """
    W, V, W_out = layer
    (P, Q), (R, S) = products, target
    cov_t = at.times_cov(t.unsqueeze(1)).squeeze(1)
    along, square = (cov_t @ W, cov_t @ V), float(t @ cov_t)
    p, q = (at.mean @ each.vectors(W, V, t) for each in products)
    gram, with_target, variance = W.new_zeros(len(p), len(p)), torch.zeros_like(W_out), 0.0
    means = p * q
    for rows, pairs in pair_products(W, V, at):
        of = ShiftedProducts(pairs, rows, along, square)
        pp, pq, qp, qq = of(P, P), of(P, Q), of(Q, P), of(Q, Q)
        block = gram[rows]
        torch.mul(pp, qq, out=block).addcmul_(pq, qp)
        # The gradient of h_i at the mean is q_i p + p_i q.
        left, right = q[rows].unsqueeze(1), p[rows].unsqueeze(1)
        block += left * (pp.mul_(q).addcmul_(pq, p.expand_as(pq)))
        block += right * (qp.mul_(q).addcmul_(qq, p.expand_as(qq)))
        means[rows] += pq[:, rows].diagonal()
        del pp, pq, qp, qq
        block = of(P, R).mul_(of(Q, S)).addcmul_(of(P, S), of(Q, R))
        with_target[rows] = block @ W_out
        block = of(R, R).mul_(of(S, S)).addcmul_(of(R, S), of(S, R))
        variance += float((block * (W_out[rows] @ W_out.T)).sum())
    gram.addr_(means, means)
    return ProductMoments(means, gram, with_target, max(variance, 0.0))
