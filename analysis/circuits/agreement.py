"""Interventions on nodes of a graph, and how what they do agrees with what the graph predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from analysis.graphs.graph import Graph
from analysis.streaming import PairMoments
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@dataclass(frozen=True)
class Intervention:
    """A node multiplied by `factor`; in a trial of several, each acts on top of the changes by the others."""

    node: str
    factor: float = 0.0
    """0 ablates, more than 1 steers."""


@checked
def patch_node(graph: Graph, node: str, value: float) -> Intervention:
    """The intervention that gives a node another value."""
    return Intervention(node, value / _value(graph, node))


@checked
def steer_node(graph: Graph, node: str, amount: float) -> Intervention:
    """The intervention that adds an amount to the value of a node."""
    return Intervention(node, 1 + amount / _value(graph, node))


@checked
def scale_nodes(graph: Graph, nodes: Sequence[str], factor: float = 0.0) -> tuple[Intervention, ...]:
    """The trial that multiplies a set of nodes by one factor; 0 ablates them together."""
    return tuple(Intervention(graph.node(node).id, factor) for node in nodes)


def _value(graph: Graph, node: str) -> float:
    own = graph.node(node).value
    if not own:
        raise InputError(f"node {node!r} has the value {own}; expected one that is not 0, to be changed")
    return own


@shown
@dataclass(frozen=True)
class Agreement:
    """How predicted changes agree with measured ones."""

    n: int
    """Number of changes."""
    correlation: float
    """r; NaN for fewer than two, or without variance."""
    slope: float
    """The slope of the least-squares line through 0: measured = slope · predicted."""
    size: float
    """Root mean square of measured changes over that of predicted ones."""

    @classmethod
    def of(cls, predicted: Float[Tensor, " n"], measured: Float[Tensor, " n"]) -> Agreement:
        """The agreement of two rows of changes."""
        p, m = predicted.double(), measured.double()
        square = float(p @ p)
        return cls(
            n=len(p),
            correlation=float(PairMoments.of(p, m).correlation) if len(p) else math.nan,
            slope=float(p @ m) / square if square else math.nan,
            size=math.sqrt(float(m @ m) / square) if square else math.nan,
        )


@shown
@dataclass(frozen=True)
class CausalCheck:
    """Changes of the target by interventions, as a graph predicts them and as measured in the model."""

    trials: tuple[tuple[Intervention, ...], ...]
    kinds: tuple[str, ...]
    """The kind of the nodes of each trial; "several" where they are of more than one."""
    predicted: Float[Tensor, " n_trials"]
    """Predicted of the free model: by slopes, and where a change is not small in the restricted model."""
    first_order: Float[Tensor, " n_trials"]
    """Predicted of the free model by slopes alone: Σ (factor - 1) · slope (`analysis.graphs.effects`)."""
    predicted_held: Float[Tensor, " n_trials"]
    """Predicted of the held model, by the polynomial of the weights."""
    held: Float[Tensor, " n_trials"]
    """Measured in the model, with attention patterns and scales of norms frozen."""
    free: Float[Tensor, " n_trials"]
    """Measured in the model, with everything free to change."""
    control_held: Float[Tensor, "n_controls n_trials"]
    """As `held`, with random nodes of equal weight in place of those of the trial."""
    control_free: Float[Tensor, "n_controls n_trials"]

    @property
    def correlation_held(self) -> float:
        """Correlation of `predicted_held` with `held`; NaN for fewer than two trials or without variance."""
        return self.agreement(held=True).correlation

    @property
    def correlation_free(self) -> float:
        """Correlation of `predicted` with `free`."""
        return self.agreement().correlation

    def agreement(self, kind: str | None = None, held: bool = False) -> Agreement:
        """How predicted and measured changes agree, of all trials or of those with nodes of one kind."""
        rows = self._rows(kind)
        pair = (self.predicted_held, self.held) if held else (self.predicted, self.free)
        return Agreement.of(*(changes[rows] for changes in pair))

    def random_agreement(self, kind: str | None = None) -> Agreement:
        """The same for random nodes of equal weight in place of the graph's: what it is without the graph."""
        rows = self._rows(kind)
        repeated = self.predicted[rows].expand(len(self.control_free), -1)
        return Agreement.of(repeated.flatten(), self.control_free[:, rows].flatten())

    @property
    def strength(self) -> float:
        """How many times larger the changes by the graph's nodes are than those by random ones: mean |free|
        over mean |control_free|; NaN without controls."""
        return self.strength_of(None)

    def strength_of(self, kind: str | None) -> float:
        """`strength` of the trials with nodes of one kind."""
        rows = self._rows(kind)
        return float(self.free[rows].abs().mean() / self.control_free[:, rows].abs().mean())

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """The numbers of each kind of node, as JSON can hold them; None where one is not defined."""
        result: dict[str, dict[str, float | int | None]] = {}
        for kind in dict.fromkeys(self.kinds):
            free, held, random = (
                self.agreement(kind),
                self.agreement(kind, held=True),
                self.random_agreement(kind),
            )
            numbers: dict[str, float] = {"n": free.n}
            for name, agreement in (("free", free), ("held", held), ("random", random)):
                numbers |= {
                    f"{name}_correlation": agreement.correlation,
                    f"{name}_slope": agreement.slope,
                    f"{name}_size": agreement.size,
                }
            numbers["strength"] = self.strength_of(kind)
            result[kind] = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return result

    def by_node(self) -> dict[str, dict[str, float | list[float]]]:
        """The numbers of each trial of one node ablated, by the node's id, as JSON can hold them.

        `predicted` beside `free`, `predicted_held` beside `held`, and in `random_free` and `random_held` the
        changes by random nodes of equal weight in its place.
        """
        columns = ("predicted", "free", "predicted_held", "held")
        result: dict[str, dict[str, float | list[float]]] = {}
        for row, trial in enumerate(self.trials):
            if len(trial) == 1 and trial[0].factor == 0:
                numbers: dict[str, float | list[float]] = {
                    name: float(getattr(self, name)[row]) for name in columns
                }
                numbers["random_free"] = self.control_free[:, row].tolist()
                numbers["random_held"] = self.control_held[:, row].tolist()
                result[trial[0].node] = numbers
        return result

    def _rows(self, kind: str | None) -> list[int]:
        if kind is not None and kind not in self.kinds:
            raise InputError(f"kind {kind!r}; expected one of {', '.join(sorted(set(self.kinds)))}")
        return [row for row, own in enumerate(self.kinds) if kind is None or own == kind]
