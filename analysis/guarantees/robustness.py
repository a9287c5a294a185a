"""Robustness of a classifier that is one bilinear layer: what changes of its input can change its label.

The margin of class y against class j, f(x) = (e_y − e_j) · B(x, x), is a quadratic form. Its least value in
the ball ‖a‖ ≤ ε around an input is a trust-region problem, so it is exact; and so is the nearest input at
which the two classes are equal: the label is certified up to that distance, and at it there is a
counterexample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.guarantees.forms import QuadraticForm
from analysis.guarantees.secular import maximise
from analysis.spectra.eigen import require_full_precision
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers, require_labels, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.shown import Words, shown
from bilinear_lm.tensor import BilinearTensor

BISECTIONS = 60
"""Halvings of the interval that holds a distance, at most: what float64 can tell apart."""

FARTHEST = 2.0**40
"""A class that has not caught up at this distance never does."""


@shown
@dataclass(frozen=True)
class Robustness:
    """Distances (2-norm) from n inputs to the nearest inputs at which another class is as large as theirs."""

    labels: Int[Tensor, " n"]
    radii: Float[Tensor, "n n_classes"]
    """The distance at which each class catches up; ∞ where none does, and for the label itself."""
    nearest: Float[Tensor, "n d"]
    """The nearest input with a class as large as the label; the input itself where there is none."""

    @property
    def radius(self) -> Float[Tensor, " n"]:
        """The certified radius: no input nearer than this is given another label. 0 for a wrong label."""
        return self.radii.amin(1)

    def accuracy(self, epsilon: float) -> float:
        """The share of inputs that keep their label under every change shorter than ε."""
        kept = (self.radius > 0) & (self.radius >= epsilon)
        return float(kept.double().mean())

    def _first(self) -> dict[str, Any]:
        middle = f"{float(self.radius.median()):.4g}" if len(self.labels) else "none"
        return {"n": len(self.labels), "median_radius": Words(middle)}


@checked
def certified_margins(
    tensor: BilinearTensor,
    x: Float[Tensor, "n d"],
    epsilon: float,
    labels: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, "n n_classes"]:
    """The least margin of the label against each class over all inputs within ε of x, in the 2-norm.

    The tensor's outputs are the logits of a classifier; `labels` are its own by default. The label is
    certified at ε where every margin is above 0; the margin against the label itself is ∞.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 3))
    >>> certified_margins(tensor, torch.randn(5, 8), 0.1).shape
    torch.Size([5, 3])
    """
    labels = _labels(tensor, x, labels)
    require_number(epsilon, f"epsilon={epsilon!r}", "a length above 0", least=math.ulp(0))
    margins = x.new_full((len(x), tensor.d_out), torch.inf)
    for pair in _pairs(tensor, x, labels):
        margins[pair.rows, pair.other] = pair.least(torch.full_like(pair.at_x, epsilon)).to(x.dtype)
    return margins


@checked
def certified_radius(
    tensor: BilinearTensor, x: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
) -> Robustness:
    """How far each input can move in any direction before a class catches up with its label, exactly.

    The tensor's outputs are the logits of a classifier; `labels` are its own by default. One `eigh` a pair of
    classes that occurs; then each distance by bisection on the secular equation.

    >>> tensor = BilinearTensor(torch.randn(8, 32), torch.randn(8, 32), torch.randn(32, 3))
    >>> robustness = certified_radius(tensor, torch.randn(5, 8))
    >>> robustness.radius.shape, robustness.nearest.shape
    (torch.Size([5]), torch.Size([5, 8]))
    """
    labels = _labels(tensor, x, labels)
    radii = x.new_full((len(x), tensor.d_out), torch.inf, dtype=torch.float64)
    nearest = x.double().clone()
    for pair in _pairs(tensor, x, labels):
        distances, points = pair.nearest()
        is_nearest = distances < radii[pair.rows].amin(1)
        nearest[pair.rows[is_nearest]] = points[is_nearest]
        radii[pair.rows, pair.other] = distances
    return Robustness(labels, radii.to(x.dtype), nearest.to(x.dtype))


@dataclass(frozen=True)
class _Pair:
    """The margin of one class against another around some inputs, in the eigenbasis of its matrix."""

    rows: Tensor
    """Which of the inputs."""
    other: int
    x: Tensor
    eigenvalues: Tensor
    columns: Tensor
    linear: Tensor
    """(Qx + b) V, [rows, d]."""
    at_x: Tensor
    """The margin at the inputs."""

    def lowest(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """The least change of the margin within each radius, and where it is, in the eigenbasis."""
        values = (-self.eigenvalues).expand_as(self.linear)
        extreme = maximise(values, -self.linear, radius, ball=True)
        return -extreme.values, extreme.points

    def least(self, radius: Tensor) -> Tensor:
        """The least margin within each radius."""
        return self.at_x + self.lowest(radius)[0]

    def nearest(self) -> tuple[Tensor, Tensor]:
        """The distance at which the margin is 0, ∞ where it never is, and the inputs there."""
        high, low = torch.ones_like(self.at_x), torch.zeros_like(self.at_x)
        never = self.least(torch.full_like(high, FARTHEST)) > 0
        while bool((above := (self.least(high) > 0) & ~never).any()):
            low, high = torch.where(above, high, low), torch.where(above, high * 4, high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = self.least(middle) > 0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
            if bool((high - low <= 4 * torch.finfo(high.dtype).eps * high).all()):
                break
        wrong = self.at_x <= 0
        distances = torch.where(wrong, 0.0, torch.where(never, torch.inf, high))
        moved = self.lowest(high)[1] @ self.columns.mT
        return distances, torch.where((wrong | never).unsqueeze(1), self.x, self.x + moved)


def _pairs(tensor: BilinearTensor, x: Tensor, labels: Tensor) -> Iterator[_Pair]:
    """The margins of each label that occurs against every other class."""
    points = x.double()
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().squeeze(1)
        for other in range(tensor.d_out):
            if other == label:
                continue
            u = tensor.W_out.new_zeros(tensor.d_out)
            u[label], u[other] = 1, -1
            form = QuadraticForm.of(tensor, u)
            values, columns = torch.linalg.eigh(form.matrix)
            own = points[rows]
            linear = (own @ form.matrix + form.linear) @ columns
            yield _Pair(rows, other, own, values, columns, linear, form(own))


def _labels(tensor: BilinearTensor, x: Tensor, labels: Tensor | None) -> Tensor:
    """The labels, checked with all else; the classifier's own where none are given."""
    if tensor.batch_shape or tensor.d_out < 2:
        raise InputError(
            f"a classifier with {tensor.d_out} outputs and batch axes {list(tensor.batch_shape)}; expected "
            "one layer with two classes or more"
        )
    require_full_precision(tensor, "the robustness")
    tensor.require_alike(x, "the inputs of a classifier")
    factors = {"W_gate": tensor.W_gate, "W_in": tensor.W_in, "W_out": tensor.W_out}
    for name, numbers in ({"the inputs of a classifier": x} | factors).items():
        require_finite_numbers(numbers, name)
    width = tensor.d_in - tensor.constant
    if x.ndim != 2 or x.shape[1] != width:
        raise InputError(
            f"inputs of a classifier: got {list(x.shape)}; expected [n, {width}], without the constant "
            "coordinate"
        )
    if labels is None:
        return tensor(x).argmax(1)
    require_labels(labels, len(x), tensor.d_out)
    return labels.to(x.device).long()
