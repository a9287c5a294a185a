"""Eigenfilters: layers rebuilt for every way of laying filters, against dense matrices; refusals."""

from itertools import product

import jaxtyping
import pytest
import torch

from analysis.convolutions.filters import activation_maps, eigenfilters
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock, BilinearConv2d

SHAPES = list(product((1, 2, (2, 1)), (0, 1, (2, 0)), (1, 2), (False, True), (None, 5)))
"""Stride, padding, dilation, biases and hidden channels."""


def layer(stride=1, padding=0, dilation=1, bias=True, hidden=None) -> BilinearConv2d:
    torch.manual_seed(0)
    placing = {"stride": stride, "padding": padding, "dilation": dilation}
    conv = BilinearConv2d(3, 4, (3, 2), **placing, hidden=hidden, bias=bias).double()
    for name, parameter in conv.named_parameters():
        if name.startswith("b_"):
            torch.nn.init.normal_(parameter)
    return conv


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("stride", "padding", "dilation", "bias", "hidden"), SHAPES)
def test_a_layer_is_rebuilt(stride, padding, dilation, bias, hidden, dtype, error):
    conv = layer(stride, padding, dilation, bias, hidden).to(dtype)
    x, u = torch.randn(2, 3, 8, 7, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    expected = torch.einsum("uo,nohw->nuhw", u, conv(x).detach())
    eigen = eigenfilters(conv, u)
    assert float((eigen(x) - expected).abs().max()) <= error * float(expected.std())
    assert bool(eigen.linear.any()) == bool(eigen.constant.any()) == bias


@pytest.mark.parametrize("hidden", [None, 5])
def test_eigenfilters_are_those_of_the_dense_matrix(hidden):
    conv, u = layer(hidden=hidden), torch.randn(4, dtype=torch.float64)
    gate, up = (W.detach().flatten(1) for W in (conv.W_gate, conv.W_in))
    scale = u if hidden is None else conv.W_out.detach() @ u
    matrix = torch.einsum("m,mi,mj->ij", scale, gate, up)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    eigen = eigenfilters(conv, u)
    torch.testing.assert_close(
        eigen.values, values[values.abs().argsort(descending=True)][: len(eigen.values)]
    )
    rows = eigen.filters.flatten(1)
    torch.testing.assert_close(rows.T @ (eigen.values[:, None] * rows), (matrix + matrix.T) / 2)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64))


def test_a_channel_has_two_eigenfilters_and_a_direction_twice_its_channels():
    conv = layer()
    channel, unit = eigenfilters(conv, 2), eigenfilters(conv, torch.eye(4, dtype=torch.float64)[2])
    assert channel.values.shape == (2,)
    torch.testing.assert_close(channel.filters, unit.filters)
    W_gate, W_in = conv.W_gate[2].detach(), conv.W_in[2].detach()
    inner, lengths = (W_gate * W_in).sum(), W_gate.norm() * W_in.norm()
    torch.testing.assert_close(
        channel.values.sort().values, torch.stack([inner - lengths, inner + lengths]) / 2
    )
    assert eigenfilters(conv, torch.ones(3, 4, dtype=torch.float64)).values.shape == (3, 8)
    assert eigenfilters(layer(hidden=5), 0).values.shape == (10,)
    assert eigenfilters(layer(hidden=40), 0).values.shape == (18,)


def test_the_largest_eigenfilters_are_the_first_of_all():
    conv, u = layer(), torch.randn(4, dtype=torch.float64)
    few, all_of_them = eigenfilters(conv, u, 3), eigenfilters(conv, u)
    torch.testing.assert_close(few.values, all_of_them.values[:3])
    torch.testing.assert_close(few.filters, all_of_them.filters[:3])


def test_nothing_depends_on_which_factor_is_the_gate_or_on_scales():
    conv, u = layer(), torch.randn(4, dtype=torch.float64)
    before = eigenfilters(conv, u)
    with torch.no_grad():
        gate, up = conv.W_gate.clone(), conv.W_in.clone()
        conv.W_gate.copy_(up * 3)
        conv.W_in.copy_(gate / 3)
        b_gate, b_in = conv.b_gate.clone(), conv.b_in.clone()
        conv.b_gate.copy_(b_in * 3)
        conv.b_in.copy_(b_gate / 3)
    after = eigenfilters(conv, u)
    for name in ("values", "filters", "linear", "constant"):
        torch.testing.assert_close(getattr(before, name), getattr(after, name))


def test_of_a_block_the_residual_path_is_linear():
    torch.manual_seed(0)
    block = BilinearBlock(4, gain=0.3).double()
    x, u = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    eigen = eigenfilters(block, u)
    torch.testing.assert_close(eigen.affine_maps(x), torch.einsum("o,nohw->nhw", u, x))
    torch.testing.assert_close(eigen(x), torch.einsum("o,nohw->nhw", u, block(x).detach()))
    torch.testing.assert_close(eigen.values, 0.3 * eigenfilters(block.conv, u).values)


def test_activation_maps_are_squares_of_filtered_patches():
    conv, x = layer(2, 1), torch.randn(2, 5, 3, 8, 7, dtype=torch.float64)
    eigen = eigenfilters(conv, torch.randn(2, 4, dtype=torch.float64))
    along = torch.einsum("abhwp,ukp->abukhw", conv.patches(x), eigen.filters.flatten(2))
    expected = eigen.values[..., None, None] * along.square()
    torch.testing.assert_close(activation_maps(eigen, x), expected)


def test_what_a_layer_does_not_have_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    conv = layer()
    for channel in (4, -1, torch.tensor([1, 2])):
        with pytest.raises(InputError, match="does not exist; expected 0 to 3"):
            eigenfilters(conv, channel)
    with pytest.raises(InputError, match=r"a direction of channels \[3\]; expected \[..., 4\]"):
        eigenfilters(conv, torch.ones(3).double())
    with pytest.raises(InputError, match=r"is in torch.float32, the layer in torch.float64"):
        eigenfilters(conv, torch.ones(4))
    with pytest.raises(InputError, match="holds NaN or infinity"):
        eigenfilters(conv, torch.full((4,), float("nan")).double())
    with pytest.raises(InputError, match="k=19 eigenfilters; expected 1 to 18"):
        eigenfilters(conv, 0, 19)
    with pytest.raises(InputError, match="conv is a Conv2d; expected a BilinearConv2d or a BilinearBlock"):
        eigenfilters(torch.nn.Conv2d(3, 4, 3), 0)
    with pytest.raises(InputError, match=r"images \[1, 4, 8, 8\]; expected \[..., 3, h, w\]"):
        activation_maps(eigenfilters(conv, 0), torch.randn(1, 4, 8, 8).double())
