"""One layer of two models beside each other: how its MLP and heads differ, at most and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.features.interactions import Interactions, strongest_interactions
from analysis.features.layer import READ, WRITTEN, FeatureLayer
from analysis.features.names import numbered
from analysis.guarantees.changes import Directions, Kind, Sizes
from analysis.guarantees.ranges import certify
from analysis.guarantees.tensor_difference import LargestChange, difference, largest_change
from analysis.spectra.hosvd import hosvd
from bilinear_lm.shown import Words, shown
from bilinear_lm.sites import Point, Site
from bilinear_lm.tensor import BilinearTensor

WRITTEN_ALONG: tuple[Kind, ...] = ("MLP writes token", "MLP writes feature")


@shown
@dataclass(frozen=True)
class DirectionChange:
    """The change of an MLP's output along one direction, over all inputs ‖z‖² ≤ d of its norm: exact."""

    along: str
    """"token", "feature" or "singular": what the direction is."""
    name: str
    low: float
    """No input lowers the output along the direction by more."""
    high: float
    input: Float[Tensor, " d_model"]
    """The input at which the change is largest."""

    @property
    def largest(self) -> float:
        """The largest change by magnitude."""
        return max(-self.low, self.high)


@shown
@dataclass(frozen=True)
class NamedInteraction:
    """The change of the coefficient of two inputs' product in an output."""

    output: str
    left: str
    right: str
    value: float


@shown
@dataclass(frozen=True)
class LayerDifference:
    """The change of one MLP from the first model to the second, as a function of x / rms(x)."""

    layer: int
    change: float
    """‖B − B'‖ of the symmetrised tensors."""
    relative: float
    """`change` / ‖B‖."""
    cosine: float
    """The cosine of the two tensors: 1 for the same function up to a factor."""
    largest: LargestChange
    """A bracket of the largest change of the output over all inputs, in every direction at once."""
    directions: tuple[DirectionChange, ...]
    """Output directions of largest change, exactly certified: tokens, features, singular directions."""
    interactions: tuple[NamedInteraction, ...]
    """The strongest changed interactions: of tokens and of features, into the directions above."""

    def _first(self) -> dict[str, Any]:
        return {"largest": Words(f"{self.largest.low:.3g} to {self.largest.high:.3g}")}


@dataclass(frozen=True)
class Names:
    """Words for tokens and features by number."""

    token: Callable[[int], str]
    features: Mapping[Site, Sequence[str]]
    """The names of all features by site; of sites that have none features are numbers."""

    def of(self, kind: Kind, layer: int | None, item: int) -> str:
        """The item of a kind, in a layer, in words."""
        points: tuple[Point, ...] = {"MLP reads feature": READ, "MLP writes feature": (WRITTEN,)}.get(
            kind, ()
        )
        if layer is None or not points:
            return self.token(item)
        named = (self.features.get(Site(layer, point)) for point in points)
        return numbered(item, next((names[item] for names in named if names), ""))


def layer_difference(
    layer: int,
    tensor: BilinearTensor,
    other: BilinearTensor,
    size: Sizes,
    along: Directions,
    strongest: Mapping[Kind, Sequence[int]],
    names: Names,
    *,
    n_singular: int,
    k: int,
    seed: int,
) -> LayerDifference:
    """The difference of one layer, with the items of each kind that are to be certified."""
    changed = difference(other, tensor)
    directions: list[DirectionChange] = []
    if size.change > 0:
        rows = along.by_kind()
        for kind in WRITTEN_ALONG:
            if items := list(strongest.get(kind, ())):
                named = [names.of(kind, layer, item) for item in items]
                directions += _certified(changed, kind.split()[-1], rows[kind][items], named)
        svd = hosvd(changed, min(n_singular, changed.d_out))
        u = svd.output_directions[: max(1, svd.rank)]
        directions += _certified(changed, "singular", u, [str(number) for number in range(len(u))])
    return LayerDifference(
        layer,
        float(size.change),
        float(size.relative),
        float(tensor.cosine(other)),
        largest_change(changed, seed=seed),
        tuple(sorted(directions, key=lambda direction: -direction.largest)),
        _interactions(changed, along, strongest, names, k, layer),
    )


def _certified(
    changed: BilinearTensor, along: str, u: Float[Tensor, "n d_out"], names: list[str]
) -> list[DirectionChange]:
    span = certify(changed, u, over="ball")
    inputs = torch.where((span.high >= -span.low).unsqueeze(-1), span.argmax, span.argmin)
    rows = zip(names, span.low.tolist(), span.high.tolist(), inputs, strict=True)
    return [DirectionChange(along, *row) for row in rows]


def _interactions(
    changed: BilinearTensor,
    along: Directions,
    strongest: Mapping[Kind, Sequence[int]],
    names: Names,
    k: int,
    layer: int,
) -> tuple[NamedInteraction, ...]:
    """The k strongest changed interactions of tokens, and of features, into the outputs that changed most."""
    rows = along.by_kind()
    result: list[NamedInteraction] = []
    for what in ("token", "feature"):
        read, written = (f"MLP {verb} {what}" for verb in ("reads", "writes"))
        items = list(strongest.get(written, ()))  # type: ignore[call-overload]
        if items and read in rows:
            between = FeatureLayer(changed, rows[read], rows[written][items])  # type: ignore[index]
            found = strongest_interactions(between, k=min(k, between.n_in))
            result += _named(found, items, read, written, names, layer)  # type: ignore[arg-type]
    return tuple(result)


def _named(
    found: Interactions, items: list[int], read: Kind, written: Kind, names: Names, layer: int
) -> list[NamedInteraction]:
    return [
        NamedInteraction(
            names.of(written, layer, items[each.output]),
            names.of(read, layer, each.left),
            names.of(read, layer, each.right),
            each.value,
        )
        for each in found
        if each.value
    ]
