"""The eigenvalues of largest magnitude of many symmetric matrices at once, by products alone.

Chebyshev-filtered subspace iteration: a block of rows X is multiplied by T_m(Q / c), the Chebyshev
polynomial of even degree m. On [−c, c] it stays within ±1, outside it grows as cosh(m acosh(|λ| / c)) on both
sides alike; so with c just below the wanted eigenvalues one filter brings out both ends of an indefinite
spectrum. Then X is orthonormalised and turned to its Ritz vectors, the eigenvectors of X Q Xᵀ, and what has
settled is subtracted from Q in the next filter. (Zhou, Saad, Tiago and Chelikowsky, "Self-consistent-field
calculations using Chebyshev-filtered subspace iteration", J. Comput. Phys. 219, 2006; there for one end.)

Everything is a product of a batch of matrices with a batch of blocks, or an operation on matrices as small
as the block is wide. That is why it is used and not Krylov spaces, which need fewer products: their small
eigenproblems are several blocks wide, and beyond 32 rows torch solves those one by one on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bilinear_lm.shown import shown

CYCLES = 20
"""Filters after which a matrix is given up. Random matrices, which have no gaps, need 4 to 8."""

DEGREE = 16
"""The largest degree of one filter."""

GROWTH_POWER = -0.6
"""A filter may pull its rows apart by ε^-0.6: more, and rounding of the large hides the small."""


@shown
@dataclass(frozen=True)
class Largest:
    """Eigenpairs of n matrices, sorted by |λ| descending. Where `converged` is false they mean nothing."""

    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k d"]
    residuals: Float[Tensor, "n k"]
    """‖Q v − λ v‖ / |λ₁|, none above the tolerance."""
    following: Float[Tensor, " n"]
    """The eigenvalue after the last one, to the same tolerance."""
    converged: Bool[Tensor, " n"]


@dataclass(frozen=True)
class _Ritz:
    """Ritz pairs of the matrices still at work, sorted; X orthonormal rows, QX = X Q."""

    values: Tensor
    X: Tensor
    QX: Tensor
    residuals: Tensor

    def __getitem__(self, kept: Tensor) -> _Ritz:
        return _Ritz(self.values[kept], self.X[kept], self.QX[kept], self.residuals[kept])


def block_width(k: int) -> int:
    """Rows of the block for k eigenpairs.

    The more, the further c lies below the wanted eigenvalues; up to 32 rows torch has a batched `eigh` on
    GPUs, so up to k = 24 it stays within them.
    """
    return max(k + 8, min(2 * k, 32), 4 * k // 3)


def largest_eigenpairs(
    matrices: Float[Tensor, "n d d"], start: Float[Tensor, "b d"], k: int, tolerance: float
) -> Largest:
    """The k eigenpairs of largest magnitude of each of n symmetric matrices, from one random block (b > k).

    A matrix has converged when the residuals of its first k + 1 pairs are within the tolerance. It is done
    with at that moment, so its result does not depend on the others.
    """
    n, d, _ = matrices.shape
    values, residuals = start.new_zeros(n, k), start.new_zeros(n, k)
    vectors, following = start.new_zeros(n, k, d), start.new_zeros(n)
    converged = torch.zeros(n, dtype=torch.bool, device=start.device)
    going = torch.arange(n, device=start.device)
    matrices, scale = _scaled(matrices)
    X = orthonormal(start.expand(n, -1, -1))
    for cycle in range(CYCLES):
        ritz = _rayleigh_ritz(X, X @ matrices, tolerance)
        done = ritz.residuals[:, : k + 1].amax(dim=1) <= tolerance
        rows, finished = going[done], ritz[done]
        values[rows] = finished.values[:, :k] * scale[rows, :, 0]
        following[rows] = finished.values[:, k] * scale[rows, 0, 0]
        vectors[rows], residuals[rows] = finished.X[:, :k], finished.residuals[:, :k]
        converged[rows] = True
        if len(rows) == len(going):
            break
        if len(rows):
            matrices, going, ritz = matrices[~done], going[~done], ritz[~done]
        # Ritz values of a random block are far below the eigenvalues, so the first filters have to be mild.
        X = orthonormal(_filter(matrices, ritz, k + 1, tolerance, most=min(2 * 4**cycle, DEGREE)))
    return Largest(values, vectors, residuals, following, converged)


def _scaled(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices in units of their largest entry: squares of tiny or huge numbers are 0 or infinite."""
    scale = torch.linalg.vector_norm(matrices, ord=torch.inf, dim=(1, 2), keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    return matrices / scale, scale


def orthonormal(X: Float[Tensor, "n b d"]) -> Float[Tensor, "n b d"]:
    """Orthonormal rows that span what X spans, each row from itself and those before it.

    Shifted Cholesky QR, three times: products and small factorisations, for condition numbers up to 1/ε
    (Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa, SIAM J. Sci. Comput. 42, 2020).
    """
    info, unit = torch.finfo(X.dtype), torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    for shift in (10 * X.shape[1] * info.eps, 0.0, 0.0):
        X = X / torch.linalg.vector_norm(X, dim=-1, keepdim=True).clamp(min=info.tiny)
        factors = torch.linalg.cholesky_ex(X @ X.mT + shift * unit).L
        # A factorisation that breaks down leaves rows that are not orthonormal: `_rayleigh_ritz` looks.
        X = torch.linalg.solve_triangular(factors, unit, upper=False) @ X
    return X


def _rayleigh_ritz(X: Tensor, QX: Tensor, tolerance: float) -> _Ritz:
    """Where X is not orthonormal there are no Ritz pairs: the residuals are infinite."""
    unit = torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    sound = (X @ X.mT - unit).abs().amax(dim=(1, 2)) <= tolerance
    values, columns = torch.linalg.eigh(torch.where(sound[:, None, None], X @ QX.mT, unit))
    order = values.abs().argsort(dim=-1, descending=True)
    turn = columns.mT.gather(1, order.unsqueeze(-1).expand_as(columns))
    values, X, QX = values.gather(1, order), turn @ X, turn @ QX
    residuals = torch.linalg.vector_norm(QX - values.unsqueeze(-1) * X, dim=-1)
    residuals = residuals / values[:, :1].abs().clamp(min=torch.finfo(values.dtype).tiny)
    return _Ritz(values, X, QX, torch.where(sound.unsqueeze(1), residuals, torch.inf))


def _filter(matrices: Tensor, ritz: _Ritz, wanted: int, tolerance: float, most: int) -> Tensor:
    """The rows of X multiplied by T_m(Q / c), with c and the even degree m of each matrix its own.

    Leading rows that have settled are left as they are. Without them in Q, c need not be near them: the
    range of |λ| that one filter can span would else bound what is found below a few large ones.
    """
    settled = (ritz.residuals <= tolerance / 4).cumprod(dim=1).bool().unsqueeze(-1)
    c, degree = _bounds(ritz, settled, wanted, most)
    fixed = ritz.X * settled
    weighted = ritz.values.unsqueeze(-1) * fixed
    ends = torch.stack([degree.min(), degree.max(), settled.any().to(degree)])
    least, largest, any_settled = ends.int().tolist()
    # T_0 = 1, T_1 = x, T_j+1 = 2 x T_j − T_j−1
    before, now = ritz.X, ritz.QX / c
    for step in range(2, largest + 1):
        doubled = now * (2 / c)
        following = torch.baddbmm(before, doubled, matrices, beta=-1)
        if any_settled:
            following = torch.baddbmm(following, doubled @ fixed.mT, weighted, alpha=-1)
        if step > least:
            following, now = (
                torch.where(step <= degree, following, now),
                torch.where(step <= degree, now, before),
            )
        before, now = now, following
    return torch.where(settled, ritz.X, now)


def _bounds(ritz: _Ritz, settled: Tensor, wanted: int, most: int) -> tuple[Tensor, Tensor]:
    """c and the degree of the filter of each matrix, [n, 1, 1]; degrees are even and at most `most`."""
    eps = torch.finfo(ritz.X.dtype).eps
    growth, sizes = eps**GROWTH_POWER, ritz.values.abs()
    # The smallest |λ| in the block. A row that mixes +λ and −λ has the Ritz value 0, but its product with
    # Q is as long as |λ|. No Ritz value exceeds the eigenvalue of its place, so wanted ones lie beyond c.
    c = torch.minimum(torch.linalg.vector_norm(ritz.QX, dim=-1).amin(1), sizes[:, wanted - 1]).unsqueeze(1)
    top = sizes.gather(1, settled.sum(1).clamp(max=sizes.shape[1] - 1))
    # T_2(x) = 2 x² − 1 is the least there is: it keeps within `growth` up to top / c = (growth / 2)^½.
    c = torch.maximum(c, top / (growth / 2) ** 0.5).clamp(min=eps)
    half = math.acosh(growth) / torch.acosh((top / c).clamp(min=1 + eps)) / 2
    return c.unsqueeze(-1), (2 * half.floor().clamp(1, most // 2)).unsqueeze(-1)
