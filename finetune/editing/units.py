"""Hidden units that change chosen interactions, and the most that they can do.

A hidden unit adds o · (g·x)(v·x) to a bilinear MLP. To change the coefficient of c_i c_j in x = Σ c_k f_k
alone, g and v are **dual** to the directions f_i and f_j: g·f_i = 1 and g·f_j = 0, and the other way round,
the shortest such vectors, rows of the pseudo-inverse of [f_i; f_j; directions to keep], so that what is kept
reads nothing.

Behind a norm x = γ ∘ z with ‖z‖² ≤ d, and along an output direction w the unit lies in

    (w·o) d/2 (g'·v' ± ‖g'‖ ‖v'‖),        g' = γ ∘ g, v' = γ ∘ v,

the eigenvalues of a symmetric matrix of rank 2. Of several units the matrix has the rank of their readers,
and its eigenvalues are those of a core of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

LARGEST_CONDITION = 1e6
"""Directions whose pseudo-inverse is worse conditioned have no dual to speak of."""


@shown
@dataclass(frozen=True)
class Units:
    """Hidden units Σ_k o_k (g_k·x)(v_k·x), as columns and rows of an MLP's weights."""

    W_gate: Float[Tensor, "d_in units"]
    W_in: Float[Tensor, "d_in units"]
    W_out: Float[Tensor, "units d_out"]

    def __len__(self) -> int:
        return len(self.W_out)

    def __call__(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes d_out"]:
        """The output of the units at x."""
        return ((x @ self.W_gate) * (x @ self.W_in)) @ self.W_out

    def coefficient(self, output: Tensor, left: Tensor, right: Tensor) -> Float[Tensor, " units"]:
        """The number that each unit adds to the coefficient of c_left c_right along `output`."""
        read = (left @ self.W_gate) * (right @ self.W_in)
        if not torch.equal(left, right):
            read = read + (right @ self.W_gate) * (left @ self.W_in)
        return read * (self.W_out @ output)

    def balanced(self) -> Units:
        """The same function with columns and row of each unit of equal length."""
        sizes = [
            torch.linalg.vector_norm(self.W_gate, dim=0),
            torch.linalg.vector_norm(self.W_in, dim=0),
            torch.linalg.vector_norm(self.W_out, dim=1),
        ]
        mean = (sizes[0] * sizes[1] * sizes[2]).pow(1 / 3)
        gate, up, out = (torch.where(size > 0, mean / size, 0) for size in sizes)
        return Units(self.W_gate * gate, self.W_in * up, self.W_out * out.unsqueeze(1))

    def scaled(self, amounts: Float[Tensor, " units"]) -> Units:
        """Each unit's output times a number."""
        return Units(self.W_gate, self.W_in, self.W_out * amounts.unsqueeze(1))

    def to(self, dtype: torch.dtype) -> Units:
        """The units in another precision."""
        return Units(self.W_gate.to(dtype), self.W_in.to(dtype), self.W_out.to(dtype))

    def behind(self, factor: Float[Tensor, " d_in"]) -> Units:
        """The units as functions of z, for x = factor ∘ z."""
        return Units(self.W_gate * factor.unsqueeze(1), self.W_in * factor.unsqueeze(1), self.W_out)

    @classmethod
    def joined(cls, parts: Sequence[Units]) -> Units:
        """All units of several."""
        return cls(
            torch.cat([part.W_gate for part in parts], dim=1),
            torch.cat([part.W_in for part in parts], dim=1),
            torch.cat([part.W_out for part in parts]),
        )

    def range(self, w: Float[Tensor, " d_out"], radius: float) -> tuple[float, float]:
        """The least and the largest of w · f(z) over all ‖z‖ ≤ radius: exact."""
        left, right = self._cores()
        matrix = (left * (self.W_out @ w)) @ right.mT
        values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
        return radius**2 * min(0.0, float(values[0])), radius**2 * max(0.0, float(values[-1]))

    def largest(self, radius: float) -> tuple[float, float]:
        """A bracket of the largest ‖f(z)‖ over all ‖z‖ ≤ radius; one number twice for a single unit.

        Above it are the units one by one, and ‖unfolding‖₂ · radius²; below it the range along the units'
        strongest output direction.
        """
        left, right = self._cores()
        alone = (left * right).sum(0).abs() + left.norm(dim=0) * right.norm(dim=0)
        sizes = torch.linalg.vector_norm(self.W_out, dim=1)
        one_by_one = float((sizes * alone).sum()) / 2 * radius**2
        slices = left.T.unsqueeze(-1) * right.T.unsqueeze(-2)  # [units, rank, rank]
        slices = (slices + slices.mT).flatten(1) / 2
        triangle = torch.linalg.qr(self.W_out.T).R  # [rank_out, units]
        high = min(one_by_one, float(torch.linalg.matrix_norm(triangle @ slices, ord=2)) * radius**2)
        direction = torch.linalg.svd(slices.T @ self.W_out, full_matrices=False).Vh[0]
        low = max(map(abs, self.range(direction, radius)))
        return (high, high) if len(self) == 1 else (min(low, high), high)

    def _cores(self) -> tuple[Tensor, Tensor]:
        """The readers in an orthonormal basis of their span, [rank, units] twice."""
        triangle = torch.linalg.qr(torch.cat([self.W_gate, self.W_in], dim=1)).R
        return triangle[:, : len(self)], triangle[:, len(self) :]


def unit(
    output: Float[Tensor, " d_out"],
    written: Float[Tensor, " d_out"],
    left: Float[Tensor, " d_in"],
    right: Float[Tensor, " d_in"],
    keep: Float[Tensor, "m d_in"] | None,
    name: str,
) -> Units:
    """The unit that adds 1 to the coefficient of c_left c_right along `output`, and reads none of `keep`."""
    own = [left] if torch.equal(left, right) else [left, right]
    rows = torch.stack(own) if keep is None else torch.cat([torch.stack(own), keep])
    dual = _duals(rows, name)
    along = float(output @ written)
    if not abs(along) * LARGEST_CONDITION > float(output.norm() * written.norm()):
        raise InputError(
            f"{name}: what is written has no part along the output direction it is to change; expected one "
            "that has, leave `written` out to write along the direction itself"
        )
    return Units(dual[:1].T, dual[len(own) - 1 : len(own)].T, (written / along).unsqueeze(0))


def _duals(rows: Float[Tensor, "n d"], name: str) -> Float[Tensor, "n d"]:
    """The shortest vectors with g_i · f_j = 1 for i = j, else 0; InputError where there are none."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise InputError(f"{name}: an input direction is 0; expected directions that are not")
    unit_rows = rows / lengths
    values = torch.linalg.svdvals(unit_rows)
    if len(rows) > rows.shape[1] or float(values[-1]) * LARGEST_CONDITION < float(values[0]):
        raise InputError(
            f"{name}: its {len(rows)} input directions, those to keep counted, depend on each other, so that "
            "none can be changed alone (a singular dual); expected independent ones: name the interaction "
            "of a feature with itself by one feature, keep fewer"
        )
    return torch.linalg.pinv(unit_rows).T / lengths


def solved(
    units: Units, coefficients: Float[Tensor, "edits units"], changes: Float[Tensor, " edits"]
) -> Units:
    """The units in amounts that make every edit's change exactly, what they do to each other included."""
    scale = coefficients.abs().amax(1, keepdim=True)
    singular = torch.linalg.svdvals(coefficients / scale) if bool((scale > 0).all()) else scale.new_zeros(1)
    if float(singular[-1]) * LARGEST_CONDITION <= float(singular[0]):
        raise InputError(
            "the edits of a layer depend on each other, so that no amounts of them make all changes (a "
            "singular dual); expected independent ones, leave one out"
        )
    return units.scaled(torch.linalg.solve(coefficients, changes))
