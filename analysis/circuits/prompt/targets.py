"""Targets of an attribution on a prompt: logits, features, directions, eigenvectors, attention scores.

Positions count from 0; negative ones count from the end of the prompt.
"""

from __future__ import annotations

from torch import Tensor

from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.prompt.sources import Given, ReadFeature, WrittenFeature, shortest
from analysis.circuits.readers import BOTTOM, Linear, Quadratic, Reader, Score, Source, Write
from analysis.circuits.targets import (
    DirectionTarget,
    EigenvectorTarget,
    FeatureTarget,
    LogitTarget,
    ScoreTarget,
    Target,
    checked_direction,
    passed_before,
)
from analysis.features.layer import WRITTEN
from analysis.graphs.elements import Node
from analysis.graphs.nodes import logit_node
from analysis.spectra.eigen import eigendecompose
from bilinear_lm.checks import require_index
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Site


def read_target(prompt: Prompt, target: Target) -> Source:
    """A target's node, with its measured value, and its reader; raises InputError if there is none."""
    if isinstance(target, LogitTarget):
        return _logit(prompt, target)
    if isinstance(target, FeatureTarget):
        return _feature(prompt, target)
    if isinstance(target, EigenvectorTarget):
        return _eigenvector(prompt, target)
    if isinstance(target, ScoreTarget):
        return _score(prompt, target)
    return _direction(prompt, target)


def _logit(prompt: Prompt, target: LogitTarget) -> Source:
    position = prompt.position(target.position)
    w, slope = prompt.logit_directions(target, position)
    value = float(target.of(prompt.measured.logits[position]))
    node = logit_node([target.token], target.against, position, value=value)
    return Given(node, BOTTOM, Linear(2 * prompt.n_layers, w, position=position, slope=slope))


def _feature(prompt: Prompt, target: FeatureTarget) -> Source:
    active, position = prompt.features(target.site), prompt.position(target.position)
    index, layer = active.place(target.feature, position), prompt.layers[target.site.layer]
    return (
        ReadFeature.at(layer, active, index)
        if active is layer.inputs
        else WrittenFeature.at(layer, active, index)
    )


def _direction(prompt: Prompt, target: DirectionTarget) -> Source:
    site, position = target.site, prompt.position(target.position)
    layer, vector = prompt.layer(site.layer), checked_direction(target.vector, prompt.like)
    if site.point == WRITTEN:
        value = layer.measured.mlp_out[position] @ vector
        u, of_change = layer.behind_mlp(vector, position)
        reader: Reader = Quadratic(site.layer, u, position=position, slope=of_change)
    else:
        passed = passed_before(site)
        w = layer.from_stream(vector, position, "mlp-in") if site.point == "mlp-in" else vector
        streams = layer.measured.resid_pre, layer.measured.resid_mid, prompt.resid_post(site.layer)
        value = streams[passed][position] @ w
        slope = layer.gradient_before_mlp(w, position) if site.point == "mlp-in" else w
        reader = Linear(2 * site.layer + passed, w, position=position, slope=slope)
    node = _target_node(f"direction {site}", site.layer, position, value)
    return Given(node, BOTTOM, reader, Write(site, position, shortest(float(value), vector)))


def _eigenvector(prompt: Prompt, target: EigenvectorTarget) -> Source:
    position, layer = prompt.position(target.position), prompt.layer(target.layer)
    direction, tensor = checked_direction(target.direction, prompt.like), layer.block.folded
    require_index(target.rank, tensor.d_in, "eigenvector")
    eigen = eigendecompose(tensor, direction)
    value = eigen.activations(layer.normalised_input(position))[target.rank]
    name = f"eigenvector {target.rank} of {target.layer}-mlp-out"
    reader = Quadratic(target.layer, direction, position=position, rank=target.rank)
    node = _target_node(name, target.layer, position, value)
    write = Write(Site(target.layer, WRITTEN), position, shortest(float(value), direction))
    return Given(node, BOTTOM, reader, write)


def read_score(prompt: Prompt, target: ScoreTarget) -> Score:
    """Where a score is read, positions from 0; InputError unless the head exists and reads there."""
    query = prompt.position(target.query)
    key, against = (
        None if position is None else prompt.position(position) for position in (target.key, target.against)
    )
    layer, head = prompt.layer(target.layer), target.head
    attention = layer.attention
    if not 0 <= head < attention.n_heads:
        raise InputError(
            f"head {target.layer}.{head} does not exist; layer {target.layer} has heads 0 to "
            f"{attention.n_heads - 1}"
        )
    if key is None:
        key = int(layer.measured.attention.pattern_at(slice(query, query + 1))[head].argmax())
    for position in (key, against):
        if position is not None and not 0 <= query - position <= attention.max_offset:
            raise InputError(
                f"position {query} does not read position {position} in layer {target.layer}; expected a key "
                f"at most {attention.max_offset} positions before the query, and none after it"
            )
    return Score(target.layer, head, query, key, against)


def _score(prompt: Prompt, target: ScoreTarget) -> Source:
    reader = read_score(prompt, target)
    query, key, against = reader.query, reader.key, reader.against
    scores = prompt.layers[target.layer].measured.attention.scores_at(target.head, query)
    value = scores[key] if against is None else scores[key] - scores[against]
    versus = "" if against is None else f" - {against}"
    name = f"score {target.layer}.{target.head} @{query}<-{key}{versus}"
    node = Node(
        name, "target", layer=target.layer, position=query, index=target.head, key=key, value=float(value)
    )
    return Given(node, BOTTOM, reader)


def _target_node(name: str, layer: int, position: int, value: Tensor) -> Node:
    return Node(f"{name} @{position}", "target", layer=layer, position=position, value=float(value))
