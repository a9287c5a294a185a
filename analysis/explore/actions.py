"""Requests of the page as functions of the model: each answers one of them.

They put together what the library has and add no method of their own: `attribute`, `static_circuit`,
`causal_check` and `sample`, with the texts of tokens and the names of features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.circuits.agreement import Intervention, patch_node
from analysis.circuits.attribution import Attribution, attribute
from analysis.circuits.causal import can_intervene, causal_check
from analysis.circuits.labels import labelled
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.static import static_circuit
from analysis.explore.edited import (
    NextToken,
    Said,
    Writing,
    next_token_list,
    said,
    with_direction,
    with_writes,
)
from analysis.explore.opened import Opened, feature_of, target_of, target_on
from analysis.graphs.graph import Graph
from analysis.text.windows import prompt_ids
from bilinear_lm.errors import InputError
from bilinear_lm.progress import tell
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site
from bilinear_lm.text.generate import sample as sample_texts

CONTROLS = 3
"""Random nodes of equal weight that are changed instead of those that were asked for."""

SHARE, STATIC_SHARE = 0.8, 0.5
"""Shares of contributions that graphs keep: on a prompt, and by weights."""


@shown
@dataclass(frozen=True)
class Offered:
    """The tokens that are offered as targets on a prompt."""

    tokens: tuple[NextToken, ...]
    n_tokens: int
    """Tokens of the prompt, a beginning-of-sequence token among them."""
    n_ctx: int
    """Tokens that the model takes."""


def next_tokens(opened: Opened, prompt: str, k: int = 12) -> Offered:
    """The k likeliest tokens behind a prompt; InputError for a prompt that is empty or does not fit.

    >>> next_tokens(Opened.of(model, tokenizer), "Her mom gave her a big").tokens[0]  # doctest: +SKIP
    NextToken(token=1041, label='␣hug', logit=15.8, probability=0.92)
    """
    model = opened.model
    ids = prompt_ids(model, opened.tokenizer, prompt)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].float()
    tokens = next_token_list(logits, opened.vocabulary, k)
    return Offered(tokens, len(ids), model.config.max_position_embeddings)


def prompt_graph(
    opened: Opened, prompt: str, target: int | str | None = None, max_nodes: int = 120
) -> Attribution:
    """The graph of a target on a prompt, with the names of features.

    The target is a token's number (its logit against the mean of the five likeliest others), "A" or
    "A - B, C" as in `attribute`, a feature LAYER-POINT-NUMBER at the last position, or by default the
    likeliest token.
    """
    tell("reading the prompt")
    measured = open_prompt(opened.model, prompt, opened.dictionaries, tokenizer=opened.tokenizer)
    found = attribute(measured, target_on(opened, measured, target), share=SHARE, max_nodes=max_nodes)
    return replace(found, graph=_named(opened, found.graph, prompt))


def checked_graph(opened: Opened, attribution: Attribution) -> Graph:
    """The graph of `prompt_graph` with a check in the model: the strongest nodes of each kind taken away.

    `settings["check"]` and `settings["checked"]` are those of `trace(…, check=True)`; a graph without nodes
    that can be taken away stays as it is.
    """
    graph = attribution.graph
    if not can_intervene(attribution):
        return graph
    tell("checking the graph in the model")
    check = causal_check(opened.model, attribution, each_kind=True)
    settings = {**graph.settings, "check": check.summary(), "checked": check.by_node()}
    return replace(graph, settings=settings)


def weight_circuit(opened: Opened, target: int | str, max_nodes: int = 120) -> Graph:
    """The circuit of a token's logit or of a feature from weights alone, with the names of features."""
    found = target_of(opened, target)
    circuit = static_circuit(
        opened.model,
        found,
        opened.dictionaries,
        share=STATIC_SHARE,
        max_nodes=max_nodes,
        tokenizer=opened.tokenizer,
    )
    return _named(opened, circuit)


def _named(opened: Opened, graph: Graph, prompt: str | None = None) -> Graph:
    settings = graph.settings if prompt is None else {**graph.settings, "prompt": prompt}
    return labelled(replace(graph, settings=settings), opened.vocabulary, opened.names)


@shown
@dataclass(frozen=True)
class Change:
    """A node to change: times a factor, to a value, or to the value that it has on another prompt."""

    node: str
    factor: float | None = None
    value: float | None = None
    patch: str | None = None


@shown
@dataclass(frozen=True)
class Intervened:
    """The effect of changed nodes on the target, predicted by the graph and measured in the model."""

    changes: tuple[Intervention, ...]
    """The nodes with the factors that they were multiplied by."""
    target: float
    """The target before."""
    predicted: float
    """Its change as the graph predicts it, everything free (`CausalCheck.predicted`)."""
    measured: float
    """Its change in the model, everything free."""
    predicted_held: float
    """The same with attention patterns and scales of norms held."""
    measured_held: float
    random: tuple[float, ...]
    """Measured changes with random nodes of equal weight in the place of these, everything free."""
    random_held: tuple[float, ...]
    before: Said
    after: Said


def intervene(
    opened: Opened,
    attribution: Attribution,
    prompt: str,
    changes: Sequence[Change],
    writing: Writing | None = None,
    seed: int = 0,
) -> Intervened:
    """Changes nodes of a graph together, in the model on the graph's prompt.

    `attribution` is of `prompt_graph`. Raises InputError for nodes that cannot be changed, as `causal_check`
    does, for a node that comes twice, and for a patch of anything but a feature.
    """
    trial = [_intervention(opened, attribution, change) for change in changes]
    names = [one.node for one in trial]
    if len({*names}) < len(names):
        raise InputError("a node comes twice among the changes; expected each once")
    tell("changing the nodes in the model")
    check = causal_check(opened.model, attribution, [trial], controls=CONTROLS, seed=seed)
    writes = [attribution.writes[one.node].times(one.factor - 1) for one in trial]
    edited = partial(with_writes, opened.model, writes, attribution.prompt.n_pos)
    before, after = _before_and_after(opened, prompt, writing or Writing(), [edited])
    return Intervened(
        changes=tuple(trial),
        target=attribution.graph.node(attribution.graph.target).value or 0.0,
        predicted=float(check.predicted[0]),
        measured=float(check.free[0]),
        predicted_held=float(check.predicted_held[0]),
        measured_held=float(check.held[0]),
        random=tuple(check.control_free[:, 0].tolist()),
        random_held=tuple(check.control_held[:, 0].tolist()),
        before=before,
        after=after,
    )


def _before_and_after(
    opened: Opened,
    prompt: str,
    writing: Writing,
    edits: Sequence[Callable[[], AbstractContextManager[object]]],
) -> list[Said]:
    """The answers of the model to a prompt as it is, and with each of the edits."""
    tell("writing before and after")
    speak = partial(said, opened.model, opened.tokenizer, opened.vocabulary, prompt, writing)
    return [speak(), *(speak(edited=edited) for edited in edits)]


def _intervention(opened: Opened, attribution: Attribution, change: Change) -> Intervention:
    given = [way for way in (change.factor, change.value, change.patch) if way is not None]
    if len(given) != 1:
        raise InputError(f"node {change.node!r}: expected one of factor, value and patch")
    node = attribution.graph.node(change.node)
    if change.factor is not None:
        return Intervention(node.id, change.factor)
    value = change.value
    if change.patch is not None:
        value = _value_on(opened, attribution, change.node, change.patch)
    assert value is not None
    return patch_node(attribution.graph, node.id, value)


def _value_on(opened: Opened, attribution: Attribution, name: str, prompt: str) -> float:
    """The code of a feature at the same position of another prompt."""
    node = attribution.graph.node(name)
    if node.kind != "feature" or node.site is None or node.position is None:
        raise InputError(f"node {name!r} cannot be patched from another prompt; expected a feature")
    site = Site.parse(node.site)
    other = open_prompt(opened.model, prompt, opened.dictionaries, tokenizer=opened.tokenizer)
    position = node.position
    if position >= other.n_pos:
        raise InputError(
            f"node {name!r} is at position {position}, and the prompt to patch from has {other.n_pos} "
            f"tokens; expected {position + 1} at least"
        )
    features = other.features(site)
    here = (features.features == node.index) & (features.positions == position)
    return float(features.codes[here].sum())


@shown
@dataclass(frozen=True)
class Steered:
    """The answers of a model with a feature's direction added, and with a random one of the same length."""

    amount: float
    length: float
    """The length of the vector that is added."""
    before: Said
    after: Said
    random: Said


def steer(
    opened: Opened, prompt: str, feature: str, amount: float, writing: Writing | None = None
) -> Steered:
    """Adds amount · decoder row of a feature to its site, at every position of the prompt and behind it.

    Beside it a random direction of the same length, drawn by the seed of `writing`.
    """
    found = feature_of(opened, feature)
    if found is None:
        raise InputError(f"feature {feature!r}; expected LAYER-POINT-NUMBER, such as 2-mlp-out-17")
    site, number = found
    writing = writing or Writing()
    vector = amount * opened.dictionaries[site].decoder[number]
    other = random_direction(vector, writing.seed)
    edits = [partial(with_direction, opened.model, site, one) for one in (vector, other)]
    before, after, random = _before_and_after(opened, prompt, writing, edits)
    return Steered(amount, float(vector.norm()), before, after, random)


def random_direction(vector: Float[Tensor, " width"], seed: int) -> Float[Tensor, " width"]:
    """A random vector of the same length."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(vector), generator=generator, dtype=torch.float64).to(vector)
    return drawn * (vector.norm() / drawn.norm())


def sample(opened: Opened, prompt: str, count: int = 1, writing: Writing | None = None) -> tuple[str, ...]:
    """Continuations of a prompt."""
    writing = writing or Writing(temperature=0.8)
    prompt_ids(opened.model, opened.tokenizer, prompt)
    texts = sample_texts(
        opened.model,
        opened.tokenizer,
        prompt,
        count=count,
        max_tokens=max(1, writing.max_tokens),
        temperature=writing.temperature,
        seed=writing.seed,
    )
    tell("writing", 0, count)
    return tuple(texts)
