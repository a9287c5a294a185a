"""The part of a polynomial above degree one, in factors: a few symmetric products a hidden unit.

Hidden unit h with u = x·w_h, q = x·v_h contributes Σ_k u^{k−1} (a_kh u + b_kh q), k = 2 … n. Its term of
degree k is the symmetric tensor sym(w ⊗ … ⊗ w ⊗ r) with r = a_k w + b_k v: one product a hidden unit and a
degree. All degrees share w and v, so that a polynomial of any degree is evaluated with the products of the
layer itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class SymmetricTerm:
    """A homogeneous polynomial T(x) = [(x W)^{k−1} ∘ (x R)] W_out, k the degree, powers taken unit by unit.

    Its tensor is Σ_h sym(w_h ⊗ … ⊗ w_h ⊗ r_h) ⊗ W_out[h]: a CP decomposition with one factor of its own.

    >>> T = SymmetricTerm(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 5), degree=3)
    >>> x, y, z = torch.randn(3, 8)
    >>> torch.allclose(T.multilinear(x, y, z), T.multilinear(z, x, y), atol=1e-3), T(x).shape
    (True, torch.Size([5]))
    """

    W: Float[Tensor, "d_in d_mlp"]
    R: Float[Tensor, "d_in d_mlp"]
    W_out: Float[Tensor, "d_mlp d_out"]
    degree: int

    def __call__(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes d_out"]:
        """T(x)."""
        return ((x @ self.W) ** (self.degree - 1) * (x @ self.R)) @ self.W_out

    def multilinear(self, *points: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes d_out"]:
        """T(x_1, …, x_k), symmetric in its k points, T(x, …, x) = T(x); their axes broadcast."""
        if len(points) != self.degree:
            raise InputError(
                f"{len(points)} points of a term of degree {self.degree}; expected {self.degree}"
            )
        along = [x @ self.W for x in points]
        total = torch.zeros_like(along[0])
        for i, x in enumerate(points):
            others = [each for j, each in enumerate(along) if j != i]
            total = total + math.prod(others, start=x @ self.R)
        return (total / self.degree) @ self.W_out


@shown
@dataclass(frozen=True)
class ProductUnits:
    """Σ_h Σ_{k=2}^n u^{k−1} (powers_k u + mixed_k q) W_out, u = x W, q = x V: degrees 2 to n."""

    W: Float[Tensor, "d_in d_mlp"]
    V: Float[Tensor, "d_in d_mlp"] | None
    """None where there is no q."""
    W_out: Float[Tensor, "d_mlp d_out"]
    powers: Float[Tensor, "degrees d_mlp"]
    """a_k, from k = 2 on."""
    mixed: Float[Tensor, "degrees d_mlp"]
    """b_k, from k = 2 on."""

    @property
    def degree(self) -> int:
        """n."""
        return len(self.powers) + 1

    def __call__(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes d_out"]:
        """The value at x."""
        rows = x.reshape(-1, x.shape[-1])
        chunk = rows_at_once(4 * self.W.shape[1] * x.element_size())
        parts = [self._hidden(piece) @ self.W_out for piece in rows.split(chunk)]
        return torch.cat(parts).reshape(*x.shape[:-1], -1)

    def jacobian(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in d_out"]:
        """The derivatives at each x, input coordinates before outputs."""
        u, q = self._read(x)
        by_u, by_q = torch.zeros_like(u), torch.zeros_like(u)
        for k, a, b in reversed(self._rows()):
            # Horner in u: of Σ k a u^{k−1} + (k−1) b u^{k−2} q, and of Σ b u^{k−1}.
            by_u = by_u * u + k * a * u + (k - 1) * b * q
            by_q = (by_q + b) * u
        along = torch.einsum("dh,nh,ho->ndo", self.W, by_u, self.W_out)
        return along if self.V is None else along + torch.einsum("dh,nh,ho->ndo", self.V, by_q, self.W_out)

    def factors(self, degree: int) -> Float[Tensor, "d_in d_mlp"]:
        """R = a_k W + b_k V, the factor of its own of the term of a degree."""
        own = self.W * self.powers[degree - 2]
        return own if self.V is None else own + self.V * self.mixed[degree - 2]

    def term(self, degree: int) -> SymmetricTerm:
        """The term of a degree from 2 on."""
        return SymmetricTerm(self.W, self.factors(degree), self.W_out, degree)

    def around(self, point: Float[Tensor, " d_in"]) -> tuple[Tensor, Tensor, ProductUnits]:
        """The units as a function of x − point: the value [d_out] and the slope [d_in, d_out] at it,
        and units again."""
        u, q = self._read(point)
        zero = torch.zeros_like(u)
        own, mixed = ([zero] * (self.degree + 1) for _ in range(2))  # coefficients of u^j and of q u^j
        for k, a, b in self._rows():
            for j in range(k + 1):
                own[j] = own[j] + math.comb(k, j) * a * u ** (k - j)
            for j in range(k):
                share = math.comb(k - 1, j) * b * u ** (k - 1 - j)
                own[j], mixed[j] = own[j] + share * q, mixed[j] + share
        slope = self.W * own[1] if self.V is None else self.W * own[1] + self.V * mixed[0]
        units = replace(self, powers=torch.stack(own[2:]), mixed=torch.stack(mixed[1:-1]))
        return own[0] @ self.W_out, slope @ self.W_out, units

    def to(self, *args: Any, **kwargs: Any) -> ProductUnits:
        """The same units on another device or in another precision; as `torch.Tensor.to`."""
        return replace(self, **{name: value.to(*args, **kwargs) for name, value in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The factors that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = x @ self.W
        return u, torch.zeros_like(u) if self.V is None else x @ self.V

    def _rows(self) -> list[tuple[int, Tensor, Tensor]]:
        """Degree, a and b of every degree, from 2 on."""
        return [(k, a, b) for k, (a, b) in enumerate(zip(self.powers, self.mixed, strict=True), start=2)]

    def _hidden(self, x: Tensor) -> Tensor:
        u = x @ self.W
        q = None if self.V is None else x @ self.V
        hidden = torch.zeros_like(u)
        for _, a, b in reversed(self._rows()):
            hidden = hidden * u + (a * u if q is None else a * u + b * q)
        return hidden * u
