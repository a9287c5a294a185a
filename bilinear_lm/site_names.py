"""Names of the places in a model that have activations: `Site`, a layer and a point, written 4-mlp-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from bilinear_lm.checks import is_index
from bilinear_lm.errors import InputError

Point = Literal["resid-pre", "attn-out", "resid-mid", "mlp-in", "mlp-out", "resid-post"]

POINTS: tuple[Point, ...] = get_args(Point)
"""The points of a block, in the order in which it computes them."""


@dataclass(frozen=True, order=True)
class Site:
    """A place in a model whose activations a dictionary describes; written `{layer}-{point}`.

    resid-pre, resid-mid and resid-post are the residual stream before attention, between attention and the
    MLP, and after the MLP; mlp-in is what the MLP reads, the output of the norm; attn-out and mlp-out are
    what the two add to the stream.
    """

    layer: int
    point: Point

    def __post_init__(self):
        if not is_index(self.layer, 10**9) or self.point not in POINTS:
            raise InputError(
                f"site {self.layer}-{self.point}; expected a layer from 0 and one of {', '.join(POINTS)}"
            )

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site written as `{layer}-{point}`, such as 4-mlp-out."""
        layer, _, point = text.partition("-")
        if not layer.isdecimal() or len(layer) > 9 or point not in POINTS:
            raise InputError(f"site {text!r}; expected {{layer}}-{{point}} with one of {', '.join(POINTS)}")
        return cls(int(layer), point)

    def __str__(self) -> str:
        return f"{self.layer}-{self.point}"
