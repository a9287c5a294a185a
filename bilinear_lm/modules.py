"""Modules of a transformers model, recognised by what they compute and not by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bilinear_lm.glu_weights import GLUWeights

_PROBES = 3

_PREACTIVATION = 2.0
"""Root mean square of the larger projection at the probes, where an activation is far from a line."""


def blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The entries of the outermost module lists: the layers of the model, with their names."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in inside):
            inside.append(name)
            yield from ((f"{name}.{key}", block) for key, block in module.named_children())


def is_attention(name: str, module: nn.Module) -> bool:
    """Whether a module is called attention, by its own name or its class's."""
    words = (name.rpartition(".")[2] + type(module).__name__).lower()
    return "attn" in words or "attention" in words


def possible_activations(module: nn.Module, projections: dict[str, Any]) -> list[str] | None:
    """The attributes of a module besides its projections that may be an activation.

    None where it cannot be an MLP of these projections: where it has other matrices or weights of its own.
    """
    rest = {key: child for key, child in module.named_children() if key not in projections}
    matrices = (p for child in rest.values() for p in child.parameters() if p.dim() > 1)
    if any(True for _ in matrices) or list(module.parameters(recurse=False)):
        return None
    return [*rest, *(key for key, value in vars(module).items() if _is_function(value))]


def computes(module: nn.Module, weights: GLUWeights, activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether a module's output at random points is that of the weights; on the meta device always."""
    weight = weights.W_gate
    if weight.is_meta:
        return True
    if not _takes_one(module):
        return False
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(1, _PROBES, len(weight), generator=draws).to(weight)
    matrices = [W for W in (weights.W_gate, weights.W_in) if W is not None]
    size = max(float((x @ W).float().square().mean()) for W in matrices) ** 0.5
    x = x * (_PREACTIVATION / size) if size > 0 else x
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            got, expected = module(x), weights.output(x, activation)
    finally:
        module.train(training)
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return False
    error = (got - expected).float().norm()
    return bool(error <= torch.finfo(weight.dtype).eps ** 0.5 * expected.float().norm())


def _takes_one(module: nn.Module) -> bool:
    """Whether a module can be called with one tensor alone."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is each.empty for each in parameters) <= 1


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, nn.Module)) and hasattr(value, "__name__")
