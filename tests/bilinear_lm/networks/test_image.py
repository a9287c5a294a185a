"""Image classifiers: their tensors against their forward pass, sizes of the arms, refusals."""

from itertools import product
from typing import get_args

import pytest
import torch

from bilinear_lm.errors import InputError
from bilinear_lm.networks.image import ImageClassifier, ImageSettings, Kind, with_linear


def classifier(**settings) -> ImageClassifier:
    torch.manual_seed(0)
    made = ImageClassifier(ImageSettings(image_shape=(3, 4), n_classes=5, d_model=7, d_mlp=6, **settings))
    for name, parameter in made.named_parameters():
        if ".b_" in name or name == "b_head":
            torch.nn.init.normal_(parameter)
    return made.double()


@pytest.mark.parametrize(("kind", "bias", "residual"), product(("bilinear", "square"), *[(False, True)] * 2))
def test_the_pixel_tensor_is_the_classifier(kind, bias, residual):
    model = classifier(kind=kind, bias=bias, residual=residual)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    tensor = model.pixel_tensor()
    assert tensor.constant == (bias or residual)
    torch.testing.assert_close(tensor(x.flatten(1)), model(x).detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("bias", "residual"), product(*[(False, True)] * 2))
def test_tensors_of_layers_make_the_classifier(bias, residual):
    model = classifier(n_layers=3, bias=bias, residual=residual)
    x = torch.randn(6, 12, dtype=torch.float64)
    h = x @ model.W_embed
    for layer in range(3):
        h = model.tensor(layer)(h) + (h if residual else 0)
    logits = h @ model.W_head + (model.b_head if bias else 0)
    torch.testing.assert_close(logits, model(x), atol=1e-12, rtol=1e-12)


def test_the_identity_as_linear_part_is_a_residual_connection():
    model = classifier(bias=True)
    x = torch.randn(6, 7, dtype=torch.float64)
    tensor = with_linear(model.tensor(), torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(tensor(x), x + model.layers[0](x).detach())


def test_a_linear_part_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"linear part \[6, 7\] for a tensor of 7 inputs and 7 outputs"):
        with_linear(classifier().tensor(), torch.eye(7, dtype=torch.float64)[1:])


def test_all_arms_have_equally_many_weights():
    sizes = {kind: sum(p.numel() for p in classifier(kind=kind).parameters()) for kind in get_args(Kind)}
    assert len(set(sizes.values())) == 1


def test_leading_axes_are_free():
    model, x = classifier(), torch.randn(2, 3, 12, dtype=torch.float64)
    assert model(x).shape == (2, 3, 5)
    torch.testing.assert_close(model(x.unflatten(-1, (3, 4))), model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 4}, "n_layers 4; expected 1 to 3"),
        ({"n_layers": 0}, "n_layers 0"),
        ({"d_model": 0}, "d_model 0; expected at least 1"),
        ({"n_classes": 1}, "n_classes 1; expected at least 2"),
        ({"image_shape": ()}, "image_shape"),
        ({"image_shape": (0, 3)}, r"image_shape\[0\] 0"),
    ],
)
def test_shapes_that_no_classifier_has_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ImageSettings(**settings)


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"images \[2, 4, 4\]; expected \[..., 3, 4\] or \[..., 12\]"):
        classifier()(torch.randn(2, 4, 4))


def test_kinds_and_layers_without_a_tensor_are_refused():
    with pytest.raises(InputError, match="kind 'relu' has no tensor"):
        classifier(kind="relu").tensor()
    with pytest.raises(InputError, match="layer 2 does not exist; expected 0 to 1"):
        classifier(n_layers=2).tensor(2)
    with pytest.raises(InputError, match="2 layers is no quadratic form"):
        classifier(n_layers=2).pixel_tensor()
