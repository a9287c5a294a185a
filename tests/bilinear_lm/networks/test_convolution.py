"""Bilinear convolutions: patches' tensors against the layer and against the unrolled image; refusals."""

from itertools import product

import jaxtyping
import pytest
import torch
from torch.nn import functional as F

from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock, BilinearConv2d, Placing, ReLUBlock

SHAPES = list(product((1, 2, (2, 1)), (0, 1, (2, 0)), (1, 2), (False, True), (None, 5)))
"""Stride, padding, dilation, biases and hidden channels."""


def layer(stride=1, padding=0, dilation=1, bias=True, hidden=None) -> BilinearConv2d:
    torch.manual_seed(0)
    placing = {"stride": stride, "padding": padding, "dilation": dilation}
    return with_biases(BilinearConv2d(3, 4, (3, 2), **placing, hidden=hidden, bias=bias)).double()


def with_biases(module):
    for name, parameter in module.named_parameters():
        if "b_" in name:
            torch.nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize(("stride", "padding", "dilation", "bias", "hidden"), SHAPES)
def test_the_tensor_of_a_patch_is_the_layer(stride, padding, dilation, bias, hidden):
    conv = layer(stride, padding, dilation, bias, hidden)
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    tensor = conv.tensor()
    assert tensor.d_in == conv.d_patch + bias
    torch.testing.assert_close(tensor(conv.patches(x)).movedim(-1, 1), conv(x).detach(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("stride", "padding", "dilation", "bias", "hidden"), SHAPES)
def test_the_layer_is_two_of_torchs_convolutions(stride, padding, dilation, bias, hidden):
    conv = layer(stride, padding, dilation, bias, hidden)
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    gate, up = (
        F.conv2d(x, W, b, stride=stride, padding=padding, dilation=dilation)
        for W, b in ((conv.W_gate, conv.b_gate), (conv.W_in, conv.b_in))
    )
    expected = gate * up
    if hidden:
        expected = torch.einsum("nmhw,mo->nohw", expected, conv.W_out)
        expected = expected + (conv.b_out[:, None, None] if bias else 0)
    torch.testing.assert_close(conv(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_unrolled_image_gives_the_same_quadratic_form(stride):
    """The matrix of an output channel at one place, by autograd over all pixels, against the patch's."""
    conv, channel, (row, column) = layer(stride, padding=1, bias=False), 2, (1, 2)
    n, kernel = 3 * 6 * 5, conv.placing.kernel_size

    def output(pixels):
        return conv(pixels.view(1, 3, 6, 5))[0, channel, row, column]

    whole = torch.autograd.functional.hessian(output, torch.zeros(n, dtype=torch.float64)) / 2
    patch = conv.tensor().interaction_matrix(torch.eye(4, dtype=torch.float64)[channel])
    pixels = F.pad(torch.arange(1, n + 1, dtype=torch.float64).view(3, 6, 5), (1, 1, 1, 1))  # 0 outside
    top, left = stride * row, stride * column
    under = pixels[:, top : top + kernel[0], left : left + kernel[1]].flatten().long()
    there = under > 0
    expected = torch.zeros_like(whole)
    expected[torch.meshgrid(under[there] - 1, under[there] - 1, indexing="ij")] = patch[there][:, there]
    torch.testing.assert_close(whole, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_a_block_and_its_tensor(bias):
    torch.manual_seed(0)
    block = with_biases(BilinearBlock(4, gain=0.7, bias=bias)).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), x + 0.7 * block.conv(x))
    made = block.tensor()(block.conv.patches(x)).movedim(-1, 1)
    torch.testing.assert_close(made, block(x).detach(), atol=1e-12, rtol=0)


def test_a_relu_block():
    block = with_biases(ReLUBlock(4, gain=0.7, bias=True))
    x = torch.randn(2, 4, 5, 6)
    inner = F.conv2d(x.relu(), block.W_a, block.b_a, padding=1).relu()
    torch.testing.assert_close(block(x), x + 0.7 * F.conv2d(inner, block.W_b, block.b_b, padding=1))


@pytest.mark.parametrize(("kernel_size", "bias"), product((1, 3, 5), (False, True)))
def test_blocks_of_both_kinds_have_equally_many_parameters(kernel_size, bias):
    sizes = [
        sum(each.numel() for each in kind(6, kernel_size, bias=bias).parameters())
        for kind in (BilinearBlock, ReLUBlock)
    ]
    assert sizes[0] == sizes[1]


def test_leading_axes_are_free_and_may_be_empty():
    conv, x = layer(), torch.randn(2, 5, 3, 8, 7, dtype=torch.float64)
    torch.testing.assert_close(conv(x)[1], conv(x[1]))
    torch.testing.assert_close(conv.patches(x)[1], conv.patches(x[1]))
    assert conv(x[0, 0]).shape == conv(x).shape[2:]
    assert conv(x[:0]).shape == (0, *conv(x).shape[1:])


def test_the_root_mean_square_is_kept():
    torch.manual_seed(0)
    x = torch.randn(50, 16, 9, 9)
    for made in (BilinearConv2d(16, 16, 3), BilinearConv2d(16, 16, 3, hidden=40)):
        assert 0.7 < float(made(x).detach().square().mean().sqrt()) < 1.4
    for kind in (BilinearBlock, ReLUBlock):
        assert 1.0 < float(kind(16)(x).detach().square().mean().sqrt()) < 1.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"c_in": 0}, "c_in 0; expected at least 1"),
        ({"hidden": 0}, "hidden 0; expected at least 1"),
        ({"kernel_size": (3, 0)}, r"kernel_size \(3, 0\); expected at least 1"),
        ({"stride": 0}, "stride 0; expected at least 1"),
        ({"padding": -1}, "padding -1; expected at least 0"),
    ],
)
def test_layers_that_cannot_be_are_refused(arguments, message):
    given = {"c_in": 3, "c_out": 4, "kernel_size": 3} | arguments
    with pytest.raises(InputError, match=message):
        BilinearConv2d(**given)


def test_blocks_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="kernel_size 2 of a block; expected an odd number"):
        BilinearBlock(4, 2)
    with pytest.raises(InputError, match="gain inf of a block"):
        ReLUBlock(4, gain=float("inf"))


def test_images_of_other_shapes_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    conv = BilinearConv2d(3, 4, 3, dilation=2)
    with pytest.raises(InputError, match=r"images \[2, 1, 8, 8\]; expected \[..., 3, h, w\]"):
        conv(torch.randn(2, 1, 8, 8))
    with pytest.raises(InputError, match="images of 8 × 4 pixels for filters of 3 × 3 with padding"):
        conv(torch.randn(2, 3, 8, 4))
    with pytest.raises(InputError, match=r"images is in torch.uint8; expected floating point"):
        conv(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"images are in torch.float64, the filters in torch.float32"):
        conv(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(InputError, match=r"images \[3, 8\]; expected"):
        Placing((1, 1)).lay(torch.randn(3, 8), torch.randn(2, 3, 1, 1))
