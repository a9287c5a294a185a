"""Eigenvectors of interaction matrices: which input directions an output direction responds to.

For an output direction u of a bilinear layer, u · B(x, x) = x Q_u x = Σ_i λ_i (v_i · x)² with the
eigenvalues λ_i and orthonormal eigenvectors v_i of Q_u (arXiv 2410.08417, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.tensor import CHUNK_BYTES, BilinearTensor


@dataclass(frozen=True)
class Eigendecomposition:
    """Eigenvalues and eigenvectors of interaction matrices, sorted by |λ| descending.

    Eigenvectors are rows of length 1. The sign of each is such that its entry of largest magnitude is
    positive.
    """

    values: Float[Tensor, "*axes k"]
    vectors: Float[Tensor, "*axes k d_in"]

    def activations(self, x: Float[Tensor, "*points d_in"]) -> Float[Tensor, "*points k"]:
        """λ_i (v_i · x)² of one decomposition at points x; all of them sum to u · B(x, x)."""
        return self.values * (x @ self.vectors.mT).square()


def eigendecompose(
    tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"], k: int | None = None
) -> Eigendecomposition:
    """Eigenvalues [..., k] and eigenvectors [..., k, d_in] of Q_u for output directions u [..., d_out].

    k=None gives all d_in of them, else the k largest by magnitude, from both ends of the spectrum.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 8))
    >>> found = eigendecompose(tensor, torch.randn(3, 8), k=2)
    >>> found.values.shape, found.vectors.shape
    (torch.Size([3, 2]), torch.Size([3, 2, 8]))
    """
    k = tensor.d_in if k is None else k
    if not 1 <= k <= tensor.d_in:
        raise InputError(f"k={k} eigenvectors; expected 1 to d_in={tensor.d_in}")
    if tensor.batch_shape:
        raise InputError("eigendecompose takes one layer; give the layers of a batch one by one")
    if u.shape[-1] != tensor.d_out:
        raise InputError(f"output direction of width {u.shape[-1]}; expected d_out={tensor.d_out}")
    rows = u.reshape(-1, tensor.d_out)
    if not torch.isfinite(rows).all():
        raise InputError("the output direction holds NaN or infinity")
    values, vectors = rows.new_empty(len(rows), k), rows.new_empty(len(rows), k, tensor.d_in)
    at_once = max(1, CHUNK_BYTES // (tensor.d_in**2 * tensor.dtype.itemsize))
    for start in range(0, len(rows), at_once):
        piece = slice(start, start + at_once)
        values[piece], vectors[piece] = _largest(tensor.interaction_matrix(rows[piece]), k)
    return Eigendecomposition(
        values.reshape(*u.shape[:-1], k), vectors.reshape(*u.shape[:-1], k, tensor.d_in)
    )


def _largest(matrices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, columns = torch.linalg.eigh(matrices)
    order = values.abs().argsort(dim=-1, descending=True)[:, :k]
    vectors = columns.mT.gather(1, order.unsqueeze(-1).expand(-1, -1, columns.shape[-1]))
    return values.gather(1, order), fix_signs(vectors)


def fix_signs(vectors: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
    """The vectors with the sign that makes the entry of largest magnitude positive."""
    largest = vectors.gather(-1, vectors.abs().argmax(dim=-1, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def effective_rank(values: Float[Tensor, "*axes k"]) -> Float[Tensor, "*axes"]:
    """(‖λ‖₁ / ‖λ‖₂)² of whole spectra: 1 for a single eigenvalue, k for k equal ones, 0 for none."""
    total, square = values.abs().sum(-1).square(), values.square().sum(-1)
    return torch.where(square > 0, total / square.clamp(min=torch.finfo(values.dtype).tiny), square)
