"""The eigenvalues of largest magnitude of symmetric matrices on a CPU, by ARPACK's restarted Lanczos method.

ARPACK (scipy's `eigsh`) multiplies one row at a time by Q and keeps what the eigenvalues at both ends are
made of. A block of rows needs ten times the products, which on a CPU are not ten times as fast.

One row cannot tell equal eigenvalues apart: of each it finds one eigenvector, and others only by rounding. So
k + 1 pairs are found, and the largest eigenvalue of what is left, Q − Σ λ v vᵀ, is looked for from another
random row. Where it lies beyond the k + 1 the answer is not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.spectra.chebyshev import Largest
from bilinear_lm.numerics.rescaling import sizes

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

RESTARTS = 40
"""Restarts after which a matrix is given up. Random matrices, which have no gaps, need up to 10."""

LOOKING, ROWS = 0.1, 16
"""How exactly the largest eigenvalue that is left is found, and by how many rows between restarts. The value
is one of what is left, and never above it; it lies below by 2% in random matrices."""

STANDS_OUT = 1e-3
"""A missing eigenvalue may be larger than the last of the k + 1 by this share, and is not noticed."""


def lanczos_eigenpairs(matrices: Float[Tensor, "n d d"], k: int, tolerance: float, seed: int) -> Largest:
    """The k eigenpairs of largest magnitude of each of n symmetric matrices on the CPU, k + 1 < d.

    A matrix has converged when the residuals of k + 1 pairs are within the tolerance and nothing beyond them
    is left. The same rows drawn with `seed` start it for every matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, matrices.shape[1], generator=generator, dtype=matrices.dtype).numpy()
    scale = sizes(matrices, (1, 2))
    ordinary = bool(((scale > 1e-2) & (scale < 1e2)).all())
    scale = torch.ones_like(scale) if ordinary else torch.where(scale > 0, scale, 1.0)
    scaled = matrices if ordinary else matrices / scale[:, None, None]
    found = [_largest(matrix, k + 1, tolerance, rows) for matrix in scaled.numpy()]
    values = torch.from_numpy(np.stack([each[0] for each in found]))
    vectors = torch.from_numpy(np.stack([each[1] for each in found]))
    whole = torch.tensor([each[2] for each in found])
    residuals, sound = residuals_of(scaled, values, vectors, tolerance)
    values = values * scale.unsqueeze(1)
    return Largest(
        values[:, :k],
        vectors[:, :k],
        residuals[:, :k],
        values[:, k],
        whole & sound,
    )


def residuals_of(
    matrices: Float[Tensor, "n d d"],
    values: Float[Tensor, "n k"],
    vectors: Float[Tensor, "n k d"],
    tolerance: float,
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, " n"]]:
    """Residuals ‖Q v − λ v‖ / |λ₁| of eigenpairs of each matrix, largest |λ| first, and whether they will do.

    They will where residuals are within the tolerance and the eigenvectors orthonormal to it.
    """
    errors = torch.baddbmm(values.unsqueeze(-1) * vectors, vectors, matrices, alpha=-1)
    residuals = torch.linalg.vector_norm(errors, dim=-1)
    residuals /= values[:, :1].abs().clamp(min=torch.finfo(values.dtype).tiny)
    unit = torch.eye(vectors.shape[1], dtype=values.dtype)
    orthonormal = (vectors @ vectors.mT - unit).abs().amax(dim=(1, 2)) <= tolerance
    return residuals, orthonormal & (residuals.amax(1) <= tolerance)


def _largest(
    matrix: np.ndarray, k: int, tolerance: float, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Eigenvalues, largest |λ| first, and rows of eigenvectors; and whether nothing beyond them is left."""
    from scipy.sparse.linalg import ArpackError, eigsh

    try:
        values, columns = eigsh(_product(matrix), k, v0=rows[0], tol=tolerance / 2, maxiter=RESTARTS)
        order = np.argsort(-np.abs(values), kind="stable")
        values, columns = values[order], np.ascontiguousarray(columns[:, order])
        left = _product(matrix, values, columns)
        few = min(ROWS, len(matrix))
        beyond = eigsh(left, 1, v0=rows[1], ncv=few, tol=LOOKING, return_eigenvectors=False)
    except ArpackError:
        return np.zeros(k, matrix.dtype), np.zeros((k, len(matrix)), matrix.dtype), False
    whole = abs(beyond[0]) <= (1 + STANDS_OUT) * abs(values[-1]) + 4 * tolerance * abs(values[0])
    return values, np.ascontiguousarray(columns.T), bool(whole)


def _product(
    matrix: np.ndarray, values: np.ndarray | None = None, columns: np.ndarray | None = None
) -> LinearOperator:
    """Q, or Q − Σ λ v vᵀ, as eigsh multiplies by it.

    The checks of every row that scipy has by itself take as long as the product.
    """
    from scipy.sparse.linalg import aslinearoperator

    operator = aslinearoperator(matrix)
    operator.matvec = matrix.dot
    if values is not None and columns is not None:
        rows = columns.T
        operator.matvec = lambda row: matrix.dot(row) - columns.dot(values * rows.dot(row))
    return operator
