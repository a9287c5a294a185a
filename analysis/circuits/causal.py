"""Causal check of a graph: intervene on its nodes in the model, and compare with what the graph predicts.

An intervention multiplies a node by a factor: 0 ablates it, 2 doubles it, -1 turns it around. In the model
(factor - 1) · write is added to the activations of a site at a position, where write is the vector that the
node adds there (`Attribution.writes`): for a feature its code times its decoder row, so that the error of its
dictionary stays; for an interaction its part of its output's. The change of the target is measured twice.

With everything **free** it is what the model does. It is predicted at first order by slopes, and where a
change is not small beside the residual stream, as of a token taken away, in the model restricted to the graph
(`analysis.circuits.restricted`). With patterns and scales **held** the model is the polynomial that the
weights add up, which predicts it. Even so it does more than the graph: it responds through features that were
not active and through errors, which a graph keeps as they are, and through the parts that were pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analysis.circuits.agreement import CausalCheck, Intervention
from analysis.circuits.attribution import Attribution
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.readers import Write
from analysis.circuits.restricted import is_large, restricted
from analysis.circuits.target_value import read_measured
from analysis.graphs.effects import effects, predict_target
from analysis.graphs.elements import Node
from analysis.graphs.graph import Graph
from analysis.interventions.frozen import frozen
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Site, replaced

N_CHECKED = 20
"""Nodes that are checked where nothing else is asked for."""

AT_ONCE = 32
"""Trials that run as one batch."""

_PARALLEL = 0.999
"""|cosine| from which on two writes count as the same."""


Trial = Sequence[Intervention]


@checked
def causal_check(
    model: nn.Module,
    attribution: Attribution,
    trials: Sequence[Trial] | None = None,
    *,
    n: int | None = None,
    each_kind: bool = False,
    controls: int = 3,
    seed: int = 0,
) -> CausalCheck:
    """Intervenes in the model by each trial, and compares the target's change with the graph's prediction.

    A trial is one intervention or several together. None: the `n` nodes of largest effect ablated, one at a
    time, by default 20 or as many as there are; with `each_kind` the n of each kind that the graph has. Each
    is repeated with `controls` other random nodes of equal weight: features of the same dictionary (tokens of
    the prompt for tokens, random directions where there is no dictionary) at the same site and position,
    whose write is scaled to the length of the node's.

    Raises InputError for a node that writes nothing (biases, the target, scores), one that is not in the
    graph, and more nodes than there are.

    >>> check = causal_check(model, attribute(model, ids, LogitTarget(13), scope))  # doctest: +SKIP
    >>> check.predicted.shape, check.control_free.shape  # doctest: +SKIP
    (torch.Size([20]), torch.Size([3, 20]))
    """
    if n is not None:
        require_count(n, f"n={n} interventions")
    require_count(controls, f"controls={controls}", "0 or more", least=0)
    require_seed(seed)
    graph, prompt = attribution.graph, attribution.prompt
    chosen = _strongest(attribution, n, each_kind) if trials is None else [tuple(trial) for trial in trials]
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
    by_weights = [
        predict_target(graph, {one.node: one.factor for one in trial}, "weight") - before for trial in chosen
    ]
    first = [sum((one.factor - 1) * slopes[one.node] for one in trial) for trial in chosen]

    def measured(held: bool) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), frozen(model, prompt.measured) if held else nullcontext():
            whole = _target_value(model, attribution, held)
            changes = [changed_values(model, attribution, part, held) - whole for part in (edits, *others)]
        return changes[0], torch.stack(changes[1:]) if controls else changes[0].new_empty(0, len(chosen))

    (at_held, control_held), (at_free, control_free) = measured(True), measured(False)
    first_order = at_held.new_tensor(first)
    return CausalCheck(
        trials=tuple(chosen),
        kinds=tuple(_kind(graph, trial) for trial in chosen),
        predicted=_with_large(model, attribution, edits, first_order),
        first_order=first_order,
        predicted_held=at_held.new_tensor(by_weights),
        held=at_held,
        free=at_free,
        control_held=control_held,
        control_free=control_free,
    )


def _kind(graph: Graph, trial: Trial) -> str:
    kinds = {graph.node(one.node).kind for one in trial}
    return kinds.pop() if len(kinds) == 1 else "several"


def _with_large(
    model: nn.Module, attribution: Attribution, edits: Sequence[Sequence[Write]], first_order: Tensor
) -> Tensor:
    """Predicted changes: those of small edits at first order, the others in the restricted model."""
    large = [row for row, part in enumerate(edits) if is_large(attribution.prompt, part)]
    predicted = first_order.clone()
    if large:
        with torch.no_grad(), restricted(attribution):
            whole = _target_value(model, attribution, held=False)
            values = changed_values(model, attribution, [edits[row] for row in large], held=False)
        predicted[large] = values - whole
    return predicted


def _target_value(model: nn.Module, attribution: Attribution, held: bool) -> Tensor:
    prompt = attribution.prompt
    return read_measured(model, prompt, attribution.target, prompt.measured.ids.unsqueeze(0), held)


def _edits(trials: Sequence[Trial], writes: Sequence[Sequence[Write]]) -> list[list[Write]]:
    """The vectors added to the activations in each trial."""
    return [
        [write.times(one.factor - 1) for one, write in zip(trial, part, strict=True)]
        for trial, part in zip(trials, writes, strict=True)
    ]


def _strongest(attribution: Attribution, n: int | None, each_kind: bool) -> list[tuple[Intervention, ...]]:
    slopes, nodes = effects(attribution.graph), _open_to_trials(attribution)
    nodes.sort(key=lambda node: -abs(slopes[node.id]))
    kinds = dict.fromkeys(node.kind for node in nodes)
    groups = [[node for node in nodes if node.kind == kind] for kind in kinds] if each_kind else [nodes]
    most = max(map(len, groups), default=0)
    if n is not None and n > most:
        raise InputError(
            f"a check of {n} nodes; expected at most the {most} that can be intervened on"
            + (" of one kind" if each_kind else "")
        )
    return [(Intervention(node.id),) for group in groups for node in group[: N_CHECKED if n is None else n]]


def can_intervene(attribution: Attribution) -> bool:
    """Whether the graph has a node that `causal_check` can take away."""
    return bool(_open_to_trials(attribution))


def _open_to_trials(attribution: Attribution) -> list[Node]:
    graph = attribution.graph
    return [graph.node(node) for node in attribution.writes if node in graph and node != graph.target]


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
    return replace(write, vector=vector * scale, tangent=None)


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


def changed_values(
    model: nn.Module, attribution: Attribution, trials: Sequence[Sequence[Write]], held: bool
) -> Float[Tensor, " n_trials"]:
    """The target's value with each trial's edits."""
    prompt, target = attribution.prompt, attribution.target
    one = prompt.measured.ids.unsqueeze(0)
    values = []
    for start in range(0, len(trials), AT_ONCE):
        part = trials[start : start + AT_ONCE]
        with _edited(model, prompt, part):
            values.append(read_measured(model, prompt, target, one.expand(len(part), -1), held))
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
