"""What can be attributed on a prompt: logits, features, directions, eigenvectors, attention scores.

Positions count from 0; negative ones count from the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution_mlp import read_feature
from analysis.attribution_parts import BOTTOM, Linear, Quadratic, Reader, Score, Source, Write
from analysis.attribution_prompt import Prompt
from analysis.eigen import eigendecompose
from analysis.graph import Node
from analysis.graph_nodes import feature_node, logit_node
from bilinear_lm.dictionary import Point, Site
from bilinear_lm.errors import InputError


@dataclass(frozen=True)
class LogitTarget:
    """The logit of a token, less the mean of those of the tokens `against`."""

    token: int
    against: tuple[int, ...] = ()
    position: int = -1
    """Where the next token is predicted."""


@dataclass(frozen=True)
class FeatureTarget:
    """The code of a feature that is active at a position, at mlp-in, resid-mid or mlp-out."""

    site: Site
    feature: int
    position: int = -1


@dataclass(frozen=True)
class DirectionTarget:
    """vector · activations of a site at a position.

    At mlp-out this is an output direction of an MLP; at resid-pre, resid-mid, mlp-in and resid-post it is
    linear in the residual stream.
    """

    site: Site
    vector: Float[Tensor, " d_model"]
    position: int = -1


@dataclass(frozen=True)
class EigenvectorTarget:
    """λ (v · x)², what one eigenvector adds to direction · MLP(x), at x = resid-mid / rms(resid-mid).

    v is that of `eigendecompose(mlp_tensor(model, layer), direction)` with number `rank`.
    """

    layer: int
    direction: Float[Tensor, " d_model"]
    rank: int = 0
    position: int = -1


@dataclass(frozen=True)
class ScoreTarget:
    """The score by which a head attends from a query's position to a key's, before the softmax.

    With `against`, how much larger it is than that of another key: softmax depends on such differences alone.
    """

    layer: int
    head: int
    query: int
    key: int | None = None
    """None: where the head attends to most."""
    against: int | None = None


Target = LogitTarget | FeatureTarget | DirectionTarget | EigenvectorTarget | ScoreTarget

_LINEAR: dict[Point, int] = {"resid-pre": 0, "resid-mid": 1, "mlp-in": 1, "resid-post": 2}


def read_target(prompt: Prompt, target: Target) -> tuple[Source, Reader]:
    """The node of a target, with its measured value, and how it is read; InputError if there is none."""
    if isinstance(target, LogitTarget):
        return _logit(prompt, target)
    if isinstance(target, FeatureTarget):
        return _feature(prompt, target)
    if isinstance(target, EigenvectorTarget):
        return _eigenvector(prompt, target)
    if isinstance(target, ScoreTarget):
        return _score(prompt, target)
    return _direction(prompt, target)


def _logit(prompt: Prompt, target: LogitTarget) -> tuple[Source, Reader]:
    position, n = prompt.position(target.position), prompt.W_U.shape[1]
    for token in (target.token, *target.against):
        if not 0 <= token < n:
            raise InputError(f"token {token} does not exist; expected 0 to {n - 1}")
    w, value = prompt.W_U[:, target.token], prompt.measured.logits[position, target.token]
    if target.against:
        others = list(target.against)
        w = w - prompt.W_U[:, others].mean(dim=1)
        value = value - prompt.measured.logits[position, others].mean()
    w = w / prompt.measured.final_scale[position]
    node = logit_node([target.token], target.against, position, value=float(value))
    return Source(node, BOTTOM), Linear(2 * prompt.n_layers, position, w)


def _feature(prompt: Prompt, target: FeatureTarget) -> tuple[Source, Reader]:
    found, position = prompt.features(target.site), prompt.position(target.position)
    code = found.code(target.feature, position)
    layer = prompt.layers[target.site.layer]
    if found is layer.inputs:
        source = read_feature(layer, found, target.feature, position, code)
        assert source.reader is not None  # features are read
        return source, source.reader()
    u, constant = found.reading(target.feature)
    node = feature_node(target.site, target.feature, position, value=code)
    written = code * found.dictionary.decoder[target.feature]
    source = Source(node, BOTTOM, write=lambda: Write(target.site, position, written))
    return source, Quadratic(target.site.layer, position, u, constant)


def _direction(prompt: Prompt, target: DirectionTarget) -> tuple[Source, Reader]:
    site, position = target.site, prompt.position(target.position)
    layer, vector = prompt.layer(site.layer), _checked(prompt, target.vector)
    at_mlp_out = site.point == "mlp-out"
    if at_mlp_out:
        value = layer.measured.mlp_out[position] @ vector
        reader: Reader = Quadratic(site.layer, position, vector)
    elif site.point in _LINEAR:
        w = layer.from_stream(vector, position, "mlp-in") if site.point == "mlp-in" else vector
        last = site.layer + 1 == prompt.n_layers
        after = prompt.measured.resid_final if last else prompt.layers[site.layer + 1].measured.resid_pre
        streams = (layer.measured.resid_pre, layer.measured.resid_mid, after)
        value = streams[_LINEAR[site.point]][position] @ w
        reader = Linear(2 * site.layer + _LINEAR[site.point], position, w)
    else:
        raise InputError(f"a direction at {site}; expected one at mlp-out or at {', '.join(_LINEAR)}")
    node = _target_node(f"direction {site}", site.layer, position, value)
    return Source(node, BOTTOM, write=_along(vector, node, site)), reader


def _eigenvector(prompt: Prompt, target: EigenvectorTarget) -> tuple[Source, Reader]:
    position, layer = prompt.position(target.position), prompt.layer(target.layer)
    direction, tensor = _checked(prompt, target.direction), layer.normalised
    if not 0 <= target.rank < tensor.d_in:
        raise InputError(f"eigenvector {target.rank} does not exist; expected 0 to {tensor.d_in - 1}")
    found = eigendecompose(tensor, direction)
    x = layer.measured.resid_mid[position] / layer.measured.ln2_scale[position]
    if tensor.constant:
        x = torch.nn.functional.pad(x, (0, 1), value=1.0)
    value = found.activations(x)[target.rank]
    name = f"eigenvector {target.rank} of {target.layer}-mlp-out"
    reader = Quadratic(target.layer, position, direction, rank=target.rank)
    node = _target_node(name, target.layer, position, value)
    return Source(node, BOTTOM, write=_along(direction, node, Site(target.layer, "mlp-out"))), reader


def read_score(prompt: Prompt, target: ScoreTarget) -> Score:
    """Where a score is read, positions from 0; InputError unless the head exists and reads there."""
    query = prompt.position(target.query)
    key, against = (
        None if place is None else prompt.position(place) for place in (target.key, target.against)
    )
    layer, head = prompt.layer(target.layer), target.head
    attention = layer.attention
    if not 0 <= head < attention.n_heads:
        raise InputError(
            f"head {target.layer}.{head} does not exist; layer {target.layer} has heads 0 to "
            f"{attention.n_heads - 1}"
        )
    if key is None:
        key = int(layer.measured.attention.pattern[head, query].argmax())
    for place in (key, against):
        if place is not None and not 0 <= query - place <= attention.max_offset:
            raise InputError(
                f"position {query} does not read position {place} in layer {target.layer}; expected a key at "
                f"most {attention.max_offset} positions before the query, and none after it"
            )
    return Score(target.layer, head, query, key, against)


def _score(prompt: Prompt, target: ScoreTarget) -> tuple[Source, Reader]:
    reader = read_score(prompt, target)
    query, key, against = reader.query, reader.key, reader.against
    scores = prompt.layers[target.layer].measured.attention.scores[target.head, query]
    value = scores[key] if against is None else scores[key] - scores[against]
    versus = "" if against is None else f" - {against}"
    name = f"score {target.layer}.{target.head} @{query}<-{key}{versus}"
    node = Node(
        name, "target", layer=target.layer, position=query, index=target.head, key=key, value=float(value)
    )
    return Source(node, BOTTOM), reader


def _target_node(name: str, layer: int, position: int, value: Tensor) -> Node:
    return Node(f"{name} @{position}", "target", layer=layer, position=position, value=float(value))


def _along(u: Tensor, node: Node, site: Site) -> Callable[[], Write]:
    """The shortest vector at a site that has the value of a node along u."""
    return lambda: Write(site, node.position or 0, (node.value or 0.0) * u / u.square().sum())


def _checked(prompt: Prompt, vector: Tensor) -> Tensor:
    width = prompt.like.shape[-1]
    if vector.shape != (width,) or not bool(torch.isfinite(vector).all()):
        raise InputError(
            f"a direction of shape {list(vector.shape)}; expected [{width}], the width of the model, and "
            "finite numbers"
        )
    return vector.to(prompt.like)
