"""Keeping the configuration of a transformers model true to its MLPs.

A checkpoint is loaded by its configuration alone: a model whose gates were made linear must say so there,
or it comes back with its old activation.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from bilinear_lm.errors import InputError
from bilinear_lm.glus import GLU
from bilinear_lm.weights import is_linear

LINEAR = "linear"
"""transformers' name of the activation that returns what it is given."""

_ACTIVATION_KEYS = ("hidden_act", "hidden_activation")

_BIAS_KEY = "mlp_bias"


def may_have_biases(model: PreTrainedModel, glus: tuple[GLU, ...]) -> bool:
    """Whether the model's family has an option for biases in its MLPs."""
    if not hasattr(model.config, _BIAS_KEY):
        return False
    config = copy.deepcopy(model.config)
    setattr(config, _BIAS_KEY, True)
    rebuilt = _empty(model, config)
    return all(getattr(rebuilt.get_submodule(glu.name), glu.down).bias is not None for glu in glus)


def require_linear_config(model: PreTrainedModel, glus: tuple[GLU, ...]) -> None:
    """Raises InputError where the family's configuration cannot say that gates are linear."""
    config = copy.deepcopy(model.config)
    _say_linear(config)
    rebuilt = _empty(model, config)
    _require_gates(model, [glu.name for glu in glus if not is_linear(_activation(rebuilt, glu))])


def make_linear(model: PreTrainedModel, glus: tuple[GLU, ...]) -> None:
    """Gives every GLU a linear gate and lets the configuration say so, and whether MLPs have biases.

    Raises InputError where the family's configuration cannot say it: the model that it builds would not be
    this one.
    """
    for glu in glus:
        glu.set_activation(ACT2FN[LINEAR])
    _say_linear(model.config)
    if hasattr(model.config, _BIAS_KEY):
        setattr(model.config, _BIAS_KEY, any(glu.factors().b_out is not None for glu in glus))
    require_declared(model, glus)


def require_declared(model: PreTrainedModel, glus: tuple[GLU, ...]) -> None:
    """Raises InputError unless the configuration builds a model of the same gates and parameters."""
    rebuilt = _empty(model, model.config)
    wrong = [glu.name for glu in glus if is_linear(_activation(rebuilt, glu)) != is_linear(glu.activation)]
    _require_gates(model, wrong)
    own, new = ({name: value.shape for name, value in part.state_dict().items()} for part in (model, rebuilt))
    if differing := sorted(name for name in own.keys() | new.keys() if own.get(name) != new.get(name)):
        raise InputError(
            f"the configuration of a {model.config.model_type} model does not fit its parameters: "
            f"{', '.join(differing[:3])}"
        )


def _say_linear(config: PretrainedConfig) -> None:
    for key in _ACTIVATION_KEYS:
        if getattr(config, key, None) is not None:
            setattr(config, key, LINEAR)


def _activation(rebuilt: nn.Module, glu: GLU) -> Any:
    """The activation of the same GLU in a model built from a configuration."""
    return getattr(rebuilt.get_submodule(glu.name), glu.activation_name)


def _require_gates(model: PreTrainedModel, wrong: list[str]) -> None:
    if wrong:
        raise InputError(
            f"the configuration of a {model.config.model_type} model does not decide the activation of "
            f"{', '.join(wrong[:3])}; such a model cannot be saved as a bilinear one"
        )


def _empty(model: PreTrainedModel, config: PretrainedConfig) -> nn.Module:
    """A model of the same class without weights in memory."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(config))
