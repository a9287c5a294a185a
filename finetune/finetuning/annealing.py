"""Gates that become linear step by step, and the folding of what is left into the weights.

SiLU is Swish_β(x) = x σ(βx) at β = 1; at β = 0 it is x/2, and the ½ folds into the gate's weights
(arXiv 2410.08417, appendix J, takes β linearly from 1 to 0 over the first 30% of training). Any other
activation is interpolated with the line through the origin that has its slope there. How far a gate has come
is `linearity`, 0 at the start and 1 at the end, a function of the training step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu
from transformers import PreTrainedModel

from bilinear_lm.errors import InputError
from bilinear_lm.glus import find_glus
from finetune.choices import Schedule
from finetune.conversion.convert import slope_at_zero
from finetune.pretraining.model_config import make_linear


def linearity(schedule: Schedule, progress: float, k: float = 1.0) -> float:
    """The linearity of gates at `progress` (0 to 1) of the annealing: 0 at its start, 1 from its end on.

    linear: t; exponential: min(t e^(k - kt), 1), the published TinyStories schedule, with k 0.5 to 1.4;
    logistic: a sigmoid of slope 10 about the middle, shifted and scaled to reach 0 and 1; smootherstep:
    6t⁵ - 15t⁴ + 10t³.
    """
    t = min(max(progress, 0.0), 1.0)
    if schedule == "linear":
        return t
    if schedule == "exponential":
        return min(t * math.exp(k - k * t), 1.0)
    if schedule == "logistic":
        low, here, high = (1 / (1 + math.exp(-10 * (at - 0.5))) for at in (0.0, t, 1.0))
        return (here - low) / (high - low)
    if schedule == "smootherstep":
        return t**3 * (t * (6 * t - 15) + 10)
    raise InputError(f"no schedule {schedule!r}; expected one of {', '.join(get_args(Schedule))}")


class AnnealedGate(nn.Module):
    """An activation on its way to a line: `linearity` says how far."""

    def __init__(self, activation: Callable[[Tensor], Tensor], scale: nn.Parameter | None = None):
        super().__init__()
        self.linearity = 0.0
        self.activation = activation
        self.slope = slope_at_zero(activation)
        self.is_silu = _is_silu(activation)
        self.scale = scale

    def forward(self, x: Float[Tensor, "*axes d_mlp"]) -> Float[Tensor, "*axes d_mlp"]:
        """The activation at x."""
        out = self._swish(x) if self.is_silu else self._interpolated(x)
        return out if self.scale is None else out * self.scale

    def _swish(self, x: Tensor) -> Tensor:
        beta = 1 - self.linearity
        if beta == 1:
            return silu(x)
        return _Swish.apply(x, beta) if beta > 0 else x * self.slope

    def _interpolated(self, x: Tensor) -> Tensor:
        if self.linearity == 1:
            return x * self.slope
        return torch.lerp(self.activation(x), x * self.slope, self.linearity)


class _Swish(torch.autograd.Function):
    """x σ(βx) = silu(βx) / β with the gradient silu'(βx): one tensor is kept, no pass over it wasted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        scaled = x * beta
        ctx.save_for_backward(scaled)
        return silu(scaled).div_(beta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scaled,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient, scaled), None


def anneal_gates(model: PreTrainedModel, learnable: bool = False) -> tuple[AnnealedGate, ...]:
    """Puts an `AnnealedGate` into every GLU of a model, at linearity 0: its output stays what it was.

    `learnable` multiplies each hidden unit's gate by a factor c that is trained, 1 at first (the published
    TinyStories variant).
    """
    gates = []
    for glu in find_glus(model):
        scale = nn.Parameter(torch.ones_like(glu.factors().W_gate[0])) if learnable else None
        gates.append(AnnealedGate(glu.activation, scale))
        glu.set_activation(gates[-1])
    return tuple(gates)


def annealed_gates(model: nn.Module) -> tuple[AnnealedGate, ...]:
    """The gates that `anneal_gates` put into a model, whatever wraps it now."""
    return tuple(module for module in model.modules() if isinstance(module, AnnealedGate))


def fold_gates(model: PreTrainedModel) -> None:
    """Folds slopes and learned factors of gates at linearity 1 into the gate weights; the model is bilinear.

    Raises InputError for gates that are not linear yet.
    """
    gates = annealed_gates(model)
    if early := [gate.linearity for gate in gates if gate.linearity != 1]:
        raise InputError(
            f"{len(early)} of {len(gates)} gates have come {early[0]:.0%} of the way to linear; train on"
        )
    glus = find_glus(model)
    with torch.no_grad():
        for glu in glus:
            gate, factors = glu.activation, glu.factors()
            assert isinstance(gate, AnnealedGate)
            factor = gate.slope if gate.scale is None else gate.slope * gate.scale
            factors.W_gate.mul_(factor)
            if factors.b_gate is not None:
                factors.b_gate.mul_(factor)
    make_linear(model, glus)


def _is_silu(activation: Callable[[Tensor], Tensor]) -> bool:
    probe = torch.linspace(-6, 6, 25, dtype=torch.float64)
    return bool(torch.allclose(activation(probe), silu(probe), rtol=1e-12, atol=1e-12))
