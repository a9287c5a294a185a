"""Higher-order singular values (HOSVD) of a bilinear layer: the directions that carry its tensor.

Unfolded along its outputs the tensor is a matrix [d_out, d_in²] with singular values σ_i, and

    B = Σ_i σ_i u_i ⊗ q_i:

orthonormal output directions u_i, each with an interaction matrix σ_i q_i of its own; the q_i are symmetric,
of norm 1 and orthogonal to each other (arXiv 2410.08417, HOSVD). Unfolded along an input it is a matrix
[d_in, d_out d_in], whose left singular vectors are the input directions the layer reads most.

The left singular vectors and σ² are the eigenvectors and eigenvalues of the unfolding's Gram matrix, which
follows from the factors: O(d_mlp² d) time and never the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.eigen import Eigendecomposition, eigendecompose, fix_signs, require_full_precision
from analysis.spectra.gram import Leg, require_leg, scaled_unfolding_gram
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import exponent, in_precision, times_two_to
from bilinear_lm.shown import first_numbers, shown
from bilinear_lm.tensor import BilinearTensor

NEGLIGIBLE = 1e-7
"""Singular values below this fraction of the largest are 0 to the rounding of a Gram matrix in float64."""


@shown
@dataclass(frozen=True)
class HOSVD:
    """Singular values of one unfolding, descending, and the orthonormal directions of the largest.

    Directions are rows; the sign of each is such that its entry of largest magnitude is positive.
    """

    leg: Leg
    spectrum: Float[Tensor, " d"]
    """All singular values; the sum of their squares is the squared norm of the tensor."""
    directions: Float[Tensor, "k d"]

    def _first(self) -> dict[str, Any]:
        return {"spectrum": first_numbers(self.spectrum)}

    @property
    def singular_values(self) -> Float[Tensor, " k"]:
        """σ_i of the directions."""
        return self.spectrum[: len(self.directions)]

    @property
    def output_directions(self) -> Float[Tensor, "k d_out"]:
        """u_i, for the output leg."""
        return self._directions_of("output")

    @property
    def input_directions(self) -> Float[Tensor, "k d_in"]:
        """The directions of the input leg; with biases they have the constant coordinate, last."""
        return self._directions_of("input")

    @property
    def rank(self) -> int:
        """How many singular values are not `NEGLIGIBLE`."""
        return int((self.spectrum > NEGLIGIBLE * self.spectrum[0]).sum())

    def truncation_error(self, k: int) -> float:
        """‖B − B'‖ / ‖B‖ for the tensor B' that `truncate` keeps of B with k directions.

        Output leg: exactly sqrt(Σ_{i>k} σ_i² / Σ σ_i²). Input leg: both inputs lose the other directions,
        and this is an upper bound, sqrt(2) times the same but at most 1; the error is at least 0.7 of it.
        """
        n = len(self.spectrum)
        require_count(k, f"k={k} directions", f"0 to {n}", least=0, most=n)
        squares = times_two_to(self.spectrum.double(), -exponent(self.spectrum)).square()
        if squares.sum() == 0:
            return 0.0
        lost = float(squares[k:].sum() / squares.sum()) * (1 if self.leg == "output" else 2)
        return min(1.0, lost**0.5)

    def _directions_of(self, leg: Leg) -> Tensor:
        if leg != self.leg:
            raise InputError(f"{leg} directions of an HOSVD of the {self.leg} leg; ask hosvd for leg={leg!r}")
        return self.directions


@checked
def hosvd(tensor: BilinearTensor, k: int | None = None, leg: Leg = "output") -> HOSVD:
    """Singular values and directions of the tensor unfolded along its outputs, or along one input.

    k directions, by default all; singular values always all. Computed in float64 and returned in the
    tensor's precision. Squaring costs half the digits: σ_i comes with a relative error of about
    1e-16 (σ_1 / σ_i)², and below 1e-7 σ_1 nothing is left of it (in float32 that would begin at 3e-4 σ_1).
    Where singular values coincide, their directions are an arbitrary basis of a common space. Weights may be
    of any size; InputError where the tensor's precision cannot hold the singular values.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 6))
    >>> svd = hosvd(tensor, k=2)
    >>> svd.singular_values.shape, svd.output_directions.shape, svd.spectrum.shape
    (torch.Size([2]), torch.Size([2, 6]), torch.Size([6]))
    """
    require_leg(leg)
    if tensor.batch_shape:
        raise InputError("hosvd takes one layer; give the layers of a batch one by one")
    width = tensor.d_out if leg == "output" else tensor.d_in
    k = width if k is None else k
    require_count(k, f"k={k} directions of the {leg} leg", f"1 to {width}", most=width)
    if not all(bool(torch.isfinite(factor).all()) for factor in (tensor.W_gate, tensor.W_in, tensor.W_out)):
        raise InputError("hosvd: the tensor holds NaN or infinity; expected finite weights")
    gram, power = scaled_unfolding_gram(tensor, leg)
    squares, columns = torch.linalg.eigh(gram)
    spectrum = squares.flip(0).clamp(min=0).sqrt()
    directions = fix_signs(columns.mT.flip(0)[:k])
    spectrum = in_precision(spectrum, power // 2, tensor.dtype, "singular values of the tensor")
    return HOSVD(leg, spectrum, directions.to(tensor.dtype))


@checked
def truncate(tensor: BilinearTensor, found: HOSVD, k: int) -> BilinearTensor:
    """The tensor with all but the k largest singular directions projected out, in factors of the same shape.

    Output leg: B' = Σ_{i≤k} σ_i u_i ⊗ q_i, the best tensor with k output directions. Input leg: the layer
    at the projections of its inputs. `found.truncation_error(k)` is what it loses.
    """
    width = tensor.d_out if found.leg == "output" else tensor.d_in
    if found.directions.shape[1] != width:
        raise InputError(
            f"directions of width {found.directions.shape[1]}; expected the {found.leg} width {width} of the "
            "tensor that hosvd was given"
        )
    n = len(found.directions)
    require_count(k, f"k={k} directions", f"0 to the {n} that hosvd was asked for", least=0, most=n)
    kept = found.directions[:k]
    if found.leg == "output":
        return replace(tensor, W_out=(tensor.W_out @ kept.T) @ kept)
    return replace(tensor, W_gate=kept.T @ (kept @ tensor.W_gate), W_in=kept.T @ (kept @ tensor.W_in))


@checked
def singular_eigenvectors(tensor: BilinearTensor, found: HOSVD, k: int | None = None) -> Eigendecomposition:
    """Eigenvalues [n, k] and eigenvectors [n, k, d_in] of the n singular interaction matrices q_i.

    q_i = Q_{u_i} / σ_i has norm 1, so the squares of all its eigenvalues sum to 1. As eigendecompose:
    k=None gives all, else the k largest by magnitude. `found` is an HOSVD of the output leg.
    """
    u = found.output_directions
    if len(u) > found.rank:
        raise InputError(
            f"{len(u)} singular directions, but the tensor has {found.rank} singular values that are not 0, "
            f"and only those have an interaction matrix of norm 1; ask hosvd for k={found.rank} or fewer"
        )
    return eigendecompose(tensor, u / found.singular_values.unsqueeze(-1), k)


@checked
def truncate_eigenvectors(tensor: BilinearTensor, k: int) -> BilinearTensor:
    """The layer with only the top k eigenvectors of each output singular direction, in factors.

    Σ_r u_r Σ_{i≤k} λ_ri (v_ri · x)², exact for k = d_in. Its hidden units are the d_out · k eigenvectors.
    Of all tensors whose interaction matrices along the u_r have rank k, it is the nearest in Frobenius norm.
    """
    require_full_precision(tensor, "eigenvectors")
    require_count(k, f"k={k} eigenvectors", f"1 to d_in={tensor.d_in}", most=tensor.d_in)
    directions = hosvd(tensor).output_directions
    eigen = eigendecompose(tensor, directions, k)
    vectors = eigen.vectors.flatten(0, 1)
    return BilinearTensor(
        W_gate=(eigen.values.flatten().unsqueeze(1) * vectors).T,
        W_in=vectors.T,
        W_out=directions.repeat_interleave(k, dim=0),
        constant=tensor.constant,
    )
