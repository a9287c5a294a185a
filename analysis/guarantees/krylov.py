"""The extreme points of a layer along many output directions at once, by products with its factors alone.

For each direction a Krylov space is built from its linear part b and a random row, with an orthonormal basis
V [m, d] kept whole; in it the form is V Q Vᵀ [m, m] with linear part V b, small enough for its secular
equation. Maximum and minimum come from the same space. (Lanczos; for trust regions Gould, Lucidi, Roma and
Toint, SIAM J. Optim. 9, 1999.) The random row is there for the hard case, where b has no part along the
extreme eigenvectors.

A product of Q_u with a row through the factors takes 8 d d_mlp operations, Q_u itself 2 d² d_mlp: a few dozen
steps are cheaper than to build the matrix, and for many directions they are two large matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.guarantees.secular import maximise
from bilinear_lm.numerics import memory
from bilinear_lm.tensor import BilinearTensor

FIRST = 24
"""Rows of the space when it is first looked at, for each starting row."""

GROWTH = 4 / 3
"""Rows of the space from one look to the next."""

MOST = 192
"""Rows of the space, for each starting row, at which a direction is given up."""

GPU_SHARE = 16
"""The part of a GPU's memory, one in so many, that the spaces of a piece may take."""


@dataclass(frozen=True)
class Extremes:
    """Both extremes of n forms, the minimum first; where `converged` is false they mean nothing."""

    points: Float[Tensor, "n 2 d"]
    residuals: Float[Tensor, "n 2"]
    """‖Qz + b − μz‖ / (size of Q · ‖z‖): 0 at a stationary point on the sphere."""
    converged: Bool[Tensor, " n"]


class _Forms:
    """The quadratic parts Q_u and linear parts b_u of a layer along directions u, as products with rows."""

    def __init__(self, tensor: BilinearTensor, u: Tensor):
        width = tensor.d_in - tensor.constant
        self.both = torch.cat([tensor.W_gate, tensor.W_in], dim=1)[:width]  # [d, 2 d_mlp]
        half = (u @ tensor.W_out.T) / 2
        self.scale = torch.cat([half, half], dim=1)  # [n, 2 d_mlp]
        self.linear = None
        if tensor.constant:
            crossed = torch.cat([tensor.W_in[-1], tensor.W_gate[-1]]) * self.scale
            self.linear = crossed @ self.both.T  # [n, d]

    def __getitem__(self, kept: Tensor) -> _Forms:
        part = object.__new__(_Forms)
        part.both, part.scale = self.both, self.scale[kept]
        part.linear = None if self.linear is None else self.linear[kept]
        return part

    def times(self, rows: Tensor) -> Tensor:
        """Q_u times rows [n, p, d], p of them for each u."""
        n, p, _ = rows.shape
        # Flat, as matmul would else multiply rows that are not contiguous one form after the other.
        hidden = (rows.reshape(n * p, -1) @ self.both).view(n, p, 2, -1).flip(2).flatten(2)
        return ((hidden * self.scale.unsqueeze(1)).flatten(0, 1) @ self.both.T).view(n, p, -1)


def krylov_extremes(
    tensor: BilinearTensor,
    u: Float[Tensor, "n d_out"],
    radius: float,
    ball: bool,
    tolerance: float,
    seed: int,
) -> Extremes:
    """The points of least and largest u · B(z, z) on ‖z‖ = radius (in the ball: ≤), for directions u.

    A direction has converged when both residuals are within the tolerance, and so is what an eigenvalue may
    lie beyond μ. It starts from rows drawn with `seed`; its result does not depend on the other directions
    beyond rounding.
    """
    pieces = [
        _piece(_Forms(tensor, part), radius, ball, tolerance, seed) for part in u.split(_at_once(tensor))
    ]
    columns = zip(*((piece.points, piece.residuals, piece.converged) for piece in pieces), strict=True)
    return Extremes(*(torch.cat(column) for column in columns))


def _at_once(tensor: BilinearTensor) -> int:
    limit = memory.CHUNK_BYTES
    if tensor.device.type == "cuda":
        limit = torch.cuda.get_device_properties(tensor.device).total_memory // GPU_SHARE
    rows = MOST * (1 + tensor.constant)
    return max(1, limit // ((rows * tensor.d_in + 6 * tensor.d_mlp) * tensor.dtype.itemsize))


def _piece(forms: _Forms, radius: float, ball: bool, tolerance: float, seed: int) -> Extremes:
    n, d = len(forms.scale), len(forms.both)
    points, residuals = forms.scale.new_zeros(n, 2, d), forms.scale.new_full((n, 2), torch.inf)
    converged = torch.zeros(n, dtype=torch.bool, device=points.device)
    going = torch.arange(n, device=points.device)
    space = _Space.of(forms, seed)
    while True:
        space.grow()
        places, error, unseen = _ends(space, radius, ball)
        done = (torch.maximum(error, unseen) <= tolerance).all(dim=1) | (space.size == d)
        rows = going[done]
        points[rows] = places[done] @ space.V[done, : space.size]
        residuals[rows], converged[rows] = error[done], True
        going = going[~done]
        if not len(going) or space.size == space.most:
            return Extremes(points, residuals, converged)
        space.keep(~done)


@dataclass
class _Space:
    """Krylov spaces of n forms: V orthonormal rows [n, most, d], `size` of them filled, and H = V Q Vᵀ."""

    forms: _Forms
    V: Tensor
    H: Tensor
    rows: Tensor
    """The rows to add next, [n, p, d]; at a look, the part of Q times the last rows that lies outside."""
    fresh: Tensor
    """A random row, for bases that nothing else would add to."""
    look: int
    size: int = 0

    @classmethod
    def of(cls, forms: _Forms, seed: int) -> _Space:
        n, d, like = len(forms.scale), len(forms.both), forms.both
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(2, d, generator=generator, dtype=torch.float64).to(like)
        start = noise[:1].expand(n, 1, d)
        if forms.linear is not None:
            start = torch.stack([forms.linear, start[:, 0]], dim=1)
        p = start.shape[1]
        most = min(d, MOST * p)
        V, H = like.new_zeros(n, most, d), like.new_zeros(n, most, most)
        return cls(forms, V, H, start, noise[1], look=min(most, FIRST * p))

    @property
    def most(self) -> int:
        """The size that the space may grow to."""
        return self.V.shape[1]

    def grow(self) -> None:
        """Adds rows up to the next look."""
        while True:
            before = self.size
            self.size = _add(self.V, before, self.rows[:, : self.most - before], self.fresh)
            V = self.V[:, : self.size]
            images = self.forms.times(V[:, before:])
            inside = images @ V.mT  # [n, p, size]
            self.H[:, before : self.size, : self.size] = inside
            self.H[:, : self.size, before : self.size] = inside.mT
            self.rows = images - inside @ V
            if self.size >= self.look:
                self.look = min(self.most, math.ceil(self.size * GROWTH))
                return

    def keep(self, kept: Tensor) -> None:
        """Goes on with some of the forms."""
        if not bool(kept.all()):
            self.forms = self.forms[kept]
            self.V, self.H, self.rows = self.V[kept], self.H[kept], self.rows[kept]


def _add(V: Tensor, size: int, rows: Tensor, other: Tensor) -> int:
    """Appends rows to the bases V [n, most, d] of `size` rows, orthonormal to them; returns the new size.

    A row that adds nothing gives way to another one, so that every basis has as many rows.
    """
    rounding = torch.finfo(V.dtype).eps * V.shape[-1]
    for row in rows.unbind(1):
        length = torch.linalg.vector_norm(row, dim=-1, keepdim=True)
        row = row / torch.where(length > 0, length, 1.0)
        row = _outside(row, V[:, :size])
        adds_nothing = torch.linalg.vector_norm(row, dim=-1, keepdim=True) <= rounding
        if bool(adds_nothing.any()):
            # Rolled, so that no two of a basis are alike.
            fresh = _outside(
                torch.nn.functional.normalize(other.roll(size), dim=0).expand_as(row), V[:, :size]
            )
            row = torch.where(adds_nothing, fresh, row)
        row = torch.nn.functional.normalize(row, dim=-1)
        row = _outside(row, V[:, :size])
        V[:, size] = torch.nn.functional.normalize(row, dim=-1)
        size += 1
    return size


def _outside(row: Tensor, V: Tensor) -> Tensor:
    """The parts of rows [n, d] at a right angle to the bases."""
    row = row.unsqueeze(1)  # V from the right: from the left a product of so few columns is much slower
    return (row - (row @ V.mT) @ V).squeeze(1)


def _ends(space: _Space, radius: float, ball: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The minimising and maximising points in the spaces [n, 2, size], their residuals [n, 2], and by how
    much an eigenvalue of Q may lie beyond μ, as far as the extreme Ritz pairs tell.

    A stationary point with an eigenvalue beyond μ is not an extreme one: the largest, of which b has no part,
    may still be hidden in the space. In float64, on the CPU: torch's eigh of matrices of such a size does
    them one by one on a GPU.
    """
    V = space.V[:, : space.size]
    values, columns = torch.linalg.eigh(space.H[:, : space.size, : space.size].to("cpu", torch.float64))
    linear = torch.zeros_like(values)
    if space.forms.linear is not None:
        b = (space.forms.linear.unsqueeze(1) @ V.mT).to("cpu", torch.float64)
        linear = (b @ columns).squeeze(1)
    radii = torch.full_like(values[:, 0], radius)
    extremes = [maximise(sign * values, sign * linear, radii, ball) for sign in (-1, 1)]
    places = torch.stack([extreme.points for extreme in extremes], dim=1) @ columns.mT
    multipliers = torch.stack([extreme.multipliers for extreme in extremes], dim=1)
    size = torch.maximum(values.abs().amax(1, keepdim=True), multipliers.abs())
    scale = (size * torch.linalg.vector_norm(places, dim=-1)).to(V)
    places = places.to(V)
    tiny = torch.finfo(scale.dtype).tiny
    errors = _outside_length(places, space) / scale.clamp(min=tiny)
    ritz = torch.stack([columns[..., 0], columns[..., -1]], dim=1).to(V)
    beyond = torch.stack([-values[:, 0], values[:, -1]], dim=1) - multipliers
    unseen = (beyond.to(V) + _outside_length(ritz, space)) / size.to(V).clamp(min=tiny)
    return places, errors, unseen


def _outside_length(places: Tensor, space: _Space) -> Tensor:
    """The length of what Q makes of vectors of the space outside of it: a Ritz pair's whole residual, and the
    whole of Qz + b − μz."""
    return torch.linalg.vector_norm(places[..., -space.rows.shape[1] :] @ space.rows, dim=-1)
