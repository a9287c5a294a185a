"""Claims of a layer along a direction, held against the layer itself over all of its inputs.

A claim says that u · B(z, z) is something simpler: some of its eigenvectors, pairs of features, a truncation,
another layer. The error f − g of the claim g is a quadratic form too, so the worst case and the input that
has it are exact (`analysis.guarantees.ranges`), and so are moments under a Gaussian (Isserlis).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.interactions import Interaction
from analysis.guarantees.forms import QuadraticForm, require_symmetric
from analysis.guarantees.ranges import Over, form_ends, radius_of
from analysis.spectra.eigen import Eigendecomposition, require_decomposable
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_finite_numbers, require_index, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.polynomials.gaussian import Gaussian, one_gaussian
from bilinear_lm.shown import Words, shown
from bilinear_lm.tensor import BilinearTensor

Claim = BilinearTensor | Eigendecomposition | Tensor
"""A layer, eigenvectors, or symmetric matrices [..., d_in, d_in]: what verify takes for an approximation."""


@shown
@dataclass(frozen=True)
class Verdict:
    """The error f − g of a claim g about f = u · B(z, z): at worst, under a Gaussian, on points."""

    low: Float[Tensor, "*axes"]
    """The least f − g over all inputs."""
    high: Float[Tensor, "*axes"]
    counterexample: Float[Tensor, "*axes d"]
    """The input with the largest |f − g|, without the constant coordinate."""
    largest: Float[Tensor, "*axes"]
    """The largest |f| over the same inputs."""
    r_squared: Float[Tensor, "*axes"]
    """1 − E (f − g)² / Var f under the Gaussian; NaN where f does not vary."""
    r_squared_on_points: Float[Tensor, "*axes"] | None
    """1 − Σ (f − g)² / Σ (f − mean f)² over the points given."""
    over: Over
    radius: float

    def _first(self) -> dict[str, Any]:
        if self.low.ndim:
            return {}
        span = f"{float(self.low):.4g} to {float(self.high):.4g}"
        return {"error": Words(span), "of_largest": float(self.share)}

    @property
    def worst(self) -> Float[Tensor, "*axes"]:
        """The largest |f − g| over all inputs."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def share(self) -> Float[Tensor, "*axes"]:
        """The largest |f − g| as a share of the largest |f|."""
        return self.worst / self.largest

    @property
    def with_constant(self) -> Float[Tensor, "*axes"]:
        """The largest |f − g − a| for the best constant a, (low + high) / 2."""
        return (self.high - self.low) / 2


@checked
def verify(
    tensor: BilinearTensor,
    u: Float[Tensor, "*axes d_out"],
    approximation: Claim,
    *,
    over: Over = "sphere",
    radius: float | None = None,
    mean: Float[Tensor, " d"] | None = None,
    cov: Float[Tensor, "d d"] | None = None,
    points: Float[Tensor, "n d"] | None = None,
) -> Verdict:
    """The errors of an approximation of u · B(z, z), for output directions u [..., d_out].

    The approximation is one of
    a `BilinearTensor` of the same inputs and outputs, with biases or without: `truncate(tensor, …)`,
    `cp_decompose(tensor, …).tensor`, a converted layer; read along the same u;
    an `Eigendecomposition` of the same u, `eigendecompose(tensor, u, k)`: the sum of its k terms;
    symmetric matrices [..., d, d], or with the constant coordinate last [..., d + 1, d + 1], one for each u:
    `pairs_matrix(…)` of pairs of features.

    Over the sphere ‖z‖ = radius or its ball, radius √d by default; R² at z ~ N(mean, cov), N(0, I) if none is
    given, and on `points` [n, d], inputs of the layer. In float64, by the whole spectrum of each error form:
    right to rounding, in d³ time a direction.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 6))
    >>> u = torch.eye(6)[1]
    >>> verdict = verify(tensor, u, eigendecompose(tensor, u, k=4))
    >>> torch.allclose(verdict.worst, 8 * eigendecompose(tensor, u).values[4].abs(), rtol=1e-3)
    True

    Raises InputError for shapes that do not fit, a matrix that is not symmetric, and numbers that are not
    finite.
    """
    require_choice(over, get_args(Over), "over")
    require_decomposable(tensor, u, 1, "auto", 0.1, 0, name="verify")
    width = tensor.d_in - tensor.constant
    radius = radius_of(tensor, radius)
    at = one_gaussian(mean, cov, tensor.W_gate[:width])
    if points is not None:
        require_finite_numbers(points, "the points of a claim")
        if points.ndim != 2 or points.shape[1] != width or len(points) < 2:
            raise InputError(
                f"points of a claim: got {list(points.shape)}; expected [n, {width}], two or more, without "
                "the constant coordinate"
            )
    rows = u.reshape(-1, tensor.d_out)
    claims = _Claims.of(approximation, tensor, u)
    chunk = rows_at_once(12 * 8 * tensor.d_in**2)
    parts = [
        _verdict(
            QuadraticForm.of(tensor, rows[start : start + chunk]),
            claims.forms(rows, slice(start, start + chunk)),
            radius,
            over,
            at,
            points,
        )
        for start in range(0, len(rows), chunk)
    ]
    if not parts:
        raise InputError("verify got no output direction; expected one or more")

    def joined(name: str) -> Tensor:
        column = torch.cat([getattr(part, name) for part in parts]).to(tensor.dtype)
        return column.reshape(u.shape[:-1] + column.shape[1:])

    return Verdict(
        low=joined("low"),
        high=joined("high"),
        counterexample=joined("counterexample"),
        largest=joined("largest"),
        r_squared=joined("r_squared"),
        r_squared_on_points=None if points is None else joined("r_squared_on_points"),
        over=over,
        radius=radius,
    )


@checked
def eigenvectors_needed(
    tensor: BilinearTensor,
    u: Float[Tensor, "*axes d_out"],
    error: float,
    *,
    relative: bool = True,
    free_constant: bool = False,
    radius: float | None = None,
) -> Int[Tensor, "*axes"]:
    """The least k such that k eigenvectors of Q give u · B(z, z) to within `error` on the sphere.

    Terms of biases count as given. `error` is a share of the largest |u · B(z, z)| on the sphere, or with
    `relative=False` a value. No k eigenvectors do better than those of largest |λ|, whose error is
    radius² |λ_k+1|. With `free_constant` the claim is c ‖z‖², on the sphere a constant, plus the terms
    (λ_i − c)(v_i · z)² of k eigenvectors from both ends of the spectrum, whose error is radius² / 2 times the
    spread of the rest.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 6))
    >>> eigenvectors_needed(tensor, torch.eye(6), 0.1).shape
    torch.Size([6])
    """
    require_decomposable(tensor, u, 1, "auto", 0.1, 0, name="eigenvectors_needed")
    require_number(error, f"error={error!r}", "0 or more", least=0)
    radius = radius_of(tensor, radius)
    rows = u.reshape(-1, tensor.d_out)
    counts = []
    for part in rows.split(rows_at_once(8 * 8 * tensor.d_in**2)):
        form = QuadraticForm.of(tensor, part)
        values = torch.linalg.eigvalsh(form.matrix)
        allowed = torch.full_like(form.constant, error)
        if relative and tensor.constant:
            allowed = error * form_ends(form, radius, "sphere").values.abs().amax(1)
        elif relative:
            allowed = error * values.abs().amax(1) * radius**2
        # An eigenvalue that is 0 to rounding is nothing to explain.
        rounding = 8 * torch.finfo(values.dtype).eps * values.abs().amax(1)
        allowed = (allowed / radius**2).maximum(rounding).unsqueeze(1)
        counts.append(_outside_window(values, allowed) if free_constant else (values.abs() > allowed).sum(1))
    return torch.cat(counts).reshape(u.shape[:-1])


@checked
def pairs_matrix(
    pairs: Iterable[Interaction],
    reads: Float[Tensor, "n_feat d"],
    bias: Float[Tensor, " n_feat"] | None = None,
) -> Float[Tensor, "d_in d_in"]:
    """The symmetric matrix of pairs of features: Σ value · (reads_i · z + bias_i)(reads_j · z + bias_j).

    `pairs` are interactions of one output (`strongest_interactions`); `reads` the directions along which
    features are read off the layer's input z: columns of a dictionary's encoder, at mlp-in times the norm's
    factor, or the dual vectors of its decoder. With `bias` the matrix has the constant coordinate, d_in is
    d + 1.

    >>> pairs_matrix([Interaction(output=0, left=0, right=1, value=4.0)], torch.eye(2))
    tensor([[0., 2.],
            [2., 0.]])
    """
    require_finite_numbers(reads, "the directions that features read")
    if bias is not None:
        require_finite_numbers(bias, "the biases of features")
        if bias.shape != reads.shape[:1]:
            raise InputError(f"biases {list(bias.shape)} of {len(reads)} features; expected as many")
        reads = torch.cat([reads, bias.to(reads).unsqueeze(1)], dim=1)
    listed = list(pairs)
    if len({pair.output for pair in listed}) != 1:
        outputs = sorted({pair.output for pair in listed})
        raise InputError(f"pairs into outputs {outputs[:5]}; expected one or more pairs into one output")
    for pair in listed:
        for index in (pair.left, pair.right):
            require_index(index, len(reads), "input feature")
    left, right = reads[[pair.left for pair in listed]], reads[[pair.right for pair in listed]]
    half = (left * reads.new_tensor([pair.value for pair in listed]).unsqueeze(1)).T @ right
    return (half + half.mT) / 2


def _outside_window(values: Tensor, allowed: Tensor) -> Tensor:
    """How many of ascending values lie outside of the fullest window of width 2 · allowed."""
    end = torch.searchsorted(values, values + 2 * allowed, right=True)
    inside = end - torch.arange(values.shape[1]).to(end)
    return values.shape[1] - inside.amax(1)


def _verdict(
    form: QuadraticForm,
    claim: QuadraticForm,
    radius: float,
    over: Over,
    at: Gaussian,
    points: Tensor | None,
) -> Verdict:
    error = form - claim
    ends = form_ends(error, radius, over)
    worst = ends.values.abs().argmax(1, keepdim=True)
    variance = form.covariance(form, at)
    square = error.covariance(error, at) + error.mean(at).square()
    return Verdict(
        low=ends.values[:, 0],
        high=ends.values[:, 1],
        counterexample=ends.points.take_along_dim(worst.unsqueeze(-1), 1).squeeze(1),
        largest=form_ends(form, radius, over).values.abs().amax(1),
        r_squared=_r_squared(square, variance),
        r_squared_on_points=None if points is None else _on_points(form, error, points),
        over=over,
        radius=radius,
    )


def _on_points(form: QuadraticForm, error: QuadraticForm, points: Tensor) -> Tensor:
    """R² over the points, one form after the other: together their products with the points are large."""
    sums = []
    for at in range(len(form.constant)):
        exact, missed = form[at](points), error[at](points)
        sums.append(torch.stack([missed.square().sum(), (exact - exact.mean()).square().sum()]))
    return _r_squared(*torch.stack(sums, dim=1))


def _r_squared(square: Tensor, variance: Tensor) -> Tensor:
    return torch.where(variance > 0, 1 - square / variance, torch.nan)


@dataclass(frozen=True)
class _Claims:
    """The claims of n output directions: a layer, or a matrix for each in one of three ways."""

    layer: BilinearTensor | None
    matrices: Tensor | None
    eigen: tuple[Tensor, Tensor] | None
    constant: bool

    @classmethod
    def of(cls, approximation: Claim, tensor: BilinearTensor, u: Tensor) -> _Claims:
        axes, width = u.shape[:-1], tensor.d_in - tensor.constant
        if isinstance(approximation, BilinearTensor):
            _require_same_ends(approximation, tensor)
            return cls(approximation.to(torch.float64), None, None, approximation.constant)
        if isinstance(approximation, Eigendecomposition):
            values, vectors = approximation.values, approximation.vectors
            _require_alike(vectors, axes, (tensor.d_in,), "eigenvectors of a claim", vectors.ndim - 2)
            flat = values.reshape(-1, values.shape[-1]), vectors.reshape(-1, *vectors.shape[-2:])
            for part, name in zip(flat, ("eigenvalues", "eigenvectors"), strict=True):
                require_finite_numbers(part, f"{name} of a claim")
            return cls(None, None, flat, tensor.constant)
        require_symmetric(approximation, "the matrix of a claim")
        _require_alike(approximation, axes, (width, width + 1), "matrices of a claim", approximation.ndim - 2)
        matrices = approximation.reshape(-1, *approximation.shape[-2:])
        return cls(None, matrices, None, matrices.shape[-1] > width)

    def forms(self, u: Tensor, part: slice) -> QuadraticForm:
        """The claims of some of the directions."""
        if self.layer is not None:
            return QuadraticForm.of(self.layer, u[part].double())
        if self.matrices is not None:
            return QuadraticForm.of_matrix(self.matrices[part], constant=self.constant)
        assert self.eigen is not None
        values, vectors = (each[part].double() for each in self.eigen)
        return QuadraticForm.of_matrix((vectors.mT * values.unsqueeze(1)) @ vectors, constant=self.constant)


def _require_same_ends(approximation: BilinearTensor, tensor: BilinearTensor) -> None:
    ours, theirs = (
        (each.batch_shape, each.d_in - each.constant, each.d_out) for each in (tensor, approximation)
    )
    if ours != theirs:
        raise InputError(
            f"a layer claimed to be another: got (batch, inputs, outputs) {tuple(map(_plain, theirs))}; "
            f"expected {tuple(map(_plain, ours))}"
        )


def _plain(size: Any) -> Any:
    return list(size) if isinstance(size, torch.Size) else size


def _require_alike(
    numbers: Tensor, axes: torch.Size, widths: tuple[int, ...], name: str, n_axes: int
) -> None:
    if numbers.shape[:n_axes] != axes or numbers.shape[-1] not in widths:
        wanted = " or ".join(map(str, widths))
        raise InputError(
            f"{name}: got {list(numbers.shape)}; expected the axes {list(axes)} of the output directions "
            f"first and a last axis of {wanted}"
        )
