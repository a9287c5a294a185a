"""Eigenvectors of interaction matrices: which input directions an output direction responds to.

For an output direction u of a bilinear layer, u · B(x, x) = x Q_u x = Σ_i λ_i (v_i · x)² with the
eigenvalues λ_i and orthonormal eigenvectors v_i of Q_u (arXiv 2410.08417, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.chebyshev import Largest, block_width, largest_eigenpairs
from analysis.spectra.lanczos import lanczos_eigenpairs
from bilinear_lm.arguments import checked
from bilinear_lm.checks import (
    require_choice,
    require_count,
    require_finite_numbers,
    require_number,
    require_seed,
)
from bilinear_lm.errors import InputError
from bilinear_lm.numerics import memory
from bilinear_lm.numerics.rescaling import exponents, in_precision, times_two_to
from bilinear_lm.shown import first_numbers, shown
from bilinear_lm.tensor import BilinearTensor

Method = Literal["auto", "dense", "block", "lanczos"]

CACHE_BYTES = 3 * 2**23
"""Bytes that a CPU caches: matrices that are multiplied again and again go through it in pieces."""

GPU_SHARE = 16
"""The part of a GPU's memory, one in so many, that a piece may take. The steps between the products are
small, and only many matrices at once keep it busy: at d_in = 1024 a sixteenth of 80 GiB holds over 500."""


@shown
@dataclass(frozen=True)
class Eigendecomposition:
    """Eigenvalues and eigenvectors of interaction matrices, sorted by |λ| descending.

    Eigenvectors are rows of length 1. The sign of each is such that its entry of largest magnitude is
    positive. Eigenvectors of equal eigenvalues are some orthonormal basis of their space: only the
    projector on it means something. Where +λ and −λ are equal in magnitude, their order is left open.
    """

    values: Float[Tensor, "*axes k"]
    vectors: Float[Tensor, "*axes k d_in"]
    residuals: Float[Tensor, "*axes k"]
    """‖Q v − λ v‖ / |λ₁|. An eigenvalue of Q lies within the residual times |λ₁| of λ."""
    gap: Float[Tensor, "*axes"]
    """(|λ_k| − |λ_k+1|) / |λ₁|: how far what is left out lies below what is here; 1 where nothing is.
    Near 0 the cut goes through eigenvalues of equal magnitude, and which of them are here is arbitrary."""

    def _first(self) -> dict[str, Any]:
        return {"values": first_numbers(self.values)} if self.values.ndim == 1 else {}

    def activations(self, x: Float[Tensor, "*points d_in"]) -> Float[Tensor, "*points k"]:
        """λ_i (v_i · x)² of one decomposition at points x; all of them sum to u · B(x, x)."""
        return self.values * (x @ self.vectors.mT).square()


@checked
def eigendecompose(
    tensor: BilinearTensor,
    u: Float[Tensor, "*axes d_out"],
    k: int | None = None,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
    seed: int = 0,
) -> Eigendecomposition:
    """Eigenvalues [..., k] and eigenvectors [..., k, d_in] of Q_u for output directions u [..., d_out].

    k=None gives all d_in of them, else the k largest by magnitude, from both ends of the spectrum.

    `dense` computes all eigenvectors of every Q_u. `block` computes only the k it is asked for, by matrix
    products (see `analysis.spectra.chebyshev`), until the residuals of k + 1 of them are within `tolerance`
    (by default `default_tolerance`). It starts from random rows drawn with `seed`, the same for each
    direction. Residuals tell that these are eigenpairs; that none larger is missing rests on the random rows
    having a part along each. A direction that does not get there within its budget is done densely, and so
    are all where the block would be as wide as the matrix. On a GPU that is told to multiply float32 in TF32
    no direction gets there. `lanczos` starts from one random row (see `analysis.spectra.lanczos`) and needs a
    tenth of the products. What it cannot show to be complete, such as many equal eigenvalues, `block` does,
    and whatever is not on a CPU. `auto` takes what measures fastest.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 8))
    >>> eigen = eigendecompose(tensor, torch.randn(3, 8), k=2)
    >>> eigen.values.shape, eigen.vectors.shape
    (torch.Size([3, 2]), torch.Size([3, 2, 8]))

    Raises InputError for a batch of layers, shapes that do not fit, half precision, numbers that are not
    finite, and eigenvalues that the precision cannot hold.
    """
    k = tensor.d_in if k is None else k
    tolerance = default_tolerance(tensor.dtype) if tolerance is None else tolerance
    require_decomposable(tensor, u, k, method, tolerance, seed)
    rows = u.reshape(-1, tensor.d_out)
    method = _fastest(tensor, k) if method == "auto" else method
    if method == "dense" or block_width(k) >= tensor.d_in or not len(rows):
        flat = _dense(tensor, rows, k)
    elif method == "lanczos" and tensor.device.type == "cpu":
        flat = _lanczos(tensor, rows, k, tolerance, seed)
    else:
        flat = _block(tensor, rows, k, tolerance, seed)
    axes = u.shape[:-1]
    return Eigendecomposition(
        flat.values.reshape(*axes, k),
        flat.vectors.reshape(*axes, k, tensor.d_in),
        flat.residuals.reshape(*axes, k),
        flat.gap.reshape(axes),
    )


def default_tolerance(dtype: torch.dtype) -> float:
    """ε^0.7: 1.4e-5 in float32, 1.1e-11 in float64."""
    return torch.finfo(dtype).eps ** 0.7


def require_decomposable(
    tensor: BilinearTensor,
    u: Float[Tensor, "*axes d_out"],
    k: int,
    method: Method,
    tolerance: float,
    seed: int,
    name: str = "eigendecompose",
) -> None:
    """Raises InputError unless `eigendecompose`, or the function called `name`, can answer."""
    if tensor.batch_shape:
        raise InputError(f"{name} takes one layer; give the layers of a batch one by one")
    require_full_precision(tensor, "eigenvectors")
    require_choice(method, get_args(Method), "method")
    require_count(k, f"k={k} eigenvectors", f"1 to d_in={tensor.d_in}", most=tensor.d_in)
    tensor.require_alike(u, "the output direction")
    if u.ndim == 0 or u.shape[-1] != tensor.d_out:
        width = u.shape[-1] if u.ndim else 1
        raise InputError(f"output direction of width {width}; expected d_out={tensor.d_out}")
    finest = 32 * torch.finfo(tensor.dtype).eps
    shown = f"{tolerance:g}" if isinstance(tolerance, float) else repr(tolerance)
    require_number(
        tolerance,
        f"tolerance {shown} for eigenvectors in {tensor.dtype}",
        f"{finest:.1g} to 1",
        least=finest,
        most=math.nextafter(1, 0),
    )
    require_seed(seed)
    vectors = {"the output direction": u, "W_gate": tensor.W_gate, "W_in": tensor.W_in, "W_out": tensor.W_out}
    for name, numbers in vectors.items():
        require_finite_numbers(numbers, name)


def require_full_precision(tensor: BilinearTensor, what: str) -> None:
    """Raises InputError for half precision, which torch has no eigenvectors in."""
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{what} of a tensor in {tensor.dtype}; expected float32 or float64, convert with "
            "tensor.to(torch.float32)"
        )


def _fastest(tensor: BilinearTensor, k: int) -> Method:
    """The method that measures fastest.

    On a CPU (processor time, float32, one thread, d_mlp = 4 d_in from 64 to 512, k 1 to 64, random layers and
    ones with decaying hidden units) Lanczos and `eigh` take as long for 1 pair at d_in 128 to 160, for 16 at
    192, for 32 at 224 to 320, for 64 at 320 to 512; from there on Lanczos gains, at d_in 512 and k 16
    threefold. On other devices torch solves matrices of more than 32 rows one after another, so there the
    block pays early.
    """
    if tensor.device.type == "cpu":
        return "lanczos" if max(160, 7 * k + 64) <= tensor.d_in else "dense"
    return "block" if block_width(k) * 4 <= tensor.d_in else "dense"


def _dense(tensor: BilinearTensor, rows: Tensor, k: int) -> Eigendecomposition:
    """By `eigh` of every matrix."""
    pieces = []
    for piece in rows.split(_chunk(tensor, tensor.d_in**2, memory.CHUNK_BYTES)):
        matrices, power = tensor.scaled_interaction_matrix(piece)
        values, vectors = by_eigh(matrices, k)
        values = torch.nn.functional.pad(values, (0, 1))
        errors = vectors @ matrices - values[:, :k].unsqueeze(-1) * vectors
        largest = values[:, :1].abs().clamp(min=torch.finfo(values.dtype).tiny)
        residuals = torch.linalg.vector_norm(errors / largest.unsqueeze(-1), dim=-1)
        eigen = _decomposition(values[:, :k], vectors, residuals, values[:, k], whole=k == tensor.d_in)
        pieces.append(_put_back(eigen, power))
    return _joined(pieces)


def by_eigh(matrices: Float[Tensor, "n d d"], k: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k d"]]:
    """All eigenvalues of symmetric matrices, largest |λ| first, and rows of the first k eigenvectors."""
    values, columns = torch.linalg.eigh(matrices)
    order = values.abs().argsort(dim=-1, descending=True)
    largest = order[:, :k].unsqueeze(-1).expand(-1, -1, columns.shape[-1])
    return values.gather(1, order), columns.mT.gather(1, largest)


def _block(tensor: BilinearTensor, rows: Tensor, k: int, tolerance: float, seed: int) -> Eigendecomposition:
    """By products of every matrix with a block of rows; by `eigh` where that does not converge.

    The matrices are built, which costs as much as d_mlp products of one with a row. To multiply through the
    factors instead takes 4 d_mlp / d_in times the work a row: it measured equal at best (d_in 1024, k 1).
    """
    width = block_width(k)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(width, tensor.d_in, generator=generator, dtype=tensor.dtype).to(tensor.device)
    # The matrix, and scaled; X, Q X, what has settled and the terms of the recurrence.
    numbers_each = 2 * tensor.d_in**2 + 8 * width * tensor.d_in
    limit = _block_bytes(tensor.device)
    built = _chunk(tensor, numbers_each, max(limit, memory.CHUNK_BYTES))
    together = _chunk(tensor, numbers_each, limit)

    def solve(matrices: Tensor) -> list[Largest]:
        return [largest_eigenpairs(piece, start, k, tolerance) for piece in matrices.split(together)]

    return _iterated(tensor, rows, k, built, solve, partial(_dense, k=k))


def _lanczos(tensor: BilinearTensor, rows: Tensor, k: int, tolerance: float, seed: int) -> Eigendecomposition:
    """By products of every matrix with one row; by the block method where that does not converge."""

    def solve(matrices: Tensor) -> list[Largest]:
        return [lanczos_eigenpairs(matrices, k, tolerance, seed)]

    otherwise = partial(_block, k=k, tolerance=tolerance, seed=seed)
    return _iterated(tensor, rows, k, _chunk(tensor, tensor.d_in**2, memory.CHUNK_BYTES), solve, otherwise)


def _iterated(
    tensor: BilinearTensor,
    rows: Tensor,
    k: int,
    built: int,
    solve: Callable[[Tensor], list[Largest]],
    otherwise: Callable[[BilinearTensor, Tensor], Eigendecomposition],
) -> Eigendecomposition:
    """By `solve` of `built` matrices at a time, and by `otherwise` where they do not converge."""
    pieces = []
    for piece in rows.split(built):
        matrices, power = tensor.scaled_interaction_matrix(piece)
        parts = solve(matrices)
        values, vectors, residuals, following, converged = (
            torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Largest)
        )
        eigen = _put_back(_decomposition(values, vectors, residuals, following, whole=False), power)
        if not converged.all():
            _put(eigen, ~converged, otherwise(tensor, piece[~converged]))
        pieces.append(eigen)
    return _joined(pieces)


def _block_bytes(device: torch.device) -> int:
    """Bytes that a piece of the block method may take: the same at each call, so that results are too."""
    if device.type == "cpu":
        return CACHE_BYTES
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // GPU_SHARE
    return memory.CHUNK_BYTES


def _put_back(eigen: Eigendecomposition, power: Tensor | None) -> Eigendecomposition:
    """The decomposition with eigenvalues of the matrices themselves, not in units of 2^power."""
    return eigen if power is None else replace(eigen, values=eigenvalues_put_back(eigen.values, power))


def eigenvalues_put_back(values: Float[Tensor, "n k"], power: Tensor) -> Float[Tensor, "n k"]:
    """Eigenvalues of the matrices themselves, from units of 2^power; InputError where they overflow."""
    names = "interaction matrices", "output directions"
    return in_precision(values, power.unsqueeze(-1), values.dtype, *names, -1)


def _chunk(tensor: BilinearTensor, numbers_each: int, limit: int) -> int:
    return max(1, limit // (numbers_each * tensor.dtype.itemsize))


def _decomposition(
    values: Tensor, vectors: Tensor, residuals: Tensor, following: Tensor, whole: bool
) -> Eigendecomposition:
    largest = values[:, 0].abs().clamp(min=torch.finfo(values.dtype).tiny)
    gap = ((values[:, -1].abs() - following.abs()) / largest).clamp(min=0)
    return Eigendecomposition(values, fix_signs(vectors), residuals, torch.ones_like(gap) if whole else gap)


def _joined(pieces: list[Eigendecomposition]) -> Eigendecomposition:
    return Eigendecomposition(
        *(torch.cat([getattr(piece, field.name) for piece in pieces]) for field in fields(Eigendecomposition))
    )


def _put(eigen: Eigendecomposition, rows: Tensor, others: Eigendecomposition) -> None:
    for field in fields(Eigendecomposition):
        getattr(eigen, field.name)[rows] = getattr(others, field.name)


@checked
def fix_signs(vectors: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
    """The vectors with the sign that makes the entry of largest magnitude positive."""
    largest = vectors.gather(-1, vectors.abs().argmax(dim=-1, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def shares_of_squares(values: Float[Tensor, "*axes k"]) -> Float[Tensor, "*axes k"]:
    """The share (0 to 1) of the first 1, 2, … eigenvalues in Σ λ²; 0 of a spectrum of zeros."""
    squares = values.square()
    return squares.cumsum(dim=-1) / squares.sum(dim=-1, keepdim=True).clamp(
        min=torch.finfo(squares.dtype).tiny
    )


@checked
def effective_rank(values: Float[Tensor, "*axes k"]) -> Float[Tensor, "*axes"]:
    """(‖λ‖₁ / ‖λ‖₂)² of whole spectra: 1 for a single eigenvalue, k for k equal ones, 0 for none.

    It does not depend on how large the values are. In half precision it is computed in float32.
    """
    require_finite_numbers(values, "the spectrum of an effective rank")
    if not values.ndim:
        raise InputError("the spectrum of an effective rank is one number; expected a last axis of them")
    if not values.numel():
        return values.sum(-1)
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    wide = times_two_to(wide, -exponents(wide, -1, keepdim=True))
    total, square = wide.abs().sum(-1).square(), wide.square().sum(-1)
    rank = torch.where(square > 0, total / square.clamp(min=torch.finfo(wide.dtype).tiny), square)
    return rank.to(values.dtype)
