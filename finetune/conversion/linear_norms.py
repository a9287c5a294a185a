"""Linear stand-ins for norms, so that a bilinear model becomes a polynomial in what its attention weights.

An RMSNorm γ x / rms(x) becomes w x with a fixed w, one number a channel: first γ c, with c the least-squares
factor for x / rms(x) ≈ c x on a text, then trained. As a checkpoint it is a Llama whose RMSNorms are linear
to float32 rounding: epsilon 1e12 and weights 1e6 w.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilinear_lm.errors import InputError
from bilinear_lm.families import require_unhooked
from bilinear_lm.norms import IDENTITY_EPS, normalised

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose only norms are RMSNorms γ x / rms(x) of one epsilon."""

_MARK = "RMSNorm"


class AnnealedNorm(nn.Module):
    """(1 - t) · norm(x) + t · w ∘ x, with t its `linearity`."""

    def __init__(self, norm: Any, factor: float):
        super().__init__()
        self.linearity = 0.0
        self.norm = norm
        self.weight = nn.Parameter(norm.weight.detach() * factor)

    def forward(self, x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        """The norm, or the mixture that stands for it, at x."""
        if self.linearity == 1:
            return x * self.weight
        return torch.lerp(self.norm(x), x * self.weight, self.linearity)


def annealed_norms(model: nn.Module) -> tuple[AnnealedNorm, ...]:
    """The stand-ins in a model, whatever wraps it."""
    return tuple(module for module in model.modules() if isinstance(module, AnnealedNorm))


def anneal_norms(model: PreTrainedModel, factors: dict[str, float]) -> tuple[AnnealedNorm, ...]:
    """Puts an `AnnealedNorm` in the place of each norm, at linearity 0, with its factor by `norm_factors`."""
    made = []
    for name, norm in _norms(model).items():
        parent, _, key = name.rpartition(".")
        made.append(AnnealedNorm(norm, factors[name]))
        setattr(model.get_submodule(parent), key, made[-1])
    return tuple(made)


def norm_factors(model: PreTrainedModel, windows: Int[Tensor, "window pos"]) -> dict[str, float]:
    """c = E[x · x/rms(x)] / E[x · x] of every norm by name, over its inputs in the windows of a text."""
    norms = _norms(model)
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in norms}

    def watch(name: str, norm: Any) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach()
            unit = normalised(norm, x)
            sums[name] += torch.stack([(x * unit).double().sum(), x.double().square().sum()]).cpu()

        return norm.register_forward_pre_hook(hook)

    handles = [watch(name, norm) for name, norm in norms.items()]
    try:
        with torch.no_grad():
            for batch in windows.split(8):
                model(input_ids=batch.to(model.device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(pair[0] / pair[1]) for name, pair in sums.items()}


def _norms(model: PreTrainedModel) -> dict[str, Any]:
    if model.config.model_type not in FAMILIES:
        raise InputError(
            f"norms of a {model.config.model_type} model; expected a model of {', '.join(FAMILIES)} for "
            "linear norms"
        )
    require_unhooked(model, "whose norms are to be changed")
    return {name: module for name, module in model.named_modules() if type(module).__name__.endswith(_MARK)}


def fold_norms(model: PreTrainedModel) -> None:
    """Writes stand-ins at linearity 1 as RMSNorms of epsilon 1e12, and this epsilon into the configuration.

    Raises InputError for stand-ins that are not linear yet.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, AnnealedNorm):
            if module.linearity != 1:
                raise InputError(f"{name} has come {module.linearity:.0%} of the way to linear; train on")
            norm = module.norm
            with torch.no_grad():
                norm.weight.copy_(module.weight * IDENTITY_EPS**0.5)
            norm.variance_epsilon = IDENTITY_EPS
            parent, _, key = name.rpartition(".")
            setattr(model.get_submodule(parent), key, norm)
    model.config.rms_norm_eps = IDENTITY_EPS
