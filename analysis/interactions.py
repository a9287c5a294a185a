"""The strongest interactions between features, without the matrices they are entries of.

The value of an interaction is the coefficient of c_i c_j in u · B(x, x), x = Σ_i c_i f_i: Q_ii of a feature
with itself, and 2 Q_ij of two features i < j, both orders together. So its contribution at codes c is
value · c_i · c_j, and those of all pairs i ≤ j sum to the quadratic part of the output (arXiv 2410.08417,
section 3). Interactions are ranked by |value|, then by output, left and right feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from analysis.features import FeatureLayer
from bilinear_lm.errors import InputError


@dataclass(frozen=True)
class Interaction:
    """What the product of two input features adds to an output feature: value · c_left · c_right."""

    output: int
    left: int
    right: int
    """At least `left`; equal to it where a feature interacts with itself."""
    value: float


@dataclass(frozen=True)
class Interactions:
    """Interactions of a layer as columns, strongest first; iterating gives `Interaction`s."""

    outputs: Int[Tensor, " k"]
    left: Int[Tensor, " k"]
    right: Int[Tensor, " k"]
    values: Float[Tensor, " k"]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Interaction]:
        columns = (column.tolist() for column in (self.outputs, self.left, self.right, self.values))
        return (Interaction(*row) for row in zip(*columns, strict=True))

    def contributions(self, code: Float[Tensor, "*axes n_in"]) -> Float[Tensor, "*axes k"]:
        """value · c_left · c_right of each interaction at codes of the input features."""
        return self.values * code[..., self.left] * code[..., self.right]


def n_pairs(n: int) -> int:
    """How many pairs i ≤ j of n features there are."""
    return n * (n + 1) // 2


def strongest_interactions(
    features: FeatureLayer, outputs: Iterable[int] | None = None, k: int = 50, progress: bool = False
) -> Interactions:
    """The k interactions of largest |value| into `outputs` together; None: into all output features.

    Matrices are computed strip by strip, and of each strip only what may be among the k is kept. For
    another output direction than a feature's, take `features.along(u[None])`.

    >>> features = FeatureLayer(tensor, inputs.decoder, outputs.encoder.T)  # doctest: +SKIP
    >>> for interaction in strongest_interactions(features, [3], k=10):  # doctest: +SKIP
    ...     print(interaction.left, interaction.right, interaction.value)
    """
    selected = list(dict.fromkeys(features.select(outputs)))
    most = len(selected) * n_pairs(features.n_in)
    if not 1 <= k <= most:
        raise InputError(f"k={k} interactions; expected 1 to the {most:,} that there are")
    found = _Strongest(k, features)
    for output in tqdm(selected, desc="interactions", disable=not progress):
        for start, strip in features.strips(features.outputs[output]):
            found.offer(output, start, strip)
    return found.interactions()


def strongest_of_each(
    features: FeatureLayer, outputs: Iterable[int] | None = None, k: int = 10, progress: bool = False
) -> Iterator[Interactions]:
    """The k strongest interactions of each output feature in turn; None: of all of them."""
    for output in tqdm(features.select(outputs), desc="features", disable=not progress):
        yield strongest_interactions(features, [output], k)


class _Strongest:
    """The k strongest of the interactions offered so far."""

    def __init__(self, k: int, features: FeatureLayer):
        self.k = k
        self.n_in = features.n_in
        self.threshold = 0.0
        self.values = features.inputs.new_empty(0)
        # One number for output, left and right, in the order that decides between equal values.
        self.places = torch.empty(0, dtype=torch.long, device=self.values.device)

    def offer(self, output: int, start: int, strip: Tensor) -> None:
        """Takes what is strong enough of a strip that `FeatureLayer.strips` gave."""
        magnitudes = strip.abs()
        if len(self.values) < self.k and 2 * self.k < strip.numel():
            # Nothing to compare with yet. A pair fills at most two entries, so that among the 2k largest
            # there are k pairs, and their values are at least the smallest of these entries.
            smallest = magnitudes.flatten().topk(2 * self.k, sorted=False).values.min()
            self.threshold = max(self.threshold, float(smallest))
        rows, columns = torch.nonzero(magnitudes >= self.threshold / 2, as_tuple=True)
        values = torch.where(rows == columns, 1, 2) * strip[rows, columns]
        strong = (values.abs() >= self.threshold) & (rows <= columns)
        if strong.any():
            places = (output * self.n_in + rows + start) * self.n_in + columns + start
            self._merge(values[strong], places[strong])

    def _merge(self, values: Tensor, places: Tensor) -> None:
        values, places = torch.cat([self.values, values]), torch.cat([self.places, places])
        by_place = places.argsort()
        by_size = values[by_place].abs().argsort(descending=True, stable=True)
        kept = by_place[by_size[: self.k]]
        self.values, self.places = values[kept], places[kept]
        if len(kept) == self.k:
            self.threshold = float(self.values[-1].abs())

    def interactions(self) -> Interactions:
        """What was found, strongest first."""
        pairs, right = self.places // self.n_in, self.places % self.n_in
        return Interactions(pairs // self.n_in, pairs % self.n_in, right, self.values)
