"""Bilinear convolutions: two convolutions of an image and their product, a quadratic form of every patch.

    y = conv_gate(x) ∘ conv_in(x)            or, with hidden channels, y = (conv_gate(x) ∘ conv_in(x)) W_out

An output channel at a place reads the patch under the filters, c_in · k · k numbers, so the layer is one
bilinear tensor that is applied at every place: `BilinearConv2d.tensor` gives it in its factors, without
unrolling the image. Residual blocks of it, x + g · conv_gate(x) ∘ conv_in(x), take the place of a ReLU
network's x + g · conv_b(relu(conv_a(relu(x)))), which has as many weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from bilinear_lm.checks import require_count, require_floating, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.networks.image import with_linear
from bilinear_lm.tensor import BilinearTensor


@dataclass(frozen=True)
class Placing:
    """How filters are laid over an image: size, stride, padding and dilation, each (height, width)."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    """Rows and columns of zeros on each side of the image."""
    dilation: tuple[int, int] = (1, 1)

    def places(self, h: int, w: int) -> tuple[int, int]:
        """Height and width of the output for images of h × w. InputError for images that are too small."""
        sizes = zip((h, w), self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * pad - hole * (k - 1) - 1) // step + 1 for n, k, step, pad, hole in sizes)
        if min(height, width) < 1:
            raise InputError(
                f"images of {h} × {w} pixels for filters of {self.kernel_size[0]} × {self.kernel_size[1]} "
                f"with padding {self.padding} and dilation {self.dilation}; expected images they fit on"
            )
        return height, width

    def lay(
        self,
        x: Float[Tensor, "*batch c h w"],
        filters: Float[Tensor, "n c_in kh kw"],
        bias: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "*batch n h_out w_out"]:
        """The convolution of images with filters."""
        flat = self._flat(x, filters.shape[1])
        if x.dtype != filters.dtype and not torch.is_autocast_enabled(x.device.type):
            raise InputError(
                f"images are in {x.dtype}, the filters in {filters.dtype}; expected one precision, convert "
                "with .to"
            )
        y = F.conv2d(flat, filters, bias, self.stride, self.padding, self.dilation)
        return y.reshape(*x.shape[:-3], *y.shape[-3:])

    def patches(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch h_out w_out d_patch"]:
        """The patches that the filters read at every place, c · kh · kw numbers in this order."""
        flat = self._flat(x, x.shape[-3])
        columns = F.unfold(flat, self.kernel_size, self.dilation, self.padding, self.stride)
        height, width = self.places(*x.shape[-2:])
        return columns.mT.reshape(*x.shape[:-3], height, width, columns.shape[1])

    def _flat(self, x: Tensor, channels: int) -> Tensor:
        """Images as [n, c, h, w], checked."""
        require_images(x, channels)
        self.places(*x.shape[-2:])
        return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])


class BilinearConv2d(nn.Module):
    """Two convolutions, multiplied: conv_gate(x) ∘ conv_in(x), with `hidden` channels through W_out.

    W_gate, W_in [d_mlp, c_in, kh, kw] as torch's convolutions have them; W_out [d_mlp, c_out] where there are
    hidden channels, else d_mlp is c_out. `bias` adds b_gate, b_in [d_mlp] and, beside W_out, b_out [c_out].
    kernel_size, stride, padding (zeros around the image) and dilation are whole numbers, or pairs for the two
    axes. Weights are drawn from N(0, 1/fan_in), so that an input of root mean square 1 gives an output of
    about root mean square 1; biases start at 0.

    >>> conv = BilinearConv2d(3, 8, 3, padding=1, bias=True)
    >>> x = torch.rand(5, 3, 10, 10)
    >>> conv(x).shape, conv.patches(x).shape
    (torch.Size([5, 8, 10, 10]), torch.Size([5, 10, 10, 27]))
    >>> torch.allclose(conv.tensor()(conv.patches(x)).movedim(-1, 1), conv(x), atol=1e-5)
    True
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        hidden: int | None = None,
        bias: bool = False,
    ):
        super().__init__()
        for name, count in {"c_in": c_in, "c_out": c_out, "hidden": 1 if hidden is None else hidden}.items():
            require_count(count, f"{name} {count}")
        self.c_in, self.c_out = c_in, c_out
        self.placing = Placing(
            _pair(kernel_size, "kernel_size"),
            _pair(stride, "stride"),
            _pair(padding, "padding", least=0),
            _pair(dilation, "dilation"),
        )
        d_mlp = c_out if hidden is None else hidden
        self.W_gate = normal_filters(d_mlp, c_in, *self.placing.kernel_size)
        self.W_in = normal_filters(d_mlp, c_in, *self.placing.kernel_size)
        self.W_out = None if hidden is None else nn.Parameter(torch.randn(hidden, c_out) / hidden**0.5)
        self.b_gate = nn.Parameter(torch.zeros(d_mlp)) if bias else None
        self.b_in = nn.Parameter(torch.zeros(d_mlp)) if bias else None
        self.b_out = nn.Parameter(torch.zeros(c_out)) if bias and hidden is not None else None

    @property
    def d_patch(self) -> int:
        """Numbers of a patch, c_in · kh · kw."""
        return self.c_in * math.prod(self.placing.kernel_size)

    def forward(self, x: Float[Tensor, "*batch c_in h w"]) -> Float[Tensor, "*batch c_out h_out w_out"]:
        """The layer at images x."""
        # One convolution with the filters of both: a third faster than two.
        biases = [b for b in (self.b_gate, self.b_in) if b is not None]
        bias = torch.cat(tuple(biases)) if biases else None
        gate, up = self.placing.lay(x, torch.cat([self.W_gate, self.W_in]), bias).chunk(2, dim=-3)
        y = gate * up
        if self.W_out is None:
            return y
        return Placing((1, 1)).lay(y, self.W_out.T[..., None, None], self.b_out)

    def patches(self, x: Float[Tensor, "*batch c_in h w"]) -> Float[Tensor, "*batch h_out w_out d_patch"]:
        """The patch under the filters at every place, in the order of the tensor's inputs: [c_in, kh, kw]."""
        require_images(x, self.c_in)
        return self.placing.patches(x)

    def tensor(self) -> BilinearTensor:
        """The layer at one patch: [c_in · kh · kw] to [c_out], with the constant coordinate for biases."""
        gate, up = (filters.detach().flatten(1).T.contiguous() for filters in (self.W_gate, self.W_in))
        out = torch.eye(len(self.W_gate), dtype=gate.dtype, device=gate.device)
        biases = (None if b is None else b.detach() for b in (self.b_gate, self.b_in, self.b_out))
        return BilinearTensor.from_layer(
            gate, up, out if self.W_out is None else self.W_out.detach(), *biases
        )

    def extra_repr(self) -> str:
        """Sizes, as torch shows them."""
        hidden = f", hidden={len(self.W_gate)}" if self.W_out is not None else ""
        placing = "".join(f", {field.name}={getattr(self.placing, field.name)}" for field in fields(Placing))
        return f"{self.c_in}, {self.c_out}{placing}{hidden}, bias={self.b_gate is not None}"


class BilinearBlock(nn.Module):
    """A residual block x + gain · conv_gate(x) ∘ conv_in(x) that keeps the image's size.

    The gain is a number of the block, not a weight: at .5 the mean square grows by a quarter a block.

    >>> block = BilinearBlock(8)
    >>> block(torch.randn(5, 8, 7, 7)).shape
    torch.Size([5, 8, 7, 7])
    """

    def __init__(self, channels: int, kernel_size: int = 3, *, gain: float = 0.5, bias: bool = False):
        super().__init__()
        self.gain = _checked_block(kernel_size, gain)
        self.conv = BilinearConv2d(channels, channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """The block at images x."""
        return x + self.gain * self.conv(x)

    def tensor(self) -> BilinearTensor:
        """The whole block at one patch, what it adds to included: [c · k · k + 1] to [c].

        The residual path reads the patch's middle, by the constant coordinate.
        """
        part = self.conv.tensor()
        scaled = BilinearTensor(part.W_gate, part.W_in, self.gain * part.W_out, part.constant)
        channels, size = self.conv.c_in, self.conv.placing.kernel_size
        middle = part.W_out.new_zeros(channels, *size, channels)
        middle[:, size[0] // 2, size[1] // 2] = torch.eye(channels, dtype=part.dtype, device=part.device)
        return with_linear(scaled, middle.flatten(0, 2))


class ReLUBlock(nn.Module):
    """The residual block of an ordinary network, x + gain · conv_b(relu(conv_a(relu(x)))).

    It has as many weights and biases as the bilinear block of the same size. Weights are drawn from
    N(0, 2/fan_in): half of what a ReLU reads is lost, and the root mean square is kept.
    """

    def __init__(self, channels: int, kernel_size: int = 3, *, gain: float = 0.5, bias: bool = False):
        super().__init__()
        self.gain = _checked_block(kernel_size, gain)
        self.placing = Placing((kernel_size,) * 2, padding=(kernel_size // 2,) * 2)
        shape = channels, channels, kernel_size, kernel_size
        self.W_a, self.W_b = (normal_filters(*shape, scale=2**0.5) for _ in range(2))
        self.b_a = nn.Parameter(torch.zeros(channels)) if bias else None
        self.b_b = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """The block at images x."""
        y = self.placing.lay(x.relu(), self.W_a, self.b_a)
        return x + self.gain * self.placing.lay(y.relu(), self.W_b, self.b_b)


def normal_filters(d_out: int, c_in: int, height: int, width: int, scale: float = 1.0) -> nn.Parameter:
    """Filters [d_out, c_in, height, width] from N(0, scale² / fan_in)."""
    return nn.Parameter(scale * torch.randn(d_out, c_in, height, width) / (c_in * height * width) ** 0.5)


def require_images(x: Tensor, channels: int, height: int | None = None, width: int | None = None) -> None:
    """Raises InputError unless x is images [..., channels, h, w] in floating point, of a size where given."""
    require_floating(x, "images")
    sizes = (height or "h", width or "w")
    fits = x.ndim >= 3 and x.shape[-3] == channels
    if not fits or any(size not in (None, n) for size, n in zip((height, width), x.shape[-2:], strict=True)):
        raise InputError(f"images {list(x.shape)}; expected [..., {channels}, {sizes[0]}, {sizes[1]}]")


def _checked_block(kernel_size: Any, gain: float) -> float:
    require_count(kernel_size, f"kernel_size {kernel_size} of a block", "an odd number")
    if kernel_size % 2 == 0:
        raise InputError(f"kernel_size {kernel_size} of a block; expected an odd number")
    require_number(gain, f"gain {gain!r} of a block", "a finite number")
    return float(gain)


def _pair(size: Any, name: str, least: int = 1) -> tuple[int, int]:
    """A whole number for both axes, or one for each."""
    sizes = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sizes) != 2:
        raise InputError(f"{name} {size}; expected a whole number or two, for height and width")
    for each in sizes:
        require_count(each, f"{name} {size}", f"at least {least}", least=least)
    return int(sizes[0]), int(sizes[1])
