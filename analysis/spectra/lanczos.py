"""The eigenvalues of largest magnitude of one symmetric matrix, by Lanczos' method.

From one random row q it makes an orthonormal basis V of q, q Q, q Q², …, in which Q is tridiagonal,
T = V Q Vᵀ. Eigenpairs (θ, s) of T give approximate ones of Q, and |β s_m| is their residual, with β the next
number beside the diagonal and s_m the last entry of s (Parlett, "The Symmetric Eigenvalue Problem", chapter
13). A block of rows needs ten times the products, which on a CPU are not ten times as fast. The rows are made
with numpy: a step is so small that half of it would be torch's time for each call.

One row cannot tell equal eigenvalues apart: of each it finds one eigenvector. So once k + 1 pairs are there,
the basis is continued from a fresh random row, orthogonal to all of it. An eigenvalue that was missed stands
out among what little is left, and then the answer is not taken.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.chebyshev import Largest, orthonormal, rayleigh_ritz

GROWTH = 1.25
"""Each search for eigenpairs has a basis so many times as large as the one before."""

CONTINUED = 24
"""Rows from the fresh one on. Of a missed eigenvalue 5% above the rest they show all but a thousandth."""

STANDS_OUT = 0.98
"""The rest of Q reaches this share of the last |λ| where an eigenvalue is missing, or many are equal."""


class _Basis:
    """Orthonormal rows, and the tridiagonal matrix of Q in them."""

    def __init__(self, matrix: Tensor, most: int, generator: torch.Generator) -> None:
        self.matrix, self.generator = matrix.numpy(), generator
        self.rows = np.empty((most + 1, len(matrix)), self.matrix.dtype)
        self.diagonal, self.beside = np.zeros((2, most), self.matrix.dtype)
        self.made, self.largest = 0, 0.0
        self.rows[0] = self._fresh(0)

    def extend(self, size: int) -> None:
        """Multiplies rows by Q until `size` have been; each product makes the next row."""
        least = 16 * np.finfo(self.matrix.dtype).eps
        for step in range(self.made, size):
            before, row = self.rows[: step + 1], self.rows[step + 1]
            np.dot(self.matrix, self.rows[step], out=row)
            parts = np.dot(before, row)
            row -= np.dot(parts, before)
            self.diagonal[step] = parts[step]
            length = math.sqrt(np.dot(row, row))
            self.largest = max(self.largest, length, abs(float(parts[step])))
            if length <= least * self.largest:
                # The rows span an invariant space, and what is left of this one is rounding.
                row[:] = self._fresh(step + 1)
                continue
            self.beside[step] = length
            row /= length
            if length < self.largest / 16:  # most of it was cancelled: the rest is not orthogonal yet
                row -= np.dot(np.dot(before, row), before)
                row /= math.sqrt(np.dot(row, row))
        self.made = size

    def start_anew(self) -> None:
        """Goes on from a fresh random row, beyond the one that comes next."""
        self.made += 1
        self.rows[self.made] = self._fresh(self.made)

    def spectrum(self, first: int = 0) -> tuple[Tensor, Tensor]:
        """Eigenvalues and columns of the tridiagonal matrix from row `first` on, largest |θ| first."""
        beside = torch.from_numpy(self.beside[first : self.made - 1])
        T = torch.from_numpy(self.diagonal[first : self.made]).diag() + beside.diag(1) + beside.diag(-1)
        theta, columns = torch.linalg.eigh(T)
        order = theta.abs().argsort(descending=True)
        return theta[order], columns[:, order]

    def vectors(self, columns: Tensor) -> Tensor:
        """The rows that columns of the tridiagonal matrix's eigenvectors stand for."""
        return columns.T @ torch.from_numpy(self.rows[: self.made])

    def _fresh(self, n: int) -> np.ndarray:
        draw = torch.randn(self.rows.shape[1], generator=self.generator, dtype=torch.float64)
        row, before = draw.numpy().astype(self.rows.dtype), self.rows[:n]
        for _ in range(2):
            row -= np.dot(np.dot(before, row), before)
            row /= math.sqrt(np.dot(row, row))
        return row


def lanczos_eigenpairs(matrix: Float[Tensor, "d d"], k: int, tolerance: float, seed: int) -> Largest:
    """The k eigenpairs of largest magnitude of a symmetric matrix on the CPU, as one of a batch, n = 1.

    It has converged when the residuals of k + 1 pairs are within the tolerance and nothing beyond them is
    left. The matrix is of ordinary size, or scaled to it.
    """
    most = most_rows(len(matrix), k)
    size = min(4 * k + 16, most)
    if size > k:
        basis = _Basis(matrix, most + CONTINUED + 1, torch.Generator().manual_seed(seed))
        while basis.made < most:
            basis.extend(size)
            size = min(int(size * GROWTH) + 1, most)
            theta, columns = basis.spectrum()
            errors = columns[-1, : k + 1].abs() * float(basis.beside[basis.made - 1])
            if errors.amax() > tolerance / 2 * theta[0].abs():
                continue
            X = orthonormal(basis.vectors(columns[:, : k + 1]).unsqueeze(0))
            ritz = rayleigh_ritz(X, X @ matrix, tolerance)
            if ritz.residuals.amax() <= tolerance:
                whole = torch.tensor([_nothing_missing(basis, ritz.values[0], tolerance)])
                first = ritz.values[:, :k], ritz.X[:, :k], ritz.residuals[:, :k]
                return Largest(*first, ritz.values[:, k], whole)
    empty = matrix.new_zeros(1, k)
    return Largest(empty, matrix.new_zeros(1, k, len(matrix)), empty, empty[:, 0], torch.zeros(1) > 0)


def most_rows(d: int, k: int) -> int:
    """Rows of the basis after which a matrix is given up."""
    return min(d - CONTINUED - 2, 12 * (k + 24))


def _nothing_missing(basis: _Basis, values: Tensor, tolerance: float) -> bool:
    """Whether a fresh row finds no eigenvalue beyond those that the basis has."""
    basis.start_anew()
    first = basis.made
    basis.extend(first + CONTINUED)
    rest, sizes = basis.spectrum(first)[0], values.abs()
    return bool(rest[0].abs() <= STANDS_OUT * sizes[-1] + 4 * tolerance * sizes[0])
