"""Image classifiers of one to three bilinear layers, and the same networks with other nonlinearities.

    logits = h W_head,    h ← [h +] layer(h),    h = x W_embed,    x the pixels of an image

(Pearce, Dooms et al., arXiv 2410.08417, section 4). The layer is bilinear, (h W_gate ∘ h W_in) W_out, or one
of the arms that it is compared with: `reglu` and `swiglu` put an activation on the gate; `relu` and `square`
have no gate, σ(h W_gate) W_out, and half as many hidden units again, so that all arms have equally many
weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bilinear_lm.checks import require_choice, require_count, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.tensor import BilinearTensor

Kind = Literal["bilinear", "relu", "reglu", "swiglu", "square"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": lambda x: x,
    "relu": torch.relu,
    "reglu": torch.relu,
    "swiglu": nn.functional.silu,
    "square": torch.square,
}
"""The activation of each kind of layer."""

UNGATED = ("relu", "square")
"""Kinds without a gate."""

MOST_LAYERS = 3


@dataclass(frozen=True)
class ImageSettings:
    """Shape of an image classifier."""

    image_shape: tuple[int, ...] = (28, 28)
    """Height and width of an image in pixels; before them channels, where it has some."""
    n_classes: int = 10
    d_model: int = 256
    """Width of the embedding."""
    d_mlp: int = 256
    """Hidden units of a gated layer; layers without a gate have half as many again."""
    n_layers: int = 1
    kind: Kind = "bilinear"
    residual: bool = False
    """Whether layers add to what they read."""
    bias: bool = False
    """Whether layers and head have biases."""

    def __post_init__(self):
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        if not self.image_shape:
            raise InputError("image_shape (); expected the axes of an image, (28, 28)")
        for axis, size in enumerate(self.image_shape):
            require_count(size, f"image_shape[{axis}] {size}")
        for name, least in {"n_classes": 2, "d_model": 1, "d_mlp": 1}.items():
            size = getattr(self, name)
            require_count(size, f"{name} {size}", f"at least {least}", least=least)
        require_count(self.n_layers, f"n_layers {self.n_layers}", f"1 to {MOST_LAYERS}", most=MOST_LAYERS)
        require_choice(self.kind, get_args(Kind), "kind")

    @property
    def n_pixels(self) -> int:
        """Numbers of an image."""
        return math.prod(self.image_shape)

    @property
    def n_units(self) -> int:
        """Hidden units of a layer of this kind."""
        return self.d_mlp * 3 // 2 if self.kind in UNGATED else self.d_mlp


class Layer(nn.Module):
    """One layer: a gated one, or an MLP where its kind has no gate; weights for row vectors."""

    def __init__(self, settings: ImageSettings):
        super().__init__()
        self.kind = settings.kind
        d_model, n_units = settings.d_model, settings.n_units
        self.W_gate = _matrix(d_model, n_units)
        self.W_in = None if settings.kind in UNGATED else _matrix(d_model, n_units)
        self.W_out = _matrix(n_units, d_model)
        self.b_gate = nn.Parameter(torch.zeros(n_units)) if settings.bias else None
        self.b_in = nn.Parameter(torch.zeros(n_units)) if settings.bias and self.W_in is not None else None
        self.b_out = nn.Parameter(torch.zeros(d_model)) if settings.bias else None

    @property
    def weights(self) -> GLUWeights:
        """The weights by name, with their gradients."""
        biases = self.b_gate, self.b_in, self.b_out
        return GLUWeights(self.W_gate, self.W_in, self.W_out, *biases)

    def forward(self, x: Tensor) -> Tensor:
        """The layer at x [..., d_model]."""
        return self.weights.output(x, ACTIVATIONS[self.kind])


class ImageClassifier(nn.Module):
    """A classifier of images: embedding, bilinear layers (or one of the arms beside them), head.

    Weights are drawn from N(0, 1/d_in) with torch's generator, so `torch.manual_seed` fixes them; biases
    start at 0.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> x = torch.rand(5, 8, 8)
    >>> classifier(x).shape
    torch.Size([5, 10])
    >>> torch.allclose(classifier.pixel_tensor()(x.flatten(1)), classifier(x), atol=1e-5)
    True
    """

    def __init__(self, settings: ImageSettings | None = None):
        super().__init__()
        self.settings = settings or ImageSettings()
        self.W_embed = _matrix(self.settings.n_pixels, self.settings.d_model)
        self.layers = nn.ModuleList(Layer(self.settings) for _ in range(self.settings.n_layers))
        self.W_head = _matrix(self.settings.d_model, self.settings.n_classes)
        self.b_head = nn.Parameter(torch.zeros(self.settings.n_classes)) if self.settings.bias else None

    def forward(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*batch n_classes"]:
        """Logits [..., n_classes] of images [..., *image_shape] or of their pixels [..., n_pixels]."""
        h = self._pixels(x) @ self.W_embed
        for layer in self.layers:
            h = h + layer(h) if self.settings.residual else layer(h)
        logits = h @ self.W_head
        return logits if self.b_head is None else logits + self.b_head

    def tensor(self, layer: int = 0) -> BilinearTensor:
        """The tensor of one layer, [d_model] to [d_model]: what it computes, and adds where it is residual.

        With biases it has the constant coordinate. InputError for a kind that is not bilinear, and for a
        layer that does not exist.
        """
        require_index(layer, len(self.layers), "layer")
        if self.settings.kind not in ("bilinear", "square"):
            raise InputError(
                f"a classifier of kind {self.settings.kind!r} has no tensor; expected bilinear or square"
            )
        weights = {name: value.detach() for name, value in self.layers[layer].named_parameters()}
        if self.settings.kind == "square":  # (x W_gate + b_gate)², a gate that is its own input
            weights |= {"W_in": weights["W_gate"]}
            weights |= {"b_in": weights["b_gate"]} if self.settings.bias else {}
        return BilinearTensor.from_layer(**weights)

    def pixel_tensor(self) -> BilinearTensor:
        """The whole classifier of one layer as a tensor, [n_pixels] to [n_classes]: B(x, x) are the logits.

        It has the constant coordinate where the classifier has biases or a residual connection. InputError
        for more layers than one.
        """
        if len(self.layers) > 1:
            raise InputError(
                f"a classifier of {len(self.layers)} layers is no quadratic form of the pixels; expected one"
            )
        W_embed, W_head = self.W_embed.detach(), self.W_head.detach()
        tensor = self.tensor().change_basis(inputs=W_embed.contiguous(), outputs=W_head.T.contiguous())
        if self.b_head is None and not self.settings.residual:
            return tensor
        linear = W_embed @ W_head if self.settings.residual else torch.zeros_like(W_embed @ W_head)
        return with_linear(tensor, linear, None if self.b_head is None else self.b_head.detach())

    def _pixels(self, x: Tensor) -> Tensor:
        shape = self.settings.image_shape
        if x.shape[-len(shape) :] == shape:
            return x.reshape(*x.shape[: x.ndim - len(shape)], self.settings.n_pixels)
        if x.ndim and x.shape[-1] == self.settings.n_pixels:
            return x
        raise InputError(
            f"images {list(x.shape)}; expected [..., {', '.join(map(str, shape))}] or "
            f"[..., {self.settings.n_pixels}]"
        )


def with_linear(
    tensor: BilinearTensor, linear: Float[Tensor, "d_x d_out"], bias: Float[Tensor, " d_out"] | None = None
) -> BilinearTensor:
    """The tensor of B(x, x) + x · linear + bias, with the constant coordinate; d_x leaves that one out.

    It has a hidden unit more for each output. With the identity it is the layer with a residual connection.
    """
    d_x, d_out = linear.shape
    if (d_x, d_out) != (tensor.d_in - tensor.constant, tensor.d_out):
        raise InputError(
            f"a linear part {[d_x, d_out]} for a tensor of {tensor.d_in - tensor.constant} inputs and "
            f"{tensor.d_out} outputs; expected one row an input, one column an output"
        )
    offset = linear.new_zeros(d_out) if bias is None else bias
    gate, up = (F.pad(factor, (0, 0, 0, not tensor.constant)) for factor in (tensor.W_gate, tensor.W_in))
    one = F.pad(linear.new_ones(1, d_out), (0, 0, d_x, 0))  # the constant coordinate
    return BilinearTensor(
        torch.cat([gate, torch.cat([linear, offset[None]])], dim=1),
        torch.cat([up, one], dim=1),
        torch.cat([tensor.W_out, torch.eye(d_out, dtype=linear.dtype, device=linear.device)]),
        constant=True,
    )


def _matrix(d_in: int, d_out: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(d_in, d_out) / d_in**0.5)
