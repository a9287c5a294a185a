"""Sparsely interacting directions: how few interactions hold most of a bilinear layer's tensor.

In one orthonormal basis v_i of the inputs that all outputs share, C_aij = B(v_i, v_j)_a, and the pair {i, j}
weighs

    p_ij = Σ_a (C_aij² + C_aji²) / ‖B‖²  for i < j,    p_ii = Σ_a C_aii² / ‖B‖²,

shares that sum to 1, whatever basis the outputs are in. The measure of sparsity is the number of pairs that
hold a share such as 90%. `shared_basis` looks for the basis in which few do: by rotations that lower
Σ_ij |C_·ij|, or that raise Σ_i |C_·ii|² (joint approximate diagonalisation).

Where outputs need not share a basis, each singular output direction has its own eigenvectors, and these do
not interact with each other at all (arXiv 2406.03947): B = Σ_r σ_r u_r ⊗ Σ_i λ_ri v_ri v_riᵀ, the term (r, i)
weighing σ_r² λ_ri². `strongest_eigenvectors` keeps the fewest terms that hold a share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.spectra.eigen import require_full_precision
from analysis.spectra.hosvd import hosvd, singular_eigenvectors
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_finite_numbers, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.shown import first_numbers, shown
from bilinear_lm.tensor import BilinearTensor

Objective = Literal["absolute", "diagonal"]

SMOOTHING = 1e-3
"""Size of |C_·ij| below which it counts by its square, as a share of what it would be if all were equal."""

SETTLED = 1e-5
"""Relative progress of the objective over `PATIENCE` steps below which the search ends."""

PATIENCE = 5
HALVINGS = 12
"""Times a step is halved before the search ends."""


@shown
@dataclass(frozen=True)
class SharedBasis:
    """An orthonormal basis of a layer's inputs, and what each pair of its directions weighs."""

    directions: Float[Tensor, "d_in d_in"]
    """Rows; with biases they have the constant coordinate, last."""
    weights: Float[Tensor, "d_in d_in"]
    """p_ij for i ≤ j, and 0 below the diagonal."""

    def _first(self) -> dict[str, Any]:
        return {"pairs that hold 90%": self.needed(0.9), "weights": first_numbers(self._sorted()[0])}

    def needed(self, share: float = 0.9) -> int:
        """The fewest pairs that hold a share of ‖B‖²."""
        require_number(share, f"a share {share} of the tensor", "0 to 1", least=0, most=1)
        return fewest(self._sorted()[0], share)

    def strongest(self, n: int) -> Int[Tensor, "n 2"]:
        """The n pairs (i, j), i ≤ j, that weigh most, in descending order."""
        d = len(self.directions)
        most = d * (d + 1) // 2
        require_count(n, f"{n} pairs", f"1 to {most}", most=most)
        rows, columns = self._places()
        order = self._sorted()[1][:n]
        return torch.stack([rows[order], columns[order]], dim=1)

    def _places(self) -> tuple[Tensor, Tensor]:
        d = len(self.directions)
        rows, columns = torch.triu_indices(d, d, device=self.weights.device)
        return rows, columns

    def _sorted(self) -> tuple[Tensor, Tensor]:
        sorted_weights, order = self.weights[self._places()].sort(descending=True, stable=True)
        return sorted_weights, order


def fewest(weights: Float[Tensor, " n"], share: float) -> int:
    """How many of descending weights it takes to hold a share of their sum; at least one."""
    held = weights.double().cumsum(0)
    return min(len(held), int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1)


@checked
def in_basis(tensor: BilinearTensor, directions: Float[Tensor, "d_in d_in"]) -> SharedBasis:
    """The weights of pairs of an orthonormal basis; with biases its rows have the constant coordinate, last.

    One output after another, without the tensor. InputError for rows that are not orthonormal, and for a
    tensor of zeros.
    """
    tensor = _usable(tensor)
    tensor.require_alike(directions, "directions")
    require_finite_numbers(directions, "directions")
    d = tensor.d_in
    identity = torch.eye(d).to(directions)
    if directions.shape != (d, d) or (directions @ directions.T - identity).abs().max() > 1e-3:
        raise InputError(
            f"directions {list(directions.shape)} as a basis of {d} inputs; expected {d} orthonormal rows"
        )
    squares = directions.new_zeros(d, d)
    outputs = torch.eye(tensor.d_out).to(directions)
    for some in outputs.split(tensor.at_once(3 * d * max(d, tensor.d_mlp))):
        squares += (directions @ tensor.interaction_matrix(some) @ directions.T).square().sum(0)
    return SharedBasis(directions, _pairs(squares))


@checked
def shared_basis(
    tensor: BilinearTensor,
    objective: Objective = "absolute",
    start: Float[Tensor, "d_in d_in"] | None = None,
    steps: int = 100,
    max_bytes: int = 2**30,
) -> SharedBasis:
    """The basis, from `start` by rotations, in which pairs of few directions hold most of the tensor.

    "absolute" lowers Σ_ij |C_·ij|, with |C_·ij| = sqrt(Σ_a C_aij²), the sum over outputs that makes many of
    them vanish; "diagonal" raises Σ_i |C_·ii|². By conjugate gradients on the orthogonal group, at most
    `steps` of them; a local optimum. `start` is by default the HOSVD of the input leg, steps=0 gives it back.
    In memory are two to three times the tensor's rank along its outputs times d_in² numbers; `max_bytes`
    bounds one of them.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 4))
    >>> shared_basis(tensor, steps=20).needed(0.9) <= 36
    True
    """
    require_choice(objective, get_args(Objective), "objective")
    require_count(steps, f"steps={steps}", "0 or more", least=0)
    tensor = _usable(tensor)
    basis = hosvd(tensor, leg="input").input_directions if start is None else start
    basis = in_basis(tensor, basis).directions
    svd = hosvd(tensor)
    C = tensor.change_basis(outputs=svd.output_directions[: svd.rank]).dense(max_bytes)
    C = basis @ (C / C.norm()) @ basis.T
    slopes = _absolute if objective == "absolute" else _diagonal
    rotation = _descend(C, slopes, steps)
    directions = torch.linalg.qr((rotation @ basis).T).Q.T
    directions = directions * (directions * (rotation @ basis)).sum(1, keepdim=True).sign()
    return in_basis(tensor, directions)


@checked
def keep_pairs(
    tensor: BilinearTensor, directions: Float[Tensor, "n d_in"], pairs: Int[Tensor, "m 2"]
) -> BilinearTensor:
    """The layer with only the interactions of some pairs of orthonormal directions, one hidden unit a pair.

    Σ_{i,j} c_ij (v_i · x)(v_j · x), c_ii = B(v_i, v_i) and c_ij = 2 B(v_i, v_j); no pair may be given twice.
    ‖B − B'‖² / ‖B‖² is 1 less the weights of the pairs.
    """
    tensor.require_alike(directions, "directions")
    if directions.shape[-1] != tensor.d_in:
        raise InputError(
            f"directions of width {directions.shape[-1]}; expected d_in={tensor.d_in}, with the constant"
        )
    first, last = (int(pairs.min()), int(pairs.max())) if pairs.numel() else (0, 0)
    if first < 0 or last >= len(directions):
        raise InputError(f"pairs of directions {first} to {last}; expected 0 to {len(directions) - 1}")
    if len(pairs.sort(dim=1).values.unique(dim=0)) < len(pairs):
        raise InputError("a pair of directions is given twice; expected each of them once, in any order")
    left, right = directions[pairs[:, 0]], directions[pairs[:, 1]]
    counted = torch.where(pairs[:, 0] == pairs[:, 1], 1, 2).to(directions)
    outputs = tensor(left, right) * counted.unsqueeze(1)
    return BilinearTensor(left.T, right.T, outputs, constant=tensor.constant)


@shown
@dataclass(frozen=True)
class StrongestEigenvectors:
    """The strongest eigenvectors of all singular output directions together."""

    tensor: BilinearTensor
    """The layer with only these; one hidden unit an eigenvector."""
    weights: Float[Tensor, " k"]
    """σ_r² λ_ri² / ‖B‖² of each, descending; the error of the tensor is 1 less their sum."""
    outputs: Int[Tensor, " k"]
    """The index r of each one's singular output direction."""


@checked
def strongest_eigenvectors(tensor: BilinearTensor, share: float = 0.9) -> StrongestEigenvectors:
    """The fewest eigenvectors of singular output directions that hold a share of ‖B‖²; share=1.0: all.

    As `truncate_eigenvectors`, but with as many eigenvectors for each output direction as it needs.
    """
    require_number(share, f"a share {share} of the tensor", "0 to 1", least=0, most=1)
    tensor = _usable(tensor)
    svd = hosvd(tensor)
    svd = hosvd(tensor, k=svd.rank)
    eigen = singular_eigenvectors(tensor, svd)
    values = eigen.values * svd.singular_values.unsqueeze(-1)
    weights, order = values.square().flatten().sort(descending=True, stable=True)
    order = order[: len(order) if share == 1 else fewest(weights, share)]
    vectors, outputs = eigen.vectors.flatten(0, 1)[order], order // tensor.d_in
    kept = BilinearTensor(
        (values.flatten()[order].unsqueeze(1) * vectors).T,
        vectors.T,
        svd.output_directions[outputs],
        constant=tensor.constant,
    )
    return StrongestEigenvectors(kept, weights[: len(order)] / weights.sum(), outputs)


def _usable(tensor: BilinearTensor) -> BilinearTensor:
    """One layer in full precision, its numbers of ordinary size: shares do not depend on it."""
    require_full_precision(tensor, "interactions")
    if tensor.batch_shape:
        raise InputError("interactions of a batch of layers; give its layers one by one")
    if not tensor.norm():
        raise InputError("the interactions of a tensor that is 0; expected one that is not")
    return tensor


def _pairs(squares: Tensor) -> Tensor:
    """p_ij, from Σ_a C_aij²."""
    pairs = (squares + squares.T).triu(1) + squares.diagonal().diag()
    return pairs / pairs.sum()


Slopes = Callable[[Tensor], tuple[Tensor, Tensor]]
"""An objective of P_ij = Σ_a C_aij², and its slopes by P."""


def _absolute(P: Tensor) -> tuple[Tensor, Tensor]:
    sizes = (P + (SMOOTHING / len(P)) ** 2).sqrt()
    return sizes.sum(), 0.5 / sizes


def _diagonal(P: Tensor) -> tuple[Tensor, Tensor]:
    return -P.diagonal().sum(), -torch.eye(len(P)).to(P)


def _descend(C: Tensor, slopes: Slopes, steps: int) -> Tensor:
    """The rotation that conjugate gradients find for C; C is norm 1.

    With C turned by exp(A), A skew, P changes by 4 Σ_a C_a ∘ (A C_a) to first order, symmetrised; so the
    gradient by A is the skew part of Σ_a (S ∘ C_a) C_a, S the slopes.
    """
    d = C.shape[-1]
    rotation = torch.eye(d).to(C)
    value, S = slopes(C.square().sum(0))
    values, step, last, direction = [float(value)], 1.0, rotation.new_zeros(d, d), rotation.new_zeros(d, d)
    for _ in range(steps):
        M = 4 * torch.einsum("aij,akj->ik", S * C, C)
        gradient = (M - M.T) / 2
        norm = float(gradient.square().sum())
        if norm == 0:
            break
        beta = max(0.0, float(((gradient - last) * gradient).sum() / last.square().sum().clamp(min=1e-30)))
        direction = -gradient + (beta * direction if last.any() else 0)
        slope = float((gradient * direction).sum())
        if slope > -1e-3 * norm:
            direction, slope = -gradient, -norm
        last = gradient
        most = 0.5 / float(torch.linalg.matrix_norm(direction, 2))
        step = min(2 * step, most)
        for _ in range(HALVINGS):
            turn = _cayley(step * direction)
            turned = turn @ C @ turn.T
            value, slopes_there = slopes(turned.square().sum(0))
            if float(value) <= values[-1] + 1e-4 * step * slope:
                break
            step /= 2
        else:
            break
        C, S, rotation = turned, slopes_there, turn @ rotation
        values.append(float(value))
        if len(values) > PATIENCE and values[-1 - PATIENCE] - values[-1] < SETTLED * abs(values[-1]):
            break
    return rotation


def _cayley(A: Tensor) -> Tensor:
    """The rotation (1 − A/2)⁻¹ (1 + A/2), exp(A) to second order, for skew A."""
    one = torch.eye(len(A)).to(A)
    return torch.linalg.solve(one - A / 2, one + A / 2)
