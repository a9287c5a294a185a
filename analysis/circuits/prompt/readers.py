"""What attribution is put together from: readers, sources, and the parts that a reader's value splits into.

A **reader** is a value as a function of what is below it, with patterns and scales of norms held: linear in
the residual stream, quadratic in the input of an MLP, or bilinear in two positions (an attention score).
A **source** is what its value splits over: a node, and how that node itself is read, if it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.graphs.graph import Node, Pruned
from bilinear_lm.sites import Site

Stage = tuple[int, int]
"""Where a source stands in the order of computation; larger ones come later. Made by `stage`."""

_STEPS = ("token", "head", "in", "pairs", "out", "score")


def stage(layer: int, step: str) -> Stage:
    """The stage of a step of a layer: heads, input of the MLP, pairs of inputs, output; tokens are below."""
    return (layer, _STEPS.index(step))


BOTTOM = stage(-1, "token")


@dataclass(frozen=True)
class Linear:
    """w · x + constant of the residual stream x at a position.

    `depth` counts the parts that wrote to the stream before: 2 l before the attention of layer l, 2 l + 1
    before its MLP, twice the number of layers at the end.
    """

    depth: int
    position: int
    w: Float[Tensor, " d_model"]
    constant: float = 0.0
    bias: str = ""
    """Which bias the constant belongs to."""


@dataclass(frozen=True)
class Quadratic:
    """u · B(x, x) + constant of the input x of a layer's MLP at a position."""

    layer: int
    position: int
    u: Float[Tensor, " d_model"]
    constant: float = 0.0
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


@dataclass(frozen=True)
class Write:
    """What a node puts into the activations of a site at a position: without it they are less by `vector`."""

    site: Site
    position: int
    vector: Float[Tensor, " d_model"]


@dataclass(frozen=True, slots=True)
class Source:
    """A node as a part of others: those that are split say how they are read, those that write what.

    There are many more of them than come into a graph: they hold what is needed to make both, and no more.
    """

    node: Node
    stage: Stage

    def reader(self) -> Reader | None:
        """How its own value is read; None: it is not split."""
        return None

    def write(self) -> Write | None:
        """What it adds where; None for biases."""
        return None


Part = tuple[Source, ...]
"""What makes one contribution: a source, or a pair of them together (twice the same: a square)."""


@dataclass(frozen=True)
class Split:
    """What a reader's value is made of: its strongest parts, and the rest of them in one number."""

    weights: list[float]
    parts: list[Part]
    """As many as weights."""
    pruned: Pruned

    @property
    def absolute(self) -> float:
        """The sum of the magnitudes of all parts."""
        return sum(map(abs, self.weights)) + self.pruned.absolute


@dataclass(frozen=True)
class Limits:
    """How much of what there is comes into a graph."""

    share: float
    """Of the absolute contributions to each node."""
    max_nodes: int
    """Of all, and so also of the contributions to one node."""
    split_heads: bool
    """Whether heads are nodes."""


@dataclass(frozen=True)
class Selected:
    """The strongest of a row of contributions, and the rest of them."""

    columns: list[int]
    weights: list[float]
    pruned: Pruned


def strongest(contributions: Float[Tensor, "n columns"], limits: Limits) -> list[Selected]:
    """In each row, the fewest entries that together have the share of Σ |entry|, strongest first."""
    values = contributions.double()
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    values = values.gather(1, order)
    reached = values.abs().cumsum(dim=1)
    mass, sums = reached[:, -1], values.cumsum(dim=1)
    # An entry is kept as long as those before it have less than the share, and never where it is zero.
    before = torch.nn.functional.pad(reached[:, :-1], (1, 0))
    n_kept = ((before < limits.share * mass.unsqueeze(1)) & (values != 0)).sum(dim=1)
    kept = [min(n, limits.max_nodes) for n in n_kept.tolist()]
    whole = (values != 0).sum(dim=1).tolist()
    found = []
    for row, n in enumerate(kept):
        total = float(sums[row, -1])
        held, held_mass = (float(sums[row, n - 1]), float(reached[row, n - 1])) if n else (0.0, 0.0)
        rest = (
            Pruned(total - held, float(mass[row]) - held_mass, whole[row] - n) if whole[row] > n else Pruned()
        )
        found.append(Selected(order[row, :n].tolist(), values[row, :n].tolist(), rest))
    return found
