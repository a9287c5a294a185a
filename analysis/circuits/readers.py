"""What graphs are grown from: readers, the sources that they split over, and groups of these.

A **reader** is a value as a function of what is below it: linear in the residual stream, quadratic in the
input of an MLP, or bilinear in two positions (an attention score). On a prompt it is that with attention
patterns and norm scales held at what was measured, by weights alone with both at 1.
A **source** is what its value splits over: a node, and how that node itself is read, if it is. Sources of one
unit are a **group**.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from analysis.graphs.graph import Node, Pruned
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site

Stage = tuple[int, int]
"""Where a source stands in the order of computation; larger ones come later. Made by `stage`."""

_STEPS = ("token", "head", "in", "pairs", "out", "score")


def stage(layer: int, step: str) -> Stage:
    """The stage of a step of a layer: heads, input of the MLP, pairs of inputs, output; tokens are below."""
    return (layer, _STEPS.index(step))


def writes_of_mlp(at: Stage) -> bool:
    """Whether what stands at a stage is written by an MLP."""
    return at[1] == _STEPS.index("out")


BOTTOM = stage(-1, "token")


@shown
@dataclass(frozen=True)
class Linear:
    """w · x + constant of the residual stream x.

    `depth` counts the parts that wrote to the stream before: 2 l before the attention of layer l, 2 l + 1
    before its MLP, twice the number of layers at the end.
    """

    depth: int
    w: Float[Tensor, " d_model"]
    constant: float = 0.0
    bias: str = ""
    """Which bias the constant belongs to."""
    position: int = 0
    """Where on the prompt; not used by weights."""
    heads: int = 0
    """How many heads in a row moved what is read here; counted by weights."""


@shown
@dataclass(frozen=True)
class Quadratic:
    """u · B(x, x) + constant of the input x of a layer's MLP."""

    layer: int
    u: Float[Tensor, " d_model"]
    constant: float = 0.0
    position: int = 0
    """Where on the prompt; not used by weights."""
    rank: int | None = None
    """Only the part of one eigenvector, λ (v · x)², 0 the strongest; None: all of it."""


@dataclass(frozen=True)
class Score:
    """The attention score of a head between two positions, or the difference of those of two keys."""

    layer: int
    head: int
    query: int
    key: int
    against: int | None = None


Reader = Linear | Quadratic | Score


@shown
@dataclass(frozen=True)
class Write:
    """The vector that a node adds to the activations of a site at one position."""

    site: Site
    position: int
    vector: Float[Tensor, " d_model"]


@dataclass(frozen=True, slots=True)
class Source:
    """A node as a part of others, with how it is read and what it writes, where it has these.

    There are many more sources than nodes of a graph: they hold what is needed to make both, and no more.
    """

    node: Node
    stage: Stage

    def reader(self) -> Reader | None:
        """How its own value is read; None: it is not split."""
        return None

    def write(self) -> Write | None:
        """What it adds to which activations; None for biases, and by weights."""
        return None


@dataclass(frozen=True, slots=True)
class ReadBy(Source):
    """A source whose reader is made when it comes into a graph."""

    make: Callable[[], Reader]

    def reader(self) -> Reader:
        """The reader that `make` makes."""
        return self.make()


Part = tuple[Source, ...]
"""What makes one contribution: a source, or a pair of them together (twice the same: a square)."""


@dataclass(frozen=True)
class Group:
    """What a node is made of, in one unit: the strongest parts, and the rest of them in numbers."""

    weights: list[float]
    parts: list[Part]
    """As many as weights."""
    pruned: Pruned
    """The rest."""
    whole: float
    """The size of all of them together, kept or not."""
    size: Literal["absolute", "square"]
    """Sizes are |weight| of contributions on a prompt, weight² of coefficients by weights."""
    pairs_at: Stage = BOTTOM
    """The stage of the interactions of pairs."""
    name: str = ""

    def part(self, weight: float, of: float = 1.0) -> float:
        """The part of the whole that a weight has, times a number."""
        return of * self.size_of(weight) / self.whole

    def size_of(self, weight: float) -> float:
        """|weight| or weight²."""
        return abs(weight) if self.size == "absolute" else weight**2

    @property
    def shown(self) -> float:
        """How much of the whole is that of the parts."""
        return sum(map(self.size_of, self.weights)) / self.whole


@dataclass(frozen=True)
class Limits:
    """How much of what there is comes into a graph."""

    share: float
    """Of each group the fewest of its strongest are kept that have this share of the whole."""
    at_most: int
    """Of one group."""
    heads_in_a_row: int
    """Heads that follow each other as nodes; on a prompt 0 sums over all ways through heads."""
