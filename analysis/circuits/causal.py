"""Causal check of a graph: intervene on its nodes in the model, and compare with what the graph predicts.

An intervention multiplies a node by a factor: 0 ablates it, 2 doubles it, -1 turns it around. In the model
(factor - 1) · write is added to the activations of a site at a position, where write is the vector that the
node adds there (`Attribution.writes`): for a feature its code times its decoder row, so that the error of its
dictionary stays; for an interaction its part of its output's. The change of the target is measured twice:
with patterns and scales frozen, where the model is the polynomial that was attributed, and with all of it
free. Even frozen, the model does more than the graph: it responds through features that were not active and
through errors, which a graph keeps as they are, and through the parts that were pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analysis.circuits.attribution import Attribution
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.readers import Write
from analysis.circuits.target_value import read_measured
from analysis.graphs.effects import effects, predict_target
from analysis.graphs.graph import Graph
from analysis.interventions.frozen import frozen
from analysis.streaming import PairMoments
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site, replaced

AT_ONCE = 32
"""Trials that run as one batch."""

_PARALLEL = 0.999
"""|cosine| from which on two writes count as the same."""


@dataclass(frozen=True)
class Intervention:
    """A node multiplied by `factor`; in a trial of several, each acts on top of the changes by the others."""

    node: str
    factor: float = 0.0
    """0 ablates, more than 1 steers."""


@checked
def patch_node(graph: Graph, node: str, value: float) -> Intervention:
    """The intervention that gives a node another value."""
    own = graph.node(node).value
    if not own:
        raise InputError(f"node {node!r} has the value {own}; expected one that is not 0, to be changed")
    return Intervention(node, value / own)


Trial = Sequence[Intervention]


@shown
@dataclass(frozen=True)
class CausalCheck:
    """Changes of the target by interventions, as a graph predicts them and as measured in the model."""

    trials: tuple[tuple[Intervention, ...], ...]
    predicted: Float[Tensor, " n_trials"]
    """Predicted by the graph, through all its nodes (`analysis.graphs.effects.predict_target`)."""
    first_order: Float[Tensor, " n_trials"]
    """Predicted by the graph at first order: Σ (factor - 1) · effect (`analysis.graphs.effects.effects`)."""
    held: Float[Tensor, " n_trials"]
    """Measured in the model, with attention patterns and scales of norms frozen."""
    free: Float[Tensor, " n_trials"]
    """Measured in the model, with everything free to change."""
    control_held: Float[Tensor, "n_controls n_trials"]
    """As `held`, with random nodes of equal weight in place of those of the trial."""
    control_free: Float[Tensor, "n_controls n_trials"]

    @property
    def correlation_held(self) -> float:
        """Correlation of `predicted` with `held`; NaN for fewer than two trials or without variance."""
        return float(PairMoments.of(self.predicted, self.held).correlation)

    @property
    def correlation_free(self) -> float:
        """Correlation of `predicted` with `free`."""
        return float(PairMoments.of(self.predicted, self.free).correlation)

    @property
    def strength(self) -> float:
        """How many times larger the changes by the graph's nodes are than those by random ones: mean |free|
        over mean |control_free|; NaN without controls."""
        return float(self.free.abs().mean() / self.control_free.abs().mean())


@checked
def causal_check(
    model: nn.Module,
    attribution: Attribution,
    trials: Sequence[Trial] | None = None,
    *,
    n: int = 20,
    controls: int = 3,
    seed: int = 0,
) -> CausalCheck:
    """Intervenes in the model by each trial, and compares the target's change with the graph's prediction.

    A trial is one intervention or several together. None: the `n` nodes of largest effect ablated, one at a
    time. Each is repeated with `controls` other random nodes of equal weight: features of the same
    dictionary (tokens of the prompt for tokens, random directions where there is no dictionary) at the same
    site and position, whose write is scaled to the length of the node's.

    Raises InputError for a node that writes nothing (biases, the target, scores) and one that is not in the
    graph.

    >>> check = causal_check(model, attribute(model, ids, LogitTarget(13), scope))  # doctest: +SKIP
    >>> check.predicted.shape, check.control_free.shape  # doctest: +SKIP
    (torch.Size([20]), torch.Size([3, 20]))
    """
    require_count(n, f"n={n} interventions")
    require_count(controls, f"controls={controls}", "0 or more", least=0)
    require_seed(seed)
    graph, prompt = attribution.graph, attribution.prompt
    chosen = _strongest(attribution, n) if trials is None else [tuple(trial) for trial in trials]
    if not chosen or not all(chosen):
        raise InputError("no interventions; expected one or more in each trial")
    writes = [[_write(attribution, one.node) for one in trial] for trial in chosen]
    generator = torch.Generator().manual_seed(seed)
    random = [
        [[_random(prompt, write, generator) for write in trial] for trial in writes] for _ in range(controls)
    ]
    edits, *others = (_edits(chosen, part) for part in (writes, *random))
    slopes = effects(graph)
    before = graph.node(graph.target).value or 0.0
    predicted = [predict_target(graph, {one.node: one.factor for one in trial}) - before for trial in chosen]
    first = [sum((one.factor - 1) * slopes[one.node] for one in trial) for trial in chosen]

    def measured(freeze: bool) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), frozen(model, prompt.measured) if freeze else nullcontext():
            whole = read_measured(model, prompt, attribution.target, prompt.measured.ids.unsqueeze(0), freeze)
            changes = [_values(model, attribution, part, freeze) - whole for part in (edits, *others)]
        return changes[0], torch.stack(changes[1:]) if controls else changes[0].new_empty(0, len(chosen))

    (at_held, control_held), (at_free, control_free) = measured(True), measured(False)
    like = at_held
    return CausalCheck(
        trials=tuple(chosen),
        predicted=like.new_tensor(predicted),
        first_order=like.new_tensor(first),
        held=at_held,
        free=at_free,
        control_held=control_held,
        control_free=control_free,
    )


def _edits(trials: Sequence[Trial], writes: Sequence[Sequence[Write]]) -> list[list[Write]]:
    """The vectors added to the activations in each trial."""
    return [
        [
            replace(write, vector=(one.factor - 1) * write.vector)
            for one, write in zip(trial, part, strict=True)
        ]
        for trial, part in zip(trials, writes, strict=True)
    ]


def _strongest(attribution: Attribution, n: int) -> list[tuple[Intervention, ...]]:
    graph = attribution.graph
    slopes = effects(graph)
    nodes = [node for node in attribution.writes if node in graph and node != graph.target]
    nodes.sort(key=lambda node: -abs(slopes[node]))
    return [(Intervention(node),) for node in nodes[:n]]


def _write(attribution: Attribution, node: str) -> Write:
    attribution.graph.node(node)
    if node not in attribution.writes or node == attribution.graph.target:
        raise InputError(
            f"node {node!r} cannot be intervened on: it is the target, or writes nothing that the model "
            "computes there (a bias, part of a score); expected a feature, an interaction, a head, a token …"
        )
    return attribution.writes[node]


def _random(prompt: Prompt, write: Write, generator: torch.Generator) -> Write:
    """A write of the same length, in the direction that another node writes."""
    rows = _others(prompt, write)
    rows = rows[cosine_similarity(rows, write.vector.unsqueeze(0)).abs() < _PARALLEL]
    if len(rows):
        vector = rows[int(torch.randint(len(rows), (), generator=generator))]
    else:
        vector = torch.randn(len(write.vector), generator=generator, dtype=torch.float64).to(write.vector)
    length = vector.norm()
    scale = write.vector.norm() / length if length > 0 else torch.zeros_like(length)
    return replace(write, vector=vector * scale)


def _others(prompt: Prompt, write: Write) -> Float[Tensor, "n d_model"]:
    """Vectors that nodes can write at a site: decoder rows, embeddings of the prompt; none if any can be."""
    layer = prompt.layers[write.site.layer]
    if write.site == Site(0, "resid-pre"):
        return prompt.layers[0].measured.resid_pre
    features = {"mlp-in": layer.inputs, "mlp-out": layer.outputs}.get(write.site.point)
    if features is None:
        return write.vector.new_empty(0, len(write.vector))
    rows = features.dictionary.decoder
    return layer.to_mlp_in(rows, write.position, features.site.point) if features is layer.inputs else rows


def _values(
    model: nn.Module, attribution: Attribution, trials: Sequence[Sequence[Write]], freeze: bool
) -> Float[Tensor, " n_trials"]:
    """The target's value with each trial's edits."""
    prompt, target = attribution.prompt, attribution.target
    one = prompt.measured.ids.unsqueeze(0)
    values = []
    for start in range(0, len(trials), AT_ONCE):
        part = trials[start : start + AT_ONCE]
        with _edited(model, prompt, part):
            values.append(read_measured(model, prompt, target, one.expand(len(part), -1), freeze))
    return torch.cat(values)


@contextmanager
def _edited(model: nn.Module, prompt: Prompt, trials: Sequence[Sequence[Write]]) -> Iterator[None]:
    """While open, each row of a batch has the edits of one trial."""
    deltas: dict[Site, Tensor] = {}
    for row, trial in enumerate(trials):
        for edit in trial:
            if edit.site not in deltas:
                deltas[edit.site] = prompt.like.new_zeros(len(trials), *prompt.like.shape)
            deltas[edit.site][row, edit.position] += edit.vector
    with ExitStack() as stack:
        for site, delta in deltas.items():
            stack.enter_context(replaced(model, site, _adding(delta)))
        yield


def _adding(delta: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x + delta.to(x.dtype)
