"""Whole spectra of interaction matrices, with a few of their eigenvectors.

`eigh` turns every eigenvector back from the tridiagonal form, which is most of its work. On a CPU a matrix is
brought to that form (LAPACK's `sytrd`), all eigenvalues are those of the form (`sterf`), and only the largest
get eigenvectors, by inverse iteration (`stebz`, `stein`) and the reflections of the first step (`ormqr`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.spectra.eigen import (
    by_eigh,
    default_tolerance,
    eigenvalues_put_back,
    fix_signs,
    require_decomposable,
)
from analysis.spectra.lanczos import residuals_of
from bilinear_lm.arguments import checked
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor

LEAST = 224
"""Width from which this measured faster than `eigh` (processor time, one thread, 5 eigenvectors): equal at
192, 1.26 times at 256, 2.3 at 512, 2.6 at 1024."""

FEW = 16
"""One in so many of the eigenvectors, at most."""


@shown
@dataclass(frozen=True)
class Spectrum:
    """All eigenvalues of interaction matrices, and their largest eigenvectors, by |λ| descending."""

    values: Float[Tensor, "n d_in"]
    vectors: Float[Tensor, "n k d_in"]
    """Rows of length 1, with signs as `Eigendecomposition` has them."""


@checked
def spectrum(tensor: BilinearTensor, u: Float[Tensor, "n d_out"], k: int) -> Spectrum:
    """All eigenvalues and the k largest eigenvectors of Q_u for output directions u.

    The values and vectors of `eigendecompose(tensor, u)`, but for rounding, without the other eigenvectors.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 8))
    >>> found = spectrum(tensor, torch.randn(3, 8), k=2)
    >>> found.values.shape, found.vectors.shape
    (torch.Size([3, 8]), torch.Size([3, 2, 8]))

    Raises InputError as `eigendecompose` does.
    """
    tolerance, d_in = default_tolerance(tensor.dtype), tensor.d_in
    require_decomposable(tensor, u, k, "auto", tolerance, seed=0, name="spectrum")
    few = tensor.device.type == "cpu" and d_in >= LEAST and k * FEW <= d_in
    values, vectors = [tensor.W_in.new_zeros(0, d_in)], [tensor.W_in.new_zeros(0, k, d_in)]
    for piece in u.split(rows_at_once(d_in**2 * tensor.dtype.itemsize)):
        matrices, power = tensor.scaled_interaction_matrix(piece)
        if few and len(matrices):
            own, rows, _, converged = largest_of_spectra(matrices, k, tolerance)
            if not converged.all():
                own[~converged], rows[~converged] = by_eigh(matrices[~converged], k)
        else:
            own, rows = by_eigh(matrices, k)
        if power is not None:
            own = eigenvalues_put_back(own, power)
        values.append(own)
        vectors.append(fix_signs(rows))
    return Spectrum(torch.cat(values), torch.cat(vectors))


def largest_of_spectra(
    matrices: Float[Tensor, "n d d"], k: int, tolerance: float
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k d"], Float[Tensor, "n k"], Bool[Tensor, " n"]]:
    """All eigenvalues, largest |λ| first, k rows of eigenvectors, residuals, and whether these will do.

    They will as `residuals_of` says. Where one end of the spectrum cannot be told from the other (eigenvalues
    near 0 from both sides) they may not. Matrices are on a CPU, of ordinary size, in float32 or float64, and
    k < d.
    """
    found = [_largest(matrix, k) for matrix in matrices.numpy()]
    values = torch.from_numpy(np.stack([each[0] for each in found])).to(matrices.dtype)
    vectors = torch.from_numpy(np.stack([each[1] for each in found])).to(matrices.dtype)
    return values, vectors, *residuals_of(matrices, values[:, :k], vectors, tolerance)


def _largest(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest |λ| first, and rows of k eigenvectors; zeros where LAPACK gives up."""
    from scipy.linalg import eigh_tridiagonal, get_lapack_funcs, lapack

    d = len(matrix)
    sytrd, lwork, ormqr = get_lapack_funcs(("sytrd", "sytrd_lwork", "ormqr"), (matrix,))
    form, diagonal, beside, scales, _ = sytrd(matrix, lower=1, lwork=int(lwork(d, lower=1)[0]))
    diagonal, beside = diagonal.astype(np.float64), beside.astype(np.float64)
    values, failed = lapack.dsterf(diagonal, beside)
    if failed:
        return np.zeros(d), np.zeros((k, d))
    order = np.argsort(-np.abs(values), kind="stable")
    low = int((order[:k] < np.searchsorted(values, 0)).sum())
    ends = [(0, low - 1)] * (low > 0) + [(d - k + low, d - 1)] * (low < k)
    try:
        parts = [eigh_tridiagonal(diagonal, beside, select="i", select_range=end) for end in ends]
    except np.linalg.LinAlgError:
        return np.zeros(d), np.zeros((k, d))
    columns = np.concatenate([part[1] for part in parts], axis=1)
    columns = columns[:, np.argsort(-np.abs(np.concatenate([part[0] for part in parts])), kind="stable")]
    columns = np.asfortranarray(columns.astype(matrix.dtype))
    reflections = form[1:, :-1]
    rows, _, _ = ormqr("L", "N", reflections, scales, columns[1:], lwork=64 * k)
    columns[1:] = rows
    return values[order], columns.T
