"""Parts that graphs are grown from: readers, the sources that they split over, and groups of these.

A **reader** is a value as a function of the activations below it: linear in the residual stream, quadratic
in the input of an MLP, or bilinear in two positions (an attention score). Attention patterns and norm scales
are frozen: on a prompt at their measured values, by weights alone at 1. On a prompt a reader has a derivative
besides, in which norms are not frozen: contributions have **weights**, which add up to the value, and
**slopes**, by which it changes.
A **source** is one of the nodes over which the value splits, with its own reader if it is split in turn.
Sources of one unit are a **group**.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from analysis.graphs.elements import By, Node
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site

Stage = int
"""The step of computation at which a source stands; larger ones come later. Made by `stage`."""

_STEPS = ("token", "attention", "head", "in", "pairs", "out", "score")


def stage(layer: int, step: str) -> Stage:
    """The stage of a step of a layer: attention scores that are followed, heads, input of the MLP, pairs of
    inputs, output, a score as a target; tokens are below."""
    return layer * len(_STEPS) + _STEPS.index(step)


def writes_of_mlp(at: Stage) -> bool:
    """Whether sources at a stage are written by an MLP."""
    return at % len(_STEPS) == _STEPS.index("out")


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
    """How many heads in a row moved this reading; counted in circuits from weights only."""
    slope: Float[Tensor, " d_model"] | None = None
    """The direction of its derivative, which is not w where it is read through a norm; None: it is w."""

    @property
    def gradient(self) -> Float[Tensor, " d_model"]:
        """Its derivative by the residual stream."""
        return self.w if self.slope is None else self.slope

    @property
    def constant_gradient(self) -> float:
        """Its derivative by the bias, times the bias."""
        return self.constant


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
    slope: Float[Tensor, " d_model"] | None = None
    """u of its derivative, which is another where a norm lies behind the MLP; None: it is u."""

    @property
    def gradient(self) -> Float[Tensor, " d_model"]:
        """u of its derivative."""
        return self.u if self.slope is None else self.slope


@shown
@dataclass(frozen=True)
class Spread:
    """Σ w · x + constant of the residual stream x at all positions of a prompt."""

    depth: int
    """As in `Linear`."""
    w: Float[Tensor, "pos d_model"]
    gradient: Float[Tensor, "pos d_model"]
    """Its derivative by the residual stream."""
    constant: float
    constant_gradient: float
    """Its derivative by the bias, times the bias."""
    bias: str
    """Which bias the constant belongs to."""


@dataclass(frozen=True)
class Score:
    """The attention score of a head between two positions, or the difference of those of two keys."""

    layer: int
    head: int
    query: int
    key: int
    against: int | None = None


Reader = Linear | Spread | Quadratic | Score


@shown
@dataclass(frozen=True)
class Write:
    """The vector that a node adds to the activations of a site at one position."""

    site: Site
    position: int
    vector: Float[Tensor, " d_model"]
    tangent: Float[Tensor, " d_model"] | None = None
    """The vector at first order, where that is another: a norm between the two is not frozen."""

    @property
    def slope(self) -> Float[Tensor, " d_model"]:
        """The vector that it adds at first order."""
        return self.vector if self.tangent is None else self.tangent

    def times(self, factor: float) -> Write:
        """A part of it."""
        tangent = None if self.tangent is None else self.tangent * factor
        return replace(self, vector=self.vector * factor, tangent=tangent)


@dataclass(frozen=True, slots=True)
class Source:
    """A node as a part of others, with its reader and its write where it has these.

    There are many more sources than nodes of a graph, so they hold only what is needed to make both.
    """

    node: Node
    stage: Stage

    def reader(self) -> Reader | None:
        """The reader of its own value; None: it is not split."""
        return None

    def write(self) -> Write | None:
        """The vector that it adds to activations, and where; None for biases, and by weights."""
        return None


@dataclass(frozen=True, slots=True)
class ReadBy(Source):
    """A source whose reader is made when it comes into a graph."""

    make: Callable[[], Reader]

    def reader(self) -> Reader:
        """The reader that `make` makes."""
        return self.make()


@dataclass(frozen=True)
class Group:
    """The contributions to nodes of one stage in one unit, in columns: the strongest, and the rest summed.

    They stand in the order of the nodes that they add to.
    """

    rows: Int[np.ndarray, " n"]
    """The node that each adds to, from 0."""
    sources: Int[np.ndarray, " n"]
    """The number of its source in the catalogue."""
    partners: Int[np.ndarray, " n"]
    """The number of the other source of a pair (of a square the same); -1: there is none."""
    weights: Float[np.ndarray, " n"]
    slopes: Float[np.ndarray, " n"]
    """NaN by weights alone."""
    shares: Float[np.ndarray, " n"]
    """The part that each has of the size of all contributions to its node, kept or not: by |slope| or
    |weight| on a prompt, by weight² of coefficients by weights alone."""
    pruned: Float[np.ndarray, "n_rows 5"]
    """The rest of each node, the numbers of `Pruned`."""
    pairs_at: Stage = BOTTOM
    """The stage of the interactions of pairs."""
    name: str = ""
    """The name under which the part of it that is shown is counted; none on a prompt."""
    grouped: Float[np.ndarray, " n"] | None = None
    """The part of each weight that is interactions with others; None where these are not grouped, and pairs
    that do not come in are left out."""


@dataclass(frozen=True)
class ListedScores:
    """Attention scores of one layer on a prompt."""

    heads: Int[Tensor, " n"]
    queries: Int[Tensor, " n"]
    keys: Int[Tensor, " n"]
    values: Float[Tensor, " n"]
    """Above the mean of those that their query reads."""

    def __len__(self) -> int:
        return len(self.heads)

    def at(self, index: int) -> tuple[int, int, int, float]:
        """Head, query, key and value of one."""
        return (
            int(self.heads[index]),
            int(self.queries[index]),
            int(self.keys[index]),
            float(self.values[index]),
        )


@dataclass(frozen=True)
class Limits:
    """Limits on the part of all contributions that comes into a graph."""

    share: float
    """The share of a group that is kept: the fewest of its strongest parts that sum to it."""
    at_most: int
    """The most parts of one group that are kept."""
    heads_in_a_row: int
    """Heads that follow each other as nodes; on a prompt 0 sums over all ways through heads."""
    by: By = "weight"
    """The number that parts are chosen by on a prompt."""
    scores: Mapping[int, ListedScores] | None = None
    """The attention scores that can be parts, by layer; None: attention is held."""
    grouped: bool = False
    """Whether all but the strongest interactions at an output are grouped by their inputs."""
