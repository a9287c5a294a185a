"""`GLUWeights`: the weights of a gated linear unit with any activation, or of an MLP, which has no W_in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class GLUWeights:
    """[σ(x W_gate + b_gate) ∘ (x W_in + b_in)] W_out + b_out, for row vectors; None for a missing bias.

    Without W_in it is a plain MLP, σ(x W_gate + b_gate) W_out + b_out.

    >>> mlp = GLUWeights(torch.randn(8, 32), None, torch.randn(32, 5))
    >>> mlp.output(torch.randn(100, 8), torch.relu).shape
    torch.Size([100, 5])
    """

    W_gate: Float[Tensor, "d_in d_mlp"]
    W_in: Float[Tensor, "d_in d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_out"]
    b_gate: Float[Tensor, " d_mlp"] | None = None
    b_in: Float[Tensor, " d_mlp"] | None = None
    b_out: Float[Tensor, " d_out"] | None = None

    def hidden(
        self, x: Float[Tensor, "*axes d_in"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*axes d_mlp"]:
        """The hidden units σ(x W_gate + b_gate) ∘ (x W_in + b_in)."""
        gate = x @ self.W_gate
        gated = activation(gate if self.b_gate is None else gate + self.b_gate)
        if self.W_in is None:
            return gated
        up = x @ self.W_in
        return gated * (up if self.b_in is None else up + self.b_in)

    def output(
        self, x: Float[Tensor, "*axes d_in"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*axes d_out"]:
        """The output of the unit at x."""
        out = self.hidden(x, activation) @ self.W_out
        return out if self.b_out is None else out + self.b_out

    @property
    def biases(self) -> tuple[Float[Tensor, " d_mlp"], Float[Tensor, " d_mlp"], Float[Tensor, " d_out"]]:
        """b_gate, b_in, b_out; zeros for those that are missing."""
        zero_units, zero_outputs = self.W_out.new_zeros(len(self.W_out)), self.W_out.new_zeros(self.d_out)
        places = (self.b_gate, zero_units), (self.b_in, zero_units), (self.b_out, zero_outputs)
        gate, up, out = (zero if bias is None else bias for bias, zero in places)
        return gate, up, out

    @property
    def d_out(self) -> int:
        """Width of an output."""
        return self.W_out.shape[1]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that are there, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, *args: Any, **kwargs: Any) -> GLUWeights:
        """The same weights on another device or in another precision; as `torch.Tensor.to`."""
        return replace(self, **self.moved(*args, **kwargs))

    def moved(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights that are there, by name, on another device or in another precision."""
        return {name: value.to(*args, **kwargs) for name, value in self.weights.items()}

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(torch.isfinite(value).all()) for value in self.weights.values())

    @property
    def tensor(self) -> BilinearTensor:
        """The unit without its activation as a tensor, with the constant coordinate where it has biases."""
        if self.W_in is None:
            raise InputError("the tensor of an MLP without W_in; expected a gated one")
        return BilinearTensor.from_layer(
            self.W_gate, self.W_in, self.W_out, self.b_gate, self.b_in, self.b_out
        )


def double_weights(**weights: Tensor | None) -> GLUWeights:
    """The weights of these names (`GLUWeights`) in float64, detached; those that are None are missing.

    `InputError` for shapes that do not fit, and for weights that are not finite.
    """
    given = {name: value for name, value in weights.items() if value is not None}
    for name, value in given.items():
        require_finite_numbers(value, name)
    in_shape, (d_mlp, d_out) = tuple(given["W_gate"].shape), (*given["W_out"].shape, None)[:2]
    expected = {"W_gate": (*in_shape[:1], d_mlp), "W_in": in_shape, "W_out": (*in_shape[1:], d_out)}
    expected |= {"b_gate": in_shape[1:], "b_in": in_shape[1:], "b_out": (d_out,)}
    for name, value in given.items():
        if tuple(value.shape) != expected[name]:
            shapes = ", ".join(f"{each} {list(tensor.shape)}" for each, tensor in given.items())
            raise InputError(
                f"weights of a layer: {shapes}; expected [d_in, d_mlp] into it, W_out [d_mlp, d_out], and "
                "biases as long as the last axis of their weights"
            )
    names = ("W_gate", "W_in", "W_out", "b_gate", "b_in", "b_out")
    double = {name: value.detach().to(torch.float64) for name, value in given.items()}
    return GLUWeights(**{name: double.get(name) for name in names})  # type: ignore[arg-type]
