"""`GLUWeights`: the six weights of a gated linear unit, whatever its activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class GLUWeights:
    """[σ(x W_gate + b_gate) ∘ (x W_in + b_in)] W_out + b_out, for row vectors; None for a missing bias."""

    W_gate: Float[Tensor, "d_in d_mlp"]
    W_in: Float[Tensor, "d_in d_mlp"]
    W_out: Float[Tensor, "d_mlp d_out"]
    b_gate: Float[Tensor, " d_mlp"] | None = None
    b_in: Float[Tensor, " d_mlp"] | None = None
    b_out: Float[Tensor, " d_out"] | None = None

    def hidden(
        self, x: Float[Tensor, "*axes d_in"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*axes d_mlp"]:
        """The hidden units σ(x W_gate + b_gate) ∘ (x W_in + b_in)."""
        gate, up = (
            product if bias is None else product + bias
            for product, bias in ((x @ self.W_gate, self.b_gate), (x @ self.W_in, self.b_in))
        )
        return activation(gate) * up

    def output(
        self, x: Float[Tensor, "*axes d_in"], activation: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*axes d_out"]:
        """The output of the unit at x."""
        out = self.hidden(x, activation) @ self.W_out
        return out if self.b_out is None else out + self.b_out

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
        return BilinearTensor.from_layer(
            self.W_gate, self.W_in, self.W_out, self.b_gate, self.b_in, self.b_out
        )
