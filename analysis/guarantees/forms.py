"""`QuadraticForm`: a bilinear layer along an output direction, f(z) = zᵀQz + 2 b·z + c.

With the interaction matrix M of the direction, constant coordinate included, Q is M without its last row and
column, b its last column and c its last entry. Without biases b and c are 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.gaussian import Gaussian
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class QuadraticForm:
    """f(z) = zᵀQz + 2 b·z + c, or a batch of them, in float64.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 6))
    >>> form, z = QuadraticForm.of(tensor, torch.eye(6)[2]), torch.randn(5, 8)
    >>> torch.allclose(form(z), tensor(z)[:, 2].double(), rtol=1e-3, atol=1e-3)
    True
    """

    matrix: Float[Tensor, "*axes d d"]
    linear: Float[Tensor, "*axes d"]
    constant: Float[Tensor, "*axes"]

    @classmethod
    def of(cls, tensor: BilinearTensor, u: Float[Tensor, "*axes d_out"]) -> QuadraticForm:
        """u · B(z, z) as a form in z, the constant coordinate 1."""
        tensor.require_alike(u, "the output direction")
        matrices = tensor.to(torch.float64).interaction_matrix(u.double())
        return cls.of_matrix(matrices, constant=tensor.constant)

    @classmethod
    def of_matrix(cls, matrix: Float[Tensor, "*axes d_in d_in"], constant: bool = False) -> QuadraticForm:
        """The form of a symmetric matrix, whose last coordinate is the constant 1 with `constant`."""
        require_symmetric(matrix, "the matrix of a quadratic form")
        matrix = matrix.double()
        matrix = (matrix + matrix.mT) / 2
        if constant:
            return cls(matrix[..., :-1, :-1], matrix[..., :-1, -1], matrix[..., -1, -1])
        return cls(matrix, torch.zeros_like(matrix[..., 0]), torch.zeros_like(matrix[..., 0, 0]))

    @property
    def width(self) -> int:
        """d: the width of z."""
        return self.matrix.shape[-1]

    def __getitem__(self, index: int | slice | Tensor) -> QuadraticForm:
        """Some of a batch of forms."""
        return QuadraticForm(self.matrix[index], self.linear[index], self.constant[index])

    def __call__(self, z: Float[Tensor, "*points d"]) -> Float[Tensor, "*values"]:
        """f at points z [..., d]; of a batch of forms at points that have its axes first, [*axes, ..., d]."""
        z = z.to(self.matrix)
        if self.matrix.ndim == 2:
            return (z * (z @ self.matrix + 2 * self.linear)).sum(-1) + self.constant
        rows = z.reshape(*self.linear.shape[:-1], -1, self.width)
        values = (rows * (rows @ self.matrix + 2 * self.linear.unsqueeze(-2))).sum(-1)
        return (values + self.constant.unsqueeze(-1)).reshape(z.shape[:-1])

    def __sub__(self, other: QuadraticForm) -> QuadraticForm:
        """f − g."""
        return QuadraticForm(
            self.matrix - other.matrix, self.linear - other.linear, self.constant - other.constant
        )

    def mean(self, at: Gaussian) -> Float[Tensor, "*axes"]:
        """E f at z ~ N(m, Σ): tr QΣ + mᵀQm + 2 b·m + c."""
        trace = (
            self.matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
            if at.cov is None
            else (self.matrix * at.cov).sum((-2, -1))
        )
        return trace + ((self.matrix @ at.mean + 2 * self.linear) * at.mean).sum(-1) + self.constant

    def covariance(self, other: QuadraticForm, at: Gaussian) -> Float[Tensor, "*axes"]:
        """Cov(f, g) at z ~ N(m, Σ): 2 tr(QΣRΣ) + 4 (Qm + b)ᵀ Σ (Rm + r), with g = zᵀRz + 2 r·z + ….

        (Isserlis; Mathai and Provost, "Quadratic Forms in Random Variables", 1992, section 3.2d.)
        """
        left, right = (form.matrix if at.cov is None else form.matrix @ at.cov for form in (self, other))
        slopes = [form.matrix @ at.mean + form.linear for form in (self, other)]
        carried = slopes[1] if at.cov is None else slopes[1] @ at.cov
        return 2 * (left * right.mT).sum((-2, -1)) + 4 * (slopes[0] * carried).sum(-1)


def require_symmetric(matrix: Float[Tensor, "*axes n m"], name: str) -> None:
    """Raises InputError unless the matrices are square, finite, and symmetric to their rounding."""
    require_finite_numbers(matrix, name)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.shape[-1]:
        raise InputError(f"{name} has shape {list(matrix.shape)}; expected a square one, [..., d_in, d_in]")
    off, largest = (matrix - matrix.mT).abs(), matrix.abs().amax((-2, -1), keepdim=True)
    if bool((off > torch.finfo(matrix.dtype).eps ** (2 / 3) * largest).any()):
        raise InputError(
            f"{name} is not symmetric: entries differ by {float(off.max()):.3g} from their mirror images; "
            "expected a symmetric one, (M + Mᵀ) / 2 of a matrix M is the same quadratic form"
        )
