"""Convolutional networks of bilinear blocks, and the same networks with ReLU at as many parameters.

    features = blocks(entry(… blocks(entry(x)))),   hidden = features W_gate ∘ features W_in,   hidden W_head

Each sequence begins with an entry, which is linear but for max-pooling, and goes on with residual blocks. Two
shapes: a small one, whose entries are patches side by side, so that the product is its only nonlinearity; and
that of IMPALA (Espeholt et al., arXiv 1802.01561), whose entries are a 3 × 3 convolution and max-pooling. The
ReLU arm has ReLU blocks, a ReLU before and after its hidden layer, and a hidden layer as wide as makes its
number of parameters nearest to the bilinear network's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bilinear_lm.checks import require_choice, require_count, require_index, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock, Placing, ReLUBlock, normal_filters, require_images
from bilinear_lm.tensor import BilinearTensor

ConvolutionalKind = Literal["bilinear", "relu"]
Entry = Literal["patches", "max-pool"]

PIXEL_SCALE = 2.5
"""Weights on pixels are as much larger: pixels of 0 to 1 have root mean squares around .4."""

POOLED_SCALE = 0.8
"""Weights before max-pooling are as much smaller: the largest of nine numbers is larger than each."""


@dataclass(frozen=True)
class ConvolutionalSettings:
    """Shape of a convolutional network.

    >>> ConvolutionalSettings.small((1, 28, 28), patch=2).feature_shape
    (16, 7, 7)
    >>> ConvolutionalSettings.impala((3, 64, 64)).feature_shape
    (32, 8, 8)
    """

    image_shape: tuple[int, int, int] = (3, 8, 8)
    """Channels, height and width of an image."""
    n_outputs: int = 10
    """Outputs of the head: classes, or actions and the value."""
    channels: tuple[int, ...] = (8, 16)
    """Channels of each sequence."""
    n_blocks: int = 2
    """Blocks of each sequence."""
    entry: Entry = "patches"
    """How a sequence begins: patches side by side, or a 3 × 3 convolution and max-pooling by half."""
    patch: int = 1
    """Side of the first sequence's patches in pixels; those of the others are 2 × 2."""
    d_hidden: int = 64
    """Width of the bilinear hidden layer; that of the ReLU arm follows from it (`n_units`)."""
    kind: ConvolutionalKind = "bilinear"
    gain: float = 0.5
    """The number that the blocks' products are multiplied by before they are added."""
    bias: bool = False
    """Whether entries, blocks, hidden layer and head have biases."""

    def __post_init__(self):
        for name in ("image_shape", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.image_shape) != 3:
            raise InputError(f"image_shape {self.image_shape}; expected channels, height and width")
        if not self.channels:
            raise InputError("channels (); expected those of each sequence, (8, 16)")
        for name in ("image_shape", "channels"):
            for index, size in enumerate(getattr(self, name)):
                require_count(size, f"{name}[{index}] {size}")
        for name, least in {"n_outputs": 1, "n_blocks": 0, "patch": 1, "d_hidden": 1}.items():
            size = getattr(self, name)
            require_count(size, f"{name} {size}", f"at least {least}", least=least)
        require_choice(self.entry, get_args(Entry), "entry")
        require_choice(self.kind, get_args(ConvolutionalKind), "kind")
        require_number(self.gain, f"gain {self.gain!r}", "a finite number")
        side = self.patch * 2 ** (len(self.channels) - 1)
        if self.entry == "patches" and any(size % side for size in self.image_shape[1:]):
            raise InputError(
                f"image_shape {self.image_shape} for patches of {self.patch} pixels, doubled in each of "
                f"{len(self.channels) - 1} sequences more; expected sides that are multiples of {side}"
            )

    @classmethod
    def small(cls, image_shape: Sequence[int] = (3, 8, 8), **settings: Any) -> ConvolutionalSettings:
        """Two sequences of two blocks, 8 and 16 channels, patches, hidden layer 64: for mazes and digits."""
        return cls(image_shape=tuple(image_shape), **settings)  # type: ignore[arg-type]

    @classmethod
    def impala(cls, image_shape: Sequence[int] = (3, 64, 64), **settings: Any) -> ConvolutionalSettings:
        """The literature's: 16, 32 and 32 channels, max-pooling, two blocks each, hidden layer 256."""
        shape: dict[str, Any] = {"channels": (16, 32, 32), "entry": "max-pool", "d_hidden": 256}
        return cls(image_shape=tuple(image_shape), **shape | settings)  # type: ignore[arg-type]

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the hidden layer reads."""
        height, width = self.image_shape[1:]
        for index in range(len(self.channels)):
            if self.entry == "max-pool":
                height, width = -(-height // 2), -(-width // 2)
            else:
                side = 2 if index else self.patch
                height, width = height // side, width // side
        return self.channels[-1], height, width

    @property
    def n_features(self) -> int:
        """Numbers that the hidden layer reads."""
        return math.prod(self.feature_shape)

    @property
    def n_units(self) -> int:
        """Hidden units of this kind of network.

        The ReLU arm has one matrix where the bilinear one has two, so it is as wide as makes its parameters,
        those of the head among them, nearest to the bilinear network's: they differ by half a unit at most.
        """
        if self.kind == "bilinear":
            return self.d_hidden
        into = self.n_features + self.bias
        return round(self.d_hidden * (2 * into + self.n_outputs) / (into + self.n_outputs))


class ConvolutionalTrunk(nn.Module):
    """The entries and blocks of a network: images [..., c, h, w] to features of `settings.feature_shape`.

    Layers have names, in order: entry0, block0, block1, entry1, block2, … `activations` gives what each
    computes, `run` computes from one layer to another.

    >>> trunk = ConvolutionalTrunk(ConvolutionalSettings.small())
    >>> x = torch.rand(5, 3, 8, 8)
    >>> {name: tuple(h.shape[1:]) for name, h in trunk.activations(x).items()}["block1"]
    (8, 8, 8)
    >>> torch.equal(trunk.run(trunk.run(x, to="block1"), after="block1"), trunk(x))
    True
    """

    def __init__(self, settings: ConvolutionalSettings | None = None):
        super().__init__()
        self.settings = settings or ConvolutionalSettings()
        self.layers = nn.ModuleDict()
        kind = BilinearBlock if self.settings.kind == "bilinear" else ReLUBlock
        n_in = self.settings.image_shape[0]
        for sequence, channels in enumerate(self.settings.channels):
            self.layers[f"entry{sequence}"] = EntryLayer(n_in, channels, sequence, self.settings)
            for block in range(self.settings.n_blocks):
                made = kind(channels, gain=self.settings.gain, bias=self.settings.bias)
                self.layers[f"block{sequence * self.settings.n_blocks + block}"] = made
            n_in = channels

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The names of the layers, in order."""
        return tuple(self.layers)

    @property
    def blocks(self) -> list[BilinearBlock | ReLUBlock]:
        """The blocks, in order."""
        return [layer for name, layer in self.layers.items() if name.startswith("block")]  # type: ignore[misc]

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c_out h_out w_out"]:
        """The features of images x."""
        require_images(x, *self.settings.image_shape)
        return self.run(x)

    def activations(self, x: Float[Tensor, "*batch c h w"]) -> dict[str, Tensor]:
        """The outputs of each layer at images x, [..., channels, height, width] by its name."""
        require_images(x, *self.settings.image_shape)
        computed = {}
        for name, layer in self.layers.items():
            x = computed[name] = layer(x)
        return computed

    def run(
        self, x: Float[Tensor, "*batch c h w"], *, after: str | None = None, to: str | None = None
    ) -> Float[Tensor, "*batch c_out h_out w_out"]:
        """The output of layer `to` (the last by default) from that of layer `after` (by default an image).

        InputError for a layer that does not exist, and for one before `after`.
        """
        first = 0 if after is None else self.index(after) + 1
        last = len(self.layers) if to is None else self.index(to) + 1
        if last < first:
            raise InputError(f"layers after {after!r} to {to!r}; expected a layer that does not come before")
        for layer in list(self.layers.values())[first:last]:
            x = layer(x)
        return x

    def index(self, name: str) -> int:
        """The place of a layer in order. InputError for one that does not exist."""
        require_choice(name, self.layers, "layer")
        return self.layer_names.index(name)


class EntryLayer(nn.Module):
    """The beginning of a sequence: patches side by side, or a 3 × 3 convolution and max-pooling by half."""

    def __init__(self, c_in: int, c_out: int, sequence: int, settings: ConvolutionalSettings):
        super().__init__()
        self.pooled = settings.entry == "max-pool"
        side = 3 if self.pooled else 2 if sequence else settings.patch
        size = side, side
        self.placing = Placing(size, padding=(1, 1)) if self.pooled else Placing(size, stride=size)
        scale = (1.0 if sequence else PIXEL_SCALE) * (POOLED_SCALE if self.pooled else 1.0)
        self.W = normal_filters(c_out, c_in, side, side, scale)
        self.b = nn.Parameter(torch.zeros(c_out)) if settings.bias else None

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c_out h_out w_out"]:
        """The layer at images x."""
        y = self.placing.lay(x, self.W, self.b)
        if not self.pooled:
            return y
        pooled = F.max_pool2d(y.flatten(0, -4), 3, stride=2, padding=1)
        return pooled.reshape(*y.shape[:-2], *pooled.shape[-2:])


class HiddenLayer(nn.Module):
    """The layer behind the features: x W_gate ∘ x W_in, or relu(relu(x) W_gate); weights for row vectors.

    Features [..., c, h, w] in, [..., n_units] out. It has no W_out: linear heads read it.
    """

    def __init__(self, settings: ConvolutionalSettings):
        super().__init__()
        self.settings = settings
        n_in, n_units, bilinear = settings.n_features, settings.n_units, settings.kind == "bilinear"
        scale = (1 if bilinear else 2) ** 0.5 / n_in**0.5
        self.W_gate = nn.Parameter(scale * torch.randn(n_in, n_units))
        self.W_in = nn.Parameter(scale * torch.randn(n_in, n_units)) if bilinear else None
        self.b_gate = nn.Parameter(torch.zeros(n_units)) if settings.bias else None
        self.b_in = nn.Parameter(torch.zeros(n_units)) if settings.bias and bilinear else None

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch n_units"]:
        """The hidden units at features x."""
        require_images(x, *self.settings.feature_shape)
        flat = x.flatten(-3)
        if self.W_in is None:
            return _affine(flat.relu(), self.W_gate, self.b_gate).relu()
        return _affine(flat, self.W_gate, self.b_gate) * _affine(flat, self.W_in, self.b_in)

    def tensor(
        self,
        W_head: Float[Tensor, "n_units n_outputs"] | None = None,
        b_head: Float[Tensor, " n_outputs"] | None = None,
    ) -> BilinearTensor:
        """The hidden layer and a linear head behind it: [c · h · w (+ 1)] to [n_outputs], or to hidden units.

        InputError for the ReLU arm, and for a head of another width.
        """
        if self.W_in is None:
            raise InputError("a network of kind 'relu' has no tensors; expected a bilinear one")
        out = torch.eye(self.W_in.shape[1]).to(self.W_in) if W_head is None else W_head
        if len(out) != self.W_in.shape[1]:
            raise InputError(f"W_head {list(out.shape)}; expected [{self.W_in.shape[1]}, n_outputs]")
        weights = (self.W_gate, self.W_in, out, self.b_gate, self.b_in, b_head)
        return BilinearTensor.from_layer(*(None if each is None else each.detach() for each in weights))  # type: ignore[arg-type]


class ConvolutionalNetwork(nn.Module):
    """A trunk, a hidden layer and a linear head: images [..., c, h, w] to outputs [..., n_outputs].

    Weights are drawn with torch's generator, so `torch.manual_seed` fixes them, in sizes that keep the root
    mean square about 1 to 3 through the network. Biases start at 0.

    >>> network = ConvolutionalNetwork(ConvolutionalSettings.small((1, 28, 28), patch=2))
    >>> x = torch.rand(5, 1, 28, 28)
    >>> network(x).shape
    torch.Size([5, 10])
    >>> features = network.trunk(x).flatten(1)
    >>> torch.allclose(network.tensor(4)(features), network(x), atol=1e-3)
    True
    """

    def __init__(self, settings: ConvolutionalSettings | None = None):
        super().__init__()
        self.settings = settings or ConvolutionalSettings()
        self.trunk = ConvolutionalTrunk(self.settings)
        self.hidden = HiddenLayer(self.settings)
        n_units, n_outputs = self.settings.n_units, self.settings.n_outputs
        self.W_head = nn.Parameter(torch.randn(n_units, n_outputs) / n_units**0.5)
        self.b_head = nn.Parameter(torch.zeros(n_outputs)) if self.settings.bias else None

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch n_outputs"]:
        """The outputs at images x."""
        return _affine(self.hidden(self.trunk(x)), self.W_head, self.b_head)

    def tensor(self, layer: int = 0) -> BilinearTensor:
        """The tensor of one layer: of a block per patch with its residual path; last, hidden layer and head.

        Blocks map [c · k · k + 1] to [c], the last layer [c · h · w (+ 1)] to [n_outputs]. InputError for the
        ReLU arm, and for a layer that does not exist.
        """
        blocks = self.trunk.blocks
        require_index(layer, len(blocks) + 1, "layer")
        block = blocks[layer] if layer < len(blocks) else None
        return (
            block.tensor()
            if isinstance(block, BilinearBlock)
            else self.hidden.tensor(self.W_head, self.b_head)
        )


def _affine(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    return x @ W if b is None else x @ W + b
