"""`Node` and `Edge`: the elements of a graph, and the contributions that it does not show.

`analysis.graphs.graph` says what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "target",
    "logit",
    "feature",
    "eigenvector",
    "direction",
    "interaction",
    "head",
    "score",
    "token",
    "error",
    "bias",
]


By = Literal["slope", "weight"]
"""Which of the two numbers of an edge of a graph on a prompt is meant."""


@dataclass(frozen=True)
class Node:
    """One node; `analysis.graphs.graph` says what each kind means."""

    id: str
    """Unique and stable: the same node of the same model and prompt has the same id in every graph."""
    kind: Kind
    layer: int | None = None
    position: int | None = None
    """The position in the prompt; of a head, the one that it writes at."""
    index: int | None = None
    """The number of the token, feature, eigenvector (0 the strongest) or head."""
    site: str | None = None
    """The site of a feature, an error or what an MLP writes, such as 2-mlp-out."""
    key: int | None = None
    """The position that a head reads."""
    label: str = ""
    """A few words for people; the id where there are none."""
    value: float | None = None
    slope: float | None = None
    """The derivative of the target by this node times what it writes: the change of the target at first order
    if the node were twice as large, by the model itself (`analysis.graphs.effects`)."""

    @property
    def text(self) -> str:
        """The label, or else the id."""
        return self.label or self.id


@dataclass(frozen=True)
class Edge:
    """The contribution of `source` to `target`; into an interaction, the interaction's to its output."""

    source: str
    target: str
    weight: float
    slope: float | None = None
    """The derivative of the target's value by the source times the source: with norms free to change."""
    grouped: float = 0.0
    """The part of the weight that is interactions of the source: half of each with another input, and all of
    its square. The slope has them whole, and the square twice."""

    @property
    def held_slope(self) -> float:
        """The derivative as `slope`, with norms and attention held."""
        return self.weight + self.grouped


@dataclass(frozen=True)
class Pruned:
    """Contributions to one node that the graph does not show."""

    signed: float = 0.0
    """Their sum."""
    absolute: float = 0.0
    """The sum of their magnitudes."""
    count: int = 0
    slope: float = 0.0
    """The sum of their slopes."""
    absolute_slope: float = 0.0
    """The sum of the magnitudes of their slopes."""

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            self.signed + other.signed,
            self.absolute + other.absolute,
            self.count + other.count,
            self.slope + other.slope,
            self.absolute_slope + other.absolute_slope,
        )
