"""Convolutional networks: layers' tensors against the forward pass, parameters of the arms, refusals."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import BilinearBlock
from bilinear_lm.networks.convolutional import ConvolutionalNetwork, ConvolutionalSettings, ConvolutionalTrunk

SMALL = ConvolutionalSettings(image_shape=(2, 8, 8), n_outputs=3, channels=(4, 6), n_blocks=1, d_hidden=10)
POOLED = replace(SMALL, image_shape=(2, 9, 7), entry="max-pool")


def network(settings: ConvolutionalSettings) -> ConvolutionalNetwork:
    torch.manual_seed(0)
    made = ConvolutionalNetwork(settings)
    for name, parameter in made.named_parameters():
        if name.rsplit(".", 1)[-1].startswith("b"):
            torch.nn.init.normal_(parameter)
    return made.double()


@pytest.mark.parametrize(("settings", "bias"), product((SMALL, POOLED), (False, True)))
def test_tensors_of_layers_make_the_network(settings, bias):
    model = network(replace(settings, bias=bias))
    x = torch.randn(5, *settings.image_shape, dtype=torch.float64)
    h, block = x, 0
    for name, layer in model.trunk.layers.items():
        if name.startswith("entry"):
            h = layer(h)
        else:
            h = model.tensor(block)(layer.conv.patches(h)).movedim(-1, 1)
            block += 1
    assert h.shape[1:] == settings.feature_shape
    logits = model.tensor(block)(h.flatten(1))
    torch.testing.assert_close(logits, model(x).detach(), atol=1e-10, rtol=1e-10)


def test_the_relu_network_is_the_ordinary_one():
    model = network(replace(POOLED, kind="relu", bias=True))
    x = h = torch.randn(5, 2, 9, 7, dtype=torch.float64)
    for name, layer in model.trunk.layers.items():
        if name.startswith("entry"):
            h = F.max_pool2d(F.conv2d(h, layer.W, layer.b, padding=1), 3, 2, 1)
        else:
            inner = F.conv2d(h.relu(), layer.W_a, layer.b_a, padding=1).relu()
            h = h + 0.5 * F.conv2d(inner, layer.W_b, layer.b_b, padding=1)
    hidden = (h.flatten(1).relu() @ model.hidden.W_gate + model.hidden.b_gate).relu()
    torch.testing.assert_close(model(x), hidden @ model.W_head + model.b_head)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        POOLED,
        ConvolutionalSettings.small(n_outputs=5),
        ConvolutionalSettings.small((1, 28, 28), patch=2),
        ConvolutionalSettings.impala(n_outputs=16),
    ],
)
def test_the_relu_arm_has_as_many_parameters(settings, bias):
    """To half of what one more hidden unit brings."""
    sizes = [
        sum(
            each.numel()
            for each in ConvolutionalNetwork(replace(settings, kind=kind, bias=bias)).parameters()
        )
        for kind in ("bilinear", "relu")
    ]
    assert abs(sizes[0] - sizes[1]) <= (settings.n_features + settings.n_outputs + bias) / 2


def test_the_network_of_the_literature():
    settings = ConvolutionalSettings.impala((3, 64, 64), n_outputs=16)
    model = ConvolutionalNetwork(settings)
    assert settings.feature_shape == (32, 8, 8)
    assert model.hidden.W_gate.shape == (2048, 256)
    assert len(model.trunk.blocks) == 6
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 16)


@pytest.mark.parametrize("kind", ["bilinear", "relu"])
@pytest.mark.parametrize(
    "settings",
    [ConvolutionalSettings.small(), ConvolutionalSettings.impala((3, 32, 32))],
)
def test_the_root_mean_square_stays_between_bounds(settings, kind):
    torch.manual_seed(0)
    pixels = torch.rand(20, *settings.image_shape) * (torch.rand(20, *settings.image_shape) < 0.4)
    trunk = ConvolutionalTrunk(replace(settings, kind=kind))
    for values in trunk.activations(pixels).values():
        assert 0.4 < float(values.square().mean().sqrt()) < 4


def test_layers_by_name():
    trunk = network(SMALL).trunk
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    assert trunk.layer_names == ("entry0", "block0", "entry1", "block1")
    assert all(isinstance(block, BilinearBlock) for block in trunk.blocks)
    values = trunk.activations(x)
    torch.testing.assert_close(values["block1"], trunk(x))
    torch.testing.assert_close(trunk.run(x, to="entry1"), values["entry1"])
    torch.testing.assert_close(trunk.run(values["block0"], after="block0"), trunk(x))
    with pytest.raises(InputError, match="layer 'block2'; expected one of entry0, block0, entry1, block1"):
        trunk.run(x, to="block2")
    with pytest.raises(InputError, match="layers after 'entry1' to 'block0'"):
        trunk.run(x, after="entry1", to="block0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_shape": (2, 9, 8)}, r"expected sides that are multiples of 2"),
        ({"image_shape": (2, 8, 8), "patch": 8}, r"multiples of 16"),
        ({"channels": ()}, r"channels \(\)"),
        ({"channels": (4, 0)}, r"channels\[1\] 0"),
        ({"n_blocks": -1}, "n_blocks -1; expected at least 0"),
        ({"d_hidden": 0}, "d_hidden 0"),
        ({"gain": float("nan")}, "gain nan"),
    ],
)
def test_settings_of_no_network_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **settings)


def test_what_a_network_does_not_have_is_refused():
    with pytest.raises(InputError, match="layer 3 does not exist; expected 0 to 2"):
        network(SMALL).tensor(3)
    for layer in (0, 2):
        with pytest.raises(InputError, match="kind 'relu' has no tensors"):
            network(replace(SMALL, kind="relu")).tensor(layer)
    with pytest.raises(InputError, match=r"W_head \[9, 3\]; expected \[10, n_outputs\]"):
        network(SMALL).hidden.tensor(torch.randn(9, 3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"images \[1, 2, 8, 9\]; expected \[..., 2, 8, 8\]"):
        network(SMALL)(torch.randn(1, 2, 8, 9, dtype=torch.float64))
