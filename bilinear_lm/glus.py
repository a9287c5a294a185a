"""Gated linear units of a transformers model, recognised by what they compute.

A GLU is down(σ(gate(x)) * up(x)), with gate and up as two projections (Llama, Mistral, Qwen, Gemma, OLMo 2,
Granite) or as the two halves of one (Phi-3). It is found by the shapes of a module's projections and proved
by comparing the module's output with the formula at random points: names decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor, nn

from bilinear_lm.errors import InputError
from bilinear_lm.families import require_unhooked
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.modules import blocks, computes, is_attention, possible_activations
from bilinear_lm.weights import is_linear


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
    for name, block in blocks(model):
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


def _search(name: str, module: nn.Module, glus: list[GLU], others: list[str]) -> None:
    """Sorts a part of a block: GLUs, attention and norms (passed over), and other parts with matrices."""
    if glu := _as_glu(name, module):
        glus.append(glu)
    elif not is_attention(name, module):
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            others.append(f"{name} ({type(module).__name__})")
        for key, child in module.named_children():
            _search(f"{name}.{key}", child, glus, others)


def _as_glu(name: str, module: nn.Module) -> GLU | None:
    """The parts of a module that computes a GLU; None for any other."""
    linear = {key: child for key, child in module.named_children() if isinstance(child, nn.Linear)}
    activations = possible_activations(module, linear)
    if activations is None:
        return None
    candidates = [
        GLU(name, module, activation, *parts) for parts in _assignments(linear) for activation in activations
    ]
    return next((glu for glu in candidates if computes(module, glu.factors(), glu.activation)), None)


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
