"""Room for more hidden units in every MLP of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilinear_lm.errors import InputError
from bilinear_lm.glus import GLU, bilinear_glus, find_glus
from finetune.editing.units import Units
from finetune.pretraining.model_config import require_declared

_SIZE = "intermediate_size"


def editable_glus(model: PreTrainedModel) -> tuple[GLU, ...]:
    """The MLPs of a bilinear model by layer; InputError for one that has others, or cannot be widened."""
    glus = find_glus(model)
    if others := [glu.name for glu in glus if glu not in bilinear_glus(glus)]:
        raise InputError(
            f"{others[0]} has a gate with an activation; expected a bilinear model: make it one with "
            "finetune.convert, or `bilinear-lm convert MODEL -o DIR`"
        )
    config: Any = model.config
    width = getattr(config, _SIZE, None)
    if len(glus) != config.num_hidden_layers or any(glu.factors().W_out.shape[0] != width for glu in glus):
        raise InputError(
            f"a {config.model_type} model whose MLPs do not all have config.{_SIZE}={width} hidden units; "
            "expected one that has"
        )
    return glus


def add_units(model: PreTrainedModel, glus: tuple[GLU, ...], units: dict[int, Units]) -> int:
    """Adds hidden units to layers of a model, in place; returns how many each layer has got.

    One number, `intermediate_size`, holds for all layers of a transformers model: those with fewer units than
    the most get units of zeros.
    """
    n = max(map(len, units.values()))
    for layer, glu in enumerate(glus):
        _widen(glu, units.get(layer), n)
        if hasattr(glu.module, _SIZE):
            setattr(glu.module, _SIZE, glu.factors().W_out.shape[0])
    setattr(model.config, _SIZE, glus[0].factors().W_out.shape[0])
    require_declared(model, glus)
    return n


def _widen(glu: GLU, units: Units | None, n: int) -> None:
    weights = glu.factors()
    assert weights.W_in is not None  # of a gated unit
    own = {"gate": weights.W_gate, "up": weights.W_in, "down": weights.W_out.T}
    given = {} if units is None else {"gate": units.W_gate, "up": units.W_in, "down": units.W_out.T}
    columns = {
        name: torch.cat([part, _padded(given.get(name), part, n)], dim=1) for name, part in own.items()
    }
    biases = {"gate": weights.b_gate, "up": weights.b_in}
    longer = {
        name: None if bias is None else torch.cat([bias, bias.new_zeros(n)]) for name, bias in biases.items()
    }
    module = glu.module
    _put(module, glu.down, columns["down"], weights.b_out)
    if not glu.fused:
        _put(module, glu.gate, columns["gate"].T, longer["gate"])
        _put(module, glu.up, columns["up"].T, longer["up"])
        return
    order = ("gate", "up") if glu.gate_first else ("up", "gate")
    bias = (
        None
        if longer["gate"] is None
        else torch.cat([part for name in order if (part := longer[name]) is not None])
    )
    _put(module, glu.gate, torch.cat([columns[name].T for name in order]), bias)


def _padded(given: Tensor | None, like: Tensor, n: int) -> Tensor:
    """The columns given and zeros, n in all."""
    if given is None:
        return like.new_zeros(len(like), n)
    return torch.nn.functional.pad(given.to(like), (0, n - given.shape[1]))


def _put(module: nn.Module, name: str, weight: Tensor, bias: Tensor | None) -> None:
    """A linear map with these weights in the place of a child of a module."""
    old: Any = getattr(module, name)
    new = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        new.weight.copy_(weight)
        if bias is not None:
            new.bias.copy_(bias)
    new.requires_grad_(old.weight.requires_grad)
    new.train(old.training)
    setattr(module, name, new)
