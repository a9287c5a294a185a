"""Gated linear units of a transformers model, recognised by what they compute.

A GLU is down(σ(gate(x)) * up(x)), with gate and up as two projections (Llama, Mistral, Qwen, Gemma, OLMo 2,
Granite) or as the two halves of one (Phi-3). It is found by the shapes of a module's projections and proved
by comparing the module's output with the formula at random points: names decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from bilinear_lm.errors import InputError
from bilinear_lm.families import require_unhooked
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.weights import is_linear

_PROBES = 3

_PREACTIVATION = 2.0
"""Root mean square of the larger projection at the probes, where an activation is far from a line."""


@dataclass(frozen=True)
class GLU:
    """The parts of a GLU in its module."""

    name: str
    """Name of the module in the model."""
    module: nn.Module
    activation_name: str
    gate: str
    up: str
    """The same as `gate` where one projection holds both, one after the other."""
    down: str
    gate_first: bool = True
    """Whether the gate is the first half, where one projection holds both."""

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """σ."""
        return getattr(self.module, self.activation_name)

    def set_activation(self, activation: nn.Module) -> None:
        """Puts another function in the place of σ."""
        setattr(self.module, self.activation_name, activation)

    @property
    def fused(self) -> bool:
        """Whether gate and up are halves of one projection."""
        return self.gate == self.up

    @property
    def projections(self) -> tuple[nn.Linear, ...]:
        """The modules that hold the weights, each once."""
        return tuple(getattr(self.module, name) for name in dict.fromkeys((self.gate, self.up, self.down)))

    def factors(self) -> GLUWeights:
        """The weights as they lie in the module: views, which change with it."""
        gate, up, down = (getattr(self.module, name) for name in (self.gate, self.up, self.down))
        weights, biases = [gate.weight, up.weight], [gate.bias, up.bias]
        if self.fused:
            weights = list(gate.weight.chunk(2))
            biases = [None, None] if gate.bias is None else list(gate.bias.chunk(2))
            if not self.gate_first:
                weights.reverse()
                biases.reverse()
        W_gate, W_in = (weight.detach().T for weight in weights)
        b_gate, b_in, b_out = (None if bias is None else bias.detach() for bias in (*biases, down.bias))
        return GLUWeights(W_gate, W_in, down.weight.detach().T, b_gate, b_in, b_out)

    def write(self, factors: GLUWeights) -> None:
        """Copies weights into the module, whose own precision and device they take.

        Biases that the module lacks are added to it; so they are in its parameters from then on.
        """
        self._require_places(factors)
        if factors.b_gate is not None:
            for projection in self.projections:
                if projection.bias is None:
                    weight = projection.weight
                    projection.bias = nn.Parameter(weight.new_zeros(len(weight)), weight.requires_grad)
        for name, own in self.factors().weights.items():
            value = getattr(factors, name)
            own.zero_() if value is None else own.copy_(value)

    def _require_places(self, factors: GLUWeights) -> None:
        biases = [value is not None for value in (factors.b_gate, factors.b_in, factors.b_out)]
        if any(biases) and not all(biases):
            raise InputError(f"{self.name}: biases of some projections only; give all three or none")
        own = self.factors()
        for name in ("W_gate", "W_in", "W_out"):
            got, expected = getattr(factors, name).shape, getattr(own, name).shape
            if got != expected:
                raise InputError(f"{self.name}: {name} is {list(got)}; expected {list(expected)}")


def find_glus(model: nn.Module) -> tuple[GLU, ...]:
    """All GLUs of a model, in the order of its modules.

    Raises InputError for a model that has none, or that has other MLPs beside them: modules inside its
    blocks that hold matrices and are neither GLUs nor attention; and for a hooked one.
    """
    require_unhooked(model, "whose MLPs are to be changed")
    glus: list[GLU] = []
    others: list[str] = []
    for name, block in _blocks(model):
        _search(name, block, glus, others)
    if not glus:
        named = f"; its blocks hold {', '.join(others[:5])}" if others else "; it has no list of blocks"
        raise InputError(
            f"no gated MLP found in {type(model).__name__}{named}: expected down(activation(gate(x)) * up(x))"
        )
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise InputError(
            f"{len(glus)} gated MLPs found in {type(model).__name__}, but {', '.join(others[:5])}{more} are "
            "neither gated MLPs nor attention; such a model would be changed in part only"
        )
    return tuple(glus)


def bilinear_glus(glus: tuple[GLU, ...]) -> tuple[GLU, ...]:
    """The GLUs whose gate is linear already."""
    return tuple(glu for glu in glus if is_linear(glu.activation))


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The entries of the outermost module lists: the layers of the model, with their names."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in inside):
            inside.append(name)
            yield from ((f"{name}.{key}", block) for key, block in module.named_children())


def _search(name: str, module: nn.Module, glus: list[GLU], others: list[str]) -> None:
    """Sorts a part of a block: GLUs, attention and norms (passed over), and other parts with matrices."""
    if glu := _as_glu(name, module):
        glus.append(glu)
    elif not _is_attention(name, module):
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            others.append(f"{name} ({type(module).__name__})")
        for key, child in module.named_children():
            _search(f"{name}.{key}", child, glus, others)


def _is_attention(name: str, module: nn.Module) -> bool:
    words = (name.rpartition(".")[2] + type(module).__name__).lower()
    return "attn" in words or "attention" in words


def _as_glu(name: str, module: nn.Module) -> GLU | None:
    """The parts of a module that computes a GLU; None for any other."""
    children = dict(module.named_children())
    linear = {key: child for key, child in children.items() if isinstance(child, nn.Linear)}
    rest = [key for key in children if key not in linear]
    matrices = (p for key in rest for p in children[key].parameters() if p.dim() > 1)
    if any(True for _ in matrices) or list(module.parameters(recurse=False)):
        return None
    activations = [*rest, *(key for key, value in vars(module).items() if _is_function(value))]
    candidates = [
        GLU(name, module, activation, *parts) for parts in _assignments(linear) for activation in activations
    ]
    return next((glu for glu in candidates if _computes(glu)), None)


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, nn.Module)) and hasattr(value, "__name__")


def _assignments(linear: dict[str, nn.Linear]) -> Iterator[tuple[str, str, str, bool]]:
    """The projections that may be gate, up and down, by shape, in the order in which they were made."""
    shapes = {key: tuple(child.weight.shape) for key, child in linear.items()}
    if len(shapes) == 3:
        for gate, up, down in permutations(shapes):
            if shapes[gate] == shapes[up] and shapes[gate][0] == shapes[down][1]:
                yield gate, up, down, True
    elif len(shapes) == 2:
        for both, down in permutations(shapes):
            if shapes[both][0] == 2 * shapes[down][1]:
                yield from ((both, both, down, gate_first) for gate_first in (True, False))


def _computes(glu: GLU) -> bool:
    """Whether the module's output is that of the GLU; without numbers (on the meta device) shapes decide."""
    factors = glu.factors()
    if factors.W_gate.is_meta:
        return True
    weight = factors.W_gate
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(1, _PROBES, len(weight), generator=draws).to(weight)
    matrices = [W for W in (factors.W_gate, factors.W_in) if W is not None]
    size = max(float((x @ W).float().square().mean()) for W in matrices) ** 0.5
    x = x * (_PREACTIVATION / size) if size > 0 else x
    training = glu.module.training
    glu.module.eval()
    try:
        with torch.no_grad():
            got, expected = glu.module(x), factors.output(x, glu.activation)
    finally:
        glu.module.train(training)
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return False
    error = (got - expected).float().norm()
    return bool(error <= torch.finfo(weight.dtype).eps ** 0.5 * expected.float().norm())
