"""How the interactions of every output feature of a layer are distributed, one row a feature.

A low effective rank says that few eigenvectors carry a feature; a heavy tail (kurtosis, outliers) that few
pairs of input features do (arXiv 2410.08417, section 5).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.layer import FeatureLayer
from analysis.spectra.eigen import effective_rank, require_full_precision, shares_of_squares
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_number
from bilinear_lm.distributed import Worker, divided
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.rescaling import in_precision, times_two_to, unordinary_exponent
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown

_STATISTICS = ("strength", "effective_rank", "mass", "deviation", "kurtosis", "outliers")

_RESOLVED = 1e-14
"""A variance below this share of the mean square is rounding: all entries are equal."""

_FOURTH = 20
"""Fourth powers of numbers between 2^-_FOURTH and 2^_FOURTH are well within the range of float32."""


@shown
@dataclass(frozen=True)
class InteractionStatistics:
    """One entry an output feature in each column."""

    outputs: Int[Tensor, " n"]
    """The output features."""
    strength: Float[Tensor, " n"]
    """‖λ‖₂ of the layer's interaction matrix, in coordinates of the layer's input."""
    effective_rank: Float[Tensor, " n"]
    """(‖λ‖₁ / ‖λ‖₂)² of the whole spectrum."""
    mass: Float[Tensor, "n top"]
    """The share (0 to 1) of the 1, 2, … largest eigenvalues by magnitude in Σ λ²."""
    deviation: Float[Tensor, " n"]
    """Standard deviation of the n_in² entries Q_ij of the interaction matrix between input features."""
    kurtosis: Float[Tensor, " n"]
    """Excess kurtosis of the same entries: 0 for a normal distribution, and where all are equal."""
    outliers: Int[Tensor, " n"]
    """Pairs i ≤ j whose entry lies more than `n_deviations` standard deviations from the mean."""
    n_deviations: float

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a feature, as JSON can hold it."""
        columns = {"output": self.outputs.tolist()} | {
            name: getattr(self, name).tolist() for name in _STATISTICS
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@checked
def interaction_statistics(
    features: FeatureLayer,
    outputs: int | Iterable[int] | None = None,
    top: int = 10,
    n_deviations: float = 5.0,
    progress: bool = False,
) -> InteractionStatistics:
    """The statistics of every output feature of `outputs`, None: of all, one interaction matrix at a time.

    Entries between features are seen once, strip by strip, and never stored: their mean and deviation
    come from the d × d matrix Q and the features' sum and Gram matrix. The processes of a torch.distributed
    group share the output features.
    """
    require_full_precision(features.tensor, "statistics of the interactions")
    d_in, dtype = features.tensor.d_in, features.tensor.dtype
    require_count(top, f"top={top} eigenvalues", f"1 to d_in={d_in}", most=d_in)
    expected = "a positive number"
    require_number(n_deviations, f"n_deviations={n_deviations}", expected, least=sys.float_info.min)
    selected = features.select(outputs)
    if not selected:
        raise InputError("no output features to tabulate; name some, or None for all of them")
    features, *powers = features.scaled(selected)
    gram = features.inputs.double().T @ features.inputs.double()

    def rows_of(some: Sequence[int]) -> tuple[Tensor, ...]:
        rows = [_statistics(features, output, gram, top, n_deviations) for output in some]
        bar.update(len(some))
        powers = torch.tensor([row["power"] for row in rows])
        return powers, *(
            torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in _STATISTICS
        )

    with tqdm(total=len(Worker.own().of(len(selected))), desc="features", disable=not progress) as bar:
        sizes, *values = divided(selected, rows_of)
    columns = dict(zip(_STATISTICS, values, strict=True))
    for name, power in (("strength", powers[0]), ("deviation", sum(powers))):
        each = columns[name].unsqueeze(-1), (sizes + power).unsqueeze(-1)
        columns[name] = in_precision(*each, dtype, f"the {name} of interactions", "features", -1).squeeze(-1)
    columns = {name: column.to(dtype) for name, column in columns.items()}
    columns["outliers"] = columns["outliers"].long()
    return InteractionStatistics(outputs=torch.tensor(selected), n_deviations=n_deviations, **columns)


def _statistics(
    features: FeatureLayer, output: int, gram: Tensor, top: int, n_deviations: float
) -> dict[str, float | int | list[float]]:
    """The statistics of a feature; strength and deviation in units of 2^power."""
    u, count = features.outputs[output], features.n_in**2
    power = unordinary_exponent(u)
    u = times_two_to(u, -power)
    Q, scale = features.tensor.scaled_interaction_matrix(u)
    rest = 0 if scale is None else int(scale)
    squares = torch.linalg.eigvalsh(Q).square().sort(descending=True).values
    width = features.inputs.shape[1]
    Q = times_two_to(Q[:width, :width].double(), rest)
    mean, deviation = _mean_and_deviation(Q, features.inputs, gram)
    unit = math.frexp(deviation)[1]
    unit = 0 if abs(unit) <= _FOURTH else unit
    fourth, outliers = 0.0, 0
    for _, strip in features.strips(u):
        distance = strip.sub_(mean).triu_()
        own = distance.diagonal()
        outliers += int((distance.abs() > n_deviations * deviation).sum()) if deviation else 0
        if unit:
            distance, own = times_two_to(distance, -unit), times_two_to(own, -unit)
        # Every entry off the diagonal stands for two.
        fourth += 2 * float(distance.square().square_().sum()) - float(own.square().square_().sum())
    return {
        "power": power,
        "strength": math.ldexp(float(squares.sum().sqrt()), rest),
        "effective_rank": float(effective_rank(squares.sqrt())),
        "mass": shares_of_squares(squares.sqrt())[:top].tolist(),
        "deviation": deviation,
        "kurtosis": fourth / count / math.ldexp(deviation, -unit) ** 4 - 3 if deviation else 0.0,
        "outliers": outliers,
    }


def _mean_and_deviation(Q: Tensor, inputs: Tensor, gram: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all f_i Q f_j, from Σ_i f_i and G = Σ_i f_i f_iᵀ.

    Their sum is (Σ f) Q (Σ f), that of their squares tr(Q G Q G). In float64, as the second may cancel
    against the square of the first.
    """
    total, count = inputs.double().sum(0), len(inputs) ** 2
    mean = float(total @ Q @ total) / count
    QG = Q @ gram
    square = float((QG * QG.T).sum()) / count
    variance = square - mean**2
    return mean, variance**0.5 if variance > _RESOLVED * square else 0.0
