"""How similar two bilinear layers are, from their weights: as tensors, along directions, on Gaussian inputs.

Two layers can be compared where their inputs and outputs have the same coordinates: checkpoints of one run,
layers of one model, a layer and its approximation. Models trained from different seeds share no basis of the
residual stream, but they share tokens: compare `tensor.change_basis(W_E, W_U.T)`, or encoders and decoders of
matched dictionaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.spectra.gram import scaled_gram, scaled_strength
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import exponent, exponents, times_two_to
from bilinear_lm.polynomials.gaussian import one_gaussian
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@checked
def pairwise_cosine(
    tensors: Sequence[BilinearTensor], others: Sequence[BilinearTensor] | None = None
) -> Float[Tensor, "n m"]:
    """Cosines of the symmetrised tensors of every pair of layers; `others` are `tensors` by default."""
    others = tensors if others is None else others
    if not len(tensors) or not len(others):
        raise InputError(f"cosines of {len(tensors)} with {len(others)} layers; expected one or more of each")
    if any(tensor.batch_shape for tensor in (*tensors, *others)):
        raise InputError("pairwise_cosine takes single layers; give the layers of a batch one by one")
    dtype = tensors[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    tensors, others = ([tensor.to(wide).balanced()[0] for tensor in group] for group in (tensors, others))
    norms, other_norms = (torch.stack([tensor.norm() for tensor in group]) for group in (tensors, others))
    inner = torch.stack([torch.stack([tensor.inner(other) for other in others]) for tensor in tensors])
    return _over(inner, norms.unsqueeze(1) * other_norms).to(dtype)


@checked
def direction_similarity(
    tensor: BilinearTensor,
    other: BilinearTensor,
    u: Float[Tensor, "n d_out"],
    other_u: Float[Tensor, "m other_d_out"] | None = None,
) -> Float[Tensor, "n m"]:
    """⟨Q_u, R_v⟩ / (‖Q_u‖ ‖R_v‖) for output directions u of one layer and v of another.

    `other_u` is `u` by default. The inputs must be the same, the outputs need not; 0 where a matrix is 0.
    """
    other_u = u if other_u is None else other_u
    for rows, layer in ((u, tensor), (other_u, other)):
        if rows.shape[-1] != layer.d_out:
            raise InputError(f"output directions of width {rows.shape[-1]}; expected d_out={layer.d_out}")
    dtype = tensor.dtype
    (read, size), (other_read, other_size) = _along(tensor, u), _along(other, other_u)
    inner, power = scaled_gram(read, other_read)
    return _over(times_two_to(inner, power), size.unsqueeze(1) * other_size).to(dtype)


def _along(tensor: BilinearTensor, u: Tensor) -> tuple[BilinearTensor, Tensor]:
    """A layer read along directions, and the strengths of these, both as if their numbers were near 1."""
    tensor.require_alike(u, "output directions")
    wide = torch.promote_types(tensor.dtype, torch.float32)
    tensor, u = tensor.to(wide), u.to(wide)
    size, _ = scaled_strength(tensor, u)
    return tensor.balanced()[0].change_basis(outputs=times_two_to(u, -exponents(u, -1, keepdim=True))), size


@shown
@dataclass(frozen=True)
class GaussianSimilarity:
    """Exact moments of two layers f, g at x ~ N(mean, cov), summed over the outputs."""

    covariance: float
    """Σ_a Cov(f_a, g_a)."""
    variances: tuple[float, float]
    """Σ_a Var f_a and Σ_a Var g_a."""
    means: tuple[Float[Tensor, " d_out"], Float[Tensor, " d_out"]]
    """E f and E g."""

    @property
    def correlation(self) -> float:
        """Cov(f, g) / sqrt(Var f Var g): similarity of what depends on the input."""
        return _ratio(self.covariance, *self.variances)

    @property
    def cosine(self) -> float:
        """E[f · g] / sqrt(E‖f‖² E‖g‖²): the means count too."""
        f, g = self.means
        squares = (v + float(mean @ mean) for v, mean in zip(self.variances, self.means, strict=True))
        return _ratio(self.covariance + float(f @ g), *squares)

    @property
    def unexplained(self) -> float:
        """E‖f − g‖² / Σ_a Var f_a: what is left of the variance of f when g stands for it (1 − R²)."""
        f, g = self.means
        error = sum(self.variances) - 2 * self.covariance + float((f - g).square().sum())
        return error / self.variances[0] if self.variances[0] else math.inf


@checked
def gaussian_similarity(
    tensor: BilinearTensor,
    other: BilinearTensor,
    mean: Float[Tensor, " d"] | None = None,
    cov: Float[Tensor, "d d"] | None = None,
) -> GaussianSimilarity:
    """Similarity of two layers on Gaussian inputs, in closed form; by default on x ~ N(0, 1).

    For standard normal x and symmetric A, Q of two outputs, E[xAx] = tr A and Cov(xAx, xQx) = 2 ⟨A, Q⟩
    (Isserlis). So without biases the correlation is the cosine of the tensors. With the constant coordinate
    Cov = 2 (⟨A, Q⟩ − a q) on whole matrices, a and q their entries at (1, 1) of the constant. Any other
    Gaussian is x = mean + z L with cov = LᵀL, a change of basis. Network similarity by exact Gaussian
    moments: arXiv 2605.15183.
    """
    _require_same_inputs(tensor, other)
    if tensor.d_out != other.d_out:
        raise InputError(f"layers with {tensor.d_out} and {other.d_out} outputs; expected the same")
    f, g = (_at_standard_normal(layer, mean, cov) for layer in (tensor, other))
    (f_mean, f_fixed), (g_mean, g_fixed) = _moments(f), _moments(g)
    return GaussianSimilarity(
        covariance=2 * float(f.inner(g) - f_fixed @ g_fixed),
        variances=(
            2 * float(f.inner(f) - f_fixed @ f_fixed),
            2 * float(g.inner(g) - g_fixed @ g_fixed),
        ),
        means=(f_mean, g_mean),
    )


@shown
@dataclass(frozen=True)
class Matching:
    """Pairs of vectors of two sets, best first."""

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    cosines: Float[Tensor, " pairs"]
    """|cosine| of each pair."""


@checked
def match_vectors(first: Float[Tensor, "n d"], second: Float[Tensor, "m other_d"]) -> Matching:
    """The pairing of eigenvectors (or other directions) of two layers with the largest sum of |cosine|.

    Signs of eigenvectors are a convention, hence the magnitude. Each vector is in one pair at most, min(n, m)
    pairs in all. Across training runs the top eigenvectors agree to 0.8–0.9 (arXiv 2410.08417, on MNIST).

    >>> match_vectors(torch.eye(3), -torch.eye(3)[[2, 0]]).second
    tensor([1, 0])
    """
    for name, vectors in (("first", first), ("second", second)):
        require_finite_numbers(vectors, f"{name} of the vectors to match")
        if vectors.ndim != 2:
            raise InputError(f"{name} of the vectors to match: got {list(vectors.shape)}; expected [n, d]")
    if first.shape[1] != second.shape[1]:
        raise InputError(f"vectors of widths {first.shape[1]} and {second.shape[1]}; expected the same")
    if first.dtype != second.dtype:
        raise InputError(
            f"vectors to match in {first.dtype} and {second.dtype}; expected one precision, convert with .to"
        )
    first, second = (_near_one(vectors) for vectors in (first, second))
    norms = first.norm(dim=1).unsqueeze(1) * second.norm(dim=1)
    cosines = _over((first @ second.mT).abs(), norms)
    rows, columns = best_assignment(cosines)
    order = cosines[rows, columns].argsort(descending=True, stable=True)
    rows, columns = rows[order], columns[order]
    return Matching(rows, columns, cosines[rows, columns])


def _near_one(vectors: Tensor) -> Tensor:
    """Rows of any size, scaled to a largest number of ½ to 1."""
    return times_two_to(vectors, -exponents(vectors, -1, keepdim=True)) if vectors.numel() else vectors


def _at_standard_normal(tensor: BilinearTensor, mean: Tensor | None, cov: Tensor | None) -> BilinearTensor:
    """The layer as a function of z ~ N(0, 1) where its input is mean + z L, with LᵀL = cov; in float64."""
    tensor = tensor.to(torch.float64)
    width = tensor.d_in - tensor.constant
    at = one_gaussian(mean, cov, tensor.W_gate[:width])
    if mean is not None:
        W_gate, W_in = (
            torch.cat([factor[:width], at.mean @ factor[:width] + factor[width:].sum(0, keepdim=True)])
            for factor in (tensor.W_gate, tensor.W_in)
        )
        tensor = BilinearTensor(W_gate, W_in, tensor.W_out, constant=True)
    if at.cov is not None:
        values, columns = torch.linalg.eigh(at.dense_cov())
        tensor = tensor.change_basis(inputs=values.clamp(min=0).sqrt().unsqueeze(1) * columns.mT)
    return tensor


def _moments(tensor: BilinearTensor) -> tuple[Tensor, Tensor]:
    """E B(x, x) at standard normal inputs, and the part of it that only the constant coordinate gives."""
    units = tensor.W_gate * tensor.W_in
    fixed = units[-1] if tensor.constant else torch.zeros_like(units[0])
    return units.sum(0) @ tensor.W_out, fixed @ tensor.W_out


def _require_same_inputs(tensor: BilinearTensor, other: BilinearTensor) -> None:
    ours, theirs = ((layer.batch_shape, layer.d_in, layer.constant) for layer in (tensor, other))
    if ours != theirs:
        raise InputError(
            f"bilinear layers to compare: got (batch, d_in, constant) {ours} and {theirs}; expected the same"
        )


def _over(inner: Tensor, norms: Tensor) -> Tensor:
    """inner / norms, 0 where a norm is 0."""
    return torch.where(norms == 0, 0, inner / norms)


def _ratio(inner: float, square: float, other_square: float) -> float:
    square, other_square = max(square, 0), max(other_square, 0)
    scale = math.sqrt(square * other_square)
    if not 1e-290 < scale * scale < math.inf:
        scale = math.sqrt(square) * math.sqrt(other_square)
    return inner / scale if scale else 0.0


def best_assignment(scores: Float[Tensor, "n m"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Rows and columns of the min(n, m) pairs with the largest total score; rows ascend.

    Each row and each column is in one pair at most. Exact, by shortest augmenting paths (Jonker and
    Volgenant 1987): O(n² m) for n ≤ m.

    >>> best_assignment(torch.tensor([[0.9, 0.8], [0.8, 0.1]]))
    (tensor([0, 1]), tensor([1, 0]))
    """
    if scores.ndim != 2 or scores.is_complex():
        raise InputError(
            f"scores to assign by: got {list(scores.shape)} in {scores.dtype}; expected real numbers [n, m]"
        )
    if not torch.isfinite(scores).all():
        raise InputError("scores to assign by hold NaN or infinity; expected finite numbers")
    if scores.shape[0] > scores.shape[1]:
        columns, rows = best_assignment(scores.mT)
        order = rows.argsort()
        return rows[order], columns[order]
    cost = -scores.detach().double()
    assigned = torch.from_numpy(_assign(times_two_to(cost, -exponent(cost)).cpu().numpy()))
    return torch.arange(len(assigned)).to(scores.device), assigned.to(scores.device)


def _assign(cost: np.ndarray) -> np.ndarray:
    """The column of each row, at the least total cost; no more rows than columns."""
    n, m = cost.shape
    row_of = np.full(m, -1)
    row_price, column_price = np.zeros(n), np.zeros(m)
    for row in range(n):
        distance, before, done = np.full(m, np.inf), np.full(m, -1), np.zeros(m, dtype=bool)
        at, last, travelled = row, -1, 0.0
        while at >= 0:  # until the path ends in a column that is free
            reached = travelled + cost[at] - row_price[at] - column_price
            nearer = ~done & (reached < distance)
            distance[nearer], before[nearer] = reached[nearer], last
            last = int(np.where(done, np.inf, distance).argmin())
            done[last], travelled, at = True, distance[last], row_of[last]
        # Prices that keep every pair on the path at reduced cost 0, and no cost below it.
        gain = travelled - distance[done]
        row_price[row] += travelled
        owners = row_of[done]
        row_price[owners[owners >= 0]] += gain[owners >= 0]
        column_price[done] -= gain
        while last >= 0:
            row_of[last] = row if before[last] < 0 else row_of[before[last]]
            last = int(before[last])
    columns = np.empty(n, dtype=np.int64)
    columns[row_of[row_of >= 0]] = np.flatnonzero(row_of >= 0)
    return columns
