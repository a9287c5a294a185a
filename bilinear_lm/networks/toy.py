"""Toy models: a linear encoder, one or two bilinear layers, a decoder; many of them train as one.

    y = h D,    h ← (h W + b) ∘ (h V + c) for each layer,    h = x E

(Pearce and Dooms, "Bilinear toy models of decomposition"). Without a decoder the hidden units of the last
layer are the outputs. In the arm beside it, kind relu, a layer is max(0, h W + b); tied, with W the encoder
transposed, that is ReLU(WᵀWx + b) of Elhage et al. 2022, "Toy models of superposition".

All weights have leading batch axes. Models of a batch share nothing, so seeds, sparsities and tasks train
side by side as one module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bilinear_lm.checks import require_choice, require_count, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor

Kind = Literal["bilinear", "relu"]

Draws = torch.Generator | None

MOST_LAYERS = 2


@dataclass(frozen=True)
class ToySettings:
    """Shape of a toy model."""

    n_inputs: int = 2
    d_model: int = 4
    """Width that the encoder writes."""
    d_mlp: int = 8
    """Hidden units of each layer."""
    n_outputs: int | None = 1
    """Outputs of the decoder; None for no decoder, so that the last hidden units are the outputs."""
    n_layers: int = 1
    kind: Kind = "bilinear"
    bias: bool = True
    """Whether the layers' gates (and ins) have biases."""
    tied: bool = False
    """Whether W_gate is the encoder transposed; it then reads the inputs back, one hidden unit each."""

    def __post_init__(self):
        for name in ("n_inputs", "d_model", "d_mlp"):
            require_count(getattr(self, name), f"{name} {getattr(self, name)}")
        if self.n_outputs is not None:
            require_count(self.n_outputs, f"n_outputs {self.n_outputs}", "at least 1, or None for no decoder")
        require_count(self.n_layers, f"n_layers {self.n_layers}", f"1 to {MOST_LAYERS}", most=MOST_LAYERS)
        require_choice(self.kind, get_args(Kind), "kind")
        if self.tied and (self.n_layers, self.d_mlp) != (1, self.n_inputs):
            raise InputError(
                f"a tied model of {self.n_layers} layers, {self.d_mlp} hidden units and {self.n_inputs} "
                "inputs; expected one layer, and as many hidden units as inputs"
            )

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self.d_mlp if self.n_outputs is None else self.n_outputs


class ToyLayer(nn.Module):
    """One layer of a batch of toy models; a gate that is given to it is none of its parameters."""

    def __init__(self, d_in: int, settings: ToySettings, batch: tuple[int, ...], generator: Draws):
        super().__init__()
        self.kind, shape = settings.kind, (*batch, settings.d_mlp)
        self.W_gate = None if settings.tied else _matrix(batch, d_in, settings.d_mlp, generator)
        gated = settings.kind == "bilinear"
        self.W_in = _matrix(batch, d_in, settings.d_mlp, generator) if gated else None
        self.b_gate = nn.Parameter(torch.zeros(shape)) if settings.bias else None
        self.b_in = nn.Parameter(torch.zeros(shape)) if settings.bias and gated else None

    def forward(self, h: Tensor, W_gate: Tensor) -> Tensor:
        """The hidden units [*batch, points, d_mlp] at h [*batch, points, d_in]."""
        gate = _affine(h, W_gate, self.b_gate)
        return torch.relu(gate) if self.W_in is None else gate * _affine(h, self.W_in, self.b_in)


class ToyModel(nn.Module):
    """A batch of toy models: encoder, one or two bilinear layers (or ReLU layers), decoder.

    Weights are drawn from N(0, 1/d_in) with `generator`, by default torch's own; biases start at 0. Weights
    and inputs carry the batch axes first; inputs without them go to all models.

    >>> model = ToyModel(ToySettings(n_inputs=3, n_outputs=2), batch=(5,))
    >>> x = torch.rand(5, 100, 3)
    >>> model(x).shape
    torch.Size([5, 100, 2])
    >>> torch.allclose(model.folded()[0](x), model(x), atol=1e-5)
    True
    """

    def __init__(
        self,
        settings: ToySettings | None = None,
        batch: Sequence[int] = (),
        generator: Draws = None,
    ):
        super().__init__()
        for axis, size in enumerate(batch):
            require_count(size, f"batch[{axis}] {size}")
        self.settings, self.batch = settings or ToySettings(), tuple(batch)
        s = self.settings
        self.W_encoder = _matrix(self.batch, s.n_inputs, s.d_model, generator)
        widths = (s.d_model, s.d_mlp)[: s.n_layers]
        self.layers = nn.ModuleList(ToyLayer(width, s, self.batch, generator) for width in widths)
        decodes = s.n_outputs is not None
        self.W_decoder = _matrix(self.batch, s.d_mlp, s.d_out, generator) if decodes else None

    def forward(self, x: Float[Tensor, "*axes points n_inputs"]) -> Float[Tensor, "*batch points d_out"]:
        """Outputs at points x [*batch, points, n_inputs], or [points, n_inputs] for all models."""
        self._require_points(x)
        h = x @ self.W_encoder
        for index, layer in enumerate(self.layers):
            h = layer(h, self._gate(index))
        return h if self.W_decoder is None else h @ self.W_decoder

    def tensor(self, layer: int = 0) -> BilinearTensor:
        """The tensors of one layer, [*batch, d_in (+ 1)] to its hidden units [*batch, d_mlp].

        With biases they have the constant coordinate. InputError for a model of kind relu, and for a layer
        that does not exist.
        """
        require_index(layer, len(self.layers), "layer")
        if self.settings.kind != "bilinear":
            raise InputError(
                f"a toy model of kind {self.settings.kind!r} has no tensor; expected kind bilinear"
            )
        weights = {name: value.detach() for name, value in self.layers[layer].named_parameters()}
        weights["W_gate"] = self._gate(layer).detach()
        units = torch.eye(self.settings.d_mlp).to(weights["W_gate"]).expand(*self.batch, -1, -1)
        return BilinearTensor.from_layer(**weights, W_out=units)

    def folded(self) -> tuple[BilinearTensor, ...]:
        """The whole model: a tensor a layer, the encoder folded into the first, the decoder into the last.

        The first reads inputs, the last gives outputs: model(x) = last(first(x)), and of one layer first(x).
        """
        tensors = [self.tensor(layer) for layer in range(len(self.layers))]
        tensors[0] = tensors[0].change_basis(inputs=self.W_encoder.detach())
        if self.W_decoder is not None:
            tensors[-1] = tensors[-1].change_basis(outputs=self.W_decoder.detach().mT)
        return tuple(tensors)

    def _gate(self, layer: int) -> Tensor:
        return self.W_encoder.mT if self.settings.tied else self.layers[layer].get_parameter("W_gate")

    def _require_points(self, x: Tensor) -> None:
        n, batch = self.settings.n_inputs, list(self.batch)
        if x.ndim < 2 or x.shape[-1] != n or list(x.shape[:-2]) not in ([], batch):
            raise InputError(
                f"inputs {list(x.shape)} of toy models {batch}; expected {[*batch, 'points', n]} or "
                f"{['points', n]}"
            )


def _affine(h: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return h @ matrix if bias is None else h @ matrix + bias.unsqueeze(-2)


def _matrix(batch: tuple[int, ...], d_in: int, d_out: int, generator: Draws) -> nn.Parameter:
    return nn.Parameter(torch.randn(*batch, d_in, d_out, generator=generator) / d_in**0.5)
