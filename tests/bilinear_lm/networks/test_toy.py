"""Toy models: tensors against the forward pass and against formulas, batches against single models."""

from itertools import product

import pytest
import torch

import bilinear_lm as bl
from bilinear_lm.errors import InputError
from bilinear_lm.networks.toy import ToyModel, ToySettings


def models(batch=(2, 3), **settings) -> ToyModel:
    draws = torch.Generator().manual_seed(0)
    sizes = {"n_inputs": 4, "d_model": 3, "d_mlp": 5, "n_outputs": 2} | settings
    made = ToyModel(ToySettings(**sizes), batch, draws).double()
    for name, parameter in made.named_parameters():
        if "b_" in name:
            parameter.data.normal_(generator=draws)
    return made


def through(tensors, x):
    for tensor in tensors:
        x = tensor(x)
    return x


@pytest.mark.parametrize(
    ("n_layers", "bias", "n_outputs", "batch"), product((1, 2), (False, True), (2, None), ((), (2, 3)))
)
def test_folded_tensors_are_the_model(n_layers, bias, n_outputs, batch):
    model = models(batch, n_layers=n_layers, bias=bias, n_outputs=n_outputs)
    x = torch.randn(*batch, 7, 4, dtype=torch.float64)
    tensors = model.folded()
    assert [tensor.constant for tensor in tensors] == [bias] * n_layers
    torch.testing.assert_close(through(tensors, x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_the_model_is_its_formula(bias):
    model = models((), bias=bias)
    x, layer = torch.randn(6, 4, dtype=torch.float64), model.layers[0]
    W, V = layer.W_gate.T, layer.W_in.T
    b, c = (layer.b_gate, layer.b_in) if bias else (0, 0)
    expected = [
        model.W_decoder.T @ ((W @ (model.W_encoder.T @ p) + b) * (V @ (model.W_encoder.T @ p) + c)) for p in x
    ]
    torch.testing.assert_close(model(x), torch.stack(expected))


@pytest.mark.parametrize("tied", [False, True])
def test_relu_models_are_their_formula(tied):
    model = models((), kind="relu", tied=tied, d_mlp=4, n_outputs=None)
    x = torch.randn(6, 4, dtype=torch.float64)
    W = model.W_encoder.T  # of h = W x
    back = W.T if tied else model.layers[0].W_gate.T
    expected = [torch.relu(back @ W @ p + model.layers[0].b_gate) for p in x]
    torch.testing.assert_close(model(x), torch.stack(expected))
    assert ("layers.0.W_gate" in model.state_dict()) is not tied
    with pytest.raises(InputError, match="kind 'relu' has no tensor"):
        model.tensor()


def test_tied_bilinear_models_read_with_the_encoder():
    model = models(tied=True, d_mlp=4, n_outputs=None)
    torch.testing.assert_close(model.tensor().W_gate[..., :-1, :], model.W_encoder.mT)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(model.folded()[0](x), model(x))


def test_the_second_layer_reads_hidden_units():
    model = models(n_layers=2)
    h = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(model.tensor(1)(h), model.layers[1](h, model.layers[1].W_gate))
    assert model.tensor(0).batch_shape == (2, 3)


def test_models_of_a_batch_share_nothing():
    model, x = models(n_layers=2), torch.randn(7, 4, dtype=torch.float64)
    one = models((), n_layers=2)
    for parameter, all_of_them in zip(one.parameters(), model.parameters(), strict=True):
        parameter.data = all_of_them[1, 2].detach().clone()
    torch.testing.assert_close(model(x)[1, 2], one(x))
    model(x)[1, 2].sum().backward()
    for parameter in model.parameters():
        others = parameter.grad.clone()
        others[1, 2] = 0
        assert parameter.grad[1, 2].any()
        assert not others.any()


def test_permuted_units_and_exchanged_factors_are_the_same_tensor():
    model, order = models((), n_outputs=2), torch.tensor([3, 0, 4, 1, 2])
    before, layer = model.folded()[0].dense(), model.layers[0]
    for name in ("W_gate", "W_in", "b_gate", "b_in"):
        getattr(layer, name).data = getattr(layer, name)[..., order].detach()
    model.W_decoder.data = model.W_decoder[order].detach()
    layer.W_gate.data, layer.W_in.data = layer.W_in.data * 2, layer.W_gate.data / 2
    layer.b_gate.data, layer.b_in.data = layer.b_in.data * 2, layer.b_gate.data / 2
    torch.testing.assert_close(model.folded()[0].dense(), before)


def test_it_is_a_public_name():
    assert bl.networks.ToyModel is ToyModel


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_inputs": 0}, "n_inputs 0; expected at least 1"),
        ({"d_mlp": 2.5}, "d_mlp 2.5; expected a whole number"),
        ({"n_outputs": 0}, "n_outputs 0; expected at least 1, or None"),
        ({"n_layers": 3}, "n_layers 3; expected 1 to 2"),
        ({"kind": "gelu"}, "kind 'gelu'; expected one of bilinear, relu"),
        ({"tied": True, "d_mlp": 5}, "a tied model of 1 layers, 5 hidden units and 2 inputs; expected one"),
    ],
)
def test_settings_that_make_no_model_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ToySettings(**settings)


@pytest.mark.usefixtures("without_shape_checks")
def test_inputs_and_layers_that_do_not_fit_are_refused():
    model = models()
    for shape in ((4,), (7, 5), (3, 7, 4), (2, 3, 7, 5)):
        with pytest.raises(InputError, match=r"inputs \[.*\] of toy models \[2, 3\]; expected"):
            model(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(InputError, match="layer 1 does not exist; expected 0 to 0"):
        model.tensor(1)
    with pytest.raises(InputError, match=r"batch\[0\] 0; expected at least 1"):
        ToyModel(batch=(0,))
