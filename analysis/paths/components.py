"""The terms of the residual stream: the embedding, the output of each head and MLP, and biases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

Kind = Literal["embedding", "head", "mlp", "bias"]


@dataclass(frozen=True, order=True)
class Component:
    """One part of the residual stream."""

    kind: Kind
    layer: int | None = None
    """None for the embedding. Of a bias: the attention layer that writes it (b_O and b_V W_O together)."""
    head: int | None = None
    """The head of a layer; None for the other kinds."""

    def __str__(self) -> str:
        if self.kind == "embedding":
            return "embedding"
        return f"{self.kind} {self.layer}" + ("" if self.head is None else f".{self.head}")


@shown
@dataclass(frozen=True)
class Components:
    """Parts of the residual stream on a prompt, which sum to it."""

    names: tuple[Component, ...]
    """In the order in which the model adds them: embedding; heads, bias and MLP of layer 0; of layer 1; …"""
    values: Float[Tensor, "n_components pos d_model"]

    def __post_init__(self):
        if len(self.names) != len(self.values):
            raise InputError(
                f"components: got {len(self.names)} names for {len(self.values)} values; expected one each"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def total(self) -> Float[Tensor, "pos d_model"]:
        """The residual stream that they are parts of."""
        return self.values.sum(dim=0)

    def of_kind(self, *kinds: Kind) -> list[int]:
        """The indices of the components of these kinds."""
        return [index for index, name in enumerate(self.names) if name.kind in kinds]

    def index(self, component: Component) -> int:
        """The index of a component."""
        if component not in self.names:
            raise InputError(f"component {component} is not among these: {_listed(self.names)}")
        return self.names.index(component)


def _listed(names: Iterable[Component]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed if len(listed) <= 8 else [*listed[:4], "…", *listed[-3:]])
