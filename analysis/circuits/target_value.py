"""The value of a target in a run of the model, with or without interventions."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.attention.pattern import attend
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.prompt.targets import read_score
from analysis.circuits.targets import (
    DirectionTarget,
    EigenvectorTarget,
    FeatureTarget,
    LogitTarget,
    ScoreTarget,
    Target,
)
from analysis.spectra.eigen import eigendecompose
from bilinear_lm.families import attention_norm, mlp_norm, plain
from bilinear_lm.norms import norm_epsilon, norm_scale
from bilinear_lm.sites import Site, observed


def read_measured(
    model: nn.Module, prompt: Prompt, target: Target, ids: Int[Tensor, "batch pos"], held: bool
) -> Float[Tensor, " batch"]:
    """The target's value for each row of a batch, with whatever hooks the model has at the moment.

    For a feature it is the linear map that gives its code where it is active, also where others exceed it
    or it is below zero. `held` says that scales of norms are those of `prompt`. Gradients pass where they are
    enabled.
    """
    if isinstance(target, LogitTarget):
        logits = model(input_ids=ids, use_cache=False).logits[:, prompt.position(target.position)]
        return target.of(logits.to(prompt.like.dtype))
    if isinstance(target, ScoreTarget):
        return _score(model, prompt, target, _at(model, prompt, Site(target.layer, "resid-pre"), ids), held)
    position = prompt.position(target.position)
    if isinstance(target, FeatureTarget):
        direction, constant = prompt.features(target.site).reading(target.feature)
        return _at(model, prompt, target.site, ids)[:, position] @ direction + constant
    if isinstance(target, DirectionTarget):
        x = _at(model, prompt, target.site, ids)
        return x[:, position] @ target.vector.to(x)
    x = _at(model, prompt, Site(target.layer, "resid-mid"), ids)[:, position]
    return _eigenvector(model, prompt, target, x, held)


def _eigenvector(
    model: nn.Module, prompt: Prompt, target: EigenvectorTarget, x: Tensor, frozen: bool
) -> Tensor:
    layer, position = prompt.layers[target.layer], prompt.position(target.position)
    norm, tensor = plain(mlp_norm(model, target.layer)), layer.block.folded
    if norm is not None:
        measured = layer.measured.ln2_scale[position]
        x = x / (measured if frozen else norm_scale(x, norm_epsilon(norm)).unsqueeze(-1))
    if tensor.constant:
        x = torch.nn.functional.pad(x, (0, 1), value=1.0)
    eigen = eigendecompose(tensor, target.direction.to(x))
    return eigen.activations(x)[:, target.rank]


def _score(model: nn.Module, prompt: Prompt, target: ScoreTarget, streams: Tensor, frozen: bool) -> Tensor:
    layer, reader = prompt.layers[target.layer], read_score(prompt, target)
    attention, norm = layer.attention, plain(attention_norm(model, target.layer))
    values = []
    for x in streams:
        scale = layer.measured.ln1_scale
        if norm is not None and not frozen:
            scale = norm_scale(x, norm_epsilon(norm))
        scores = attend(attention, x / scale.unsqueeze(-1), layer.turns).scores_at(target.head, reader.query)
        against = 0.0 if reader.against is None else scores[reader.against]
        values.append(scores[reader.key] - against)
    return torch.stack(values)


def _at(model: nn.Module, prompt: Prompt, site: Site, ids: Tensor) -> Tensor:
    """The activations at a site, in the precision of the measured prompt."""
    seen: dict[Site, Tensor] = {}
    with observed(model, site, seen):
        model(input_ids=ids, use_cache=False)
    return seen[site].clone().to(prompt.like.dtype)
