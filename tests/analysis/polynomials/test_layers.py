"""R² and losses of polynomials in a model's layers against direct computation on its activations."""

import pytest
import torch

from analysis import approximate_layers, replacement_losses
from analysis.text.windows import mean_loss
from bilinear_lm import InputError
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.sites import Site, site_activations
from bilinear_lm.weights import mlp_tensor, mlp_weights

TEXT = torch.randint(0, 300, (24, 30), generator=torch.Generator().manual_seed(0))
WINDOWS, HELD_OUT = TEXT[:16].tolist(), TEXT[16:].tolist()


def inputs_of(model, layer, windows):
    site = Site(layer, "mlp-in")
    (seen,) = site_activations(model, [torch.tensor(windows)], [site])
    return seen[site].flatten(0, 1)


@pytest.mark.parametrize("mlp_bias", [False, True])
def test_r_squared_by_layer_and_degree(make_model, mlp_bias):
    model = make_model(gate="silu", mlp_bias=mlp_bias).double()
    found = approximate_layers(model, WINDOWS, HELD_OUT, degrees=(0, 1, 2, 4), fit_degrees=(1, 2))
    assert (found.layers, found.n_tokens) == ((0, 1), 480)
    for layer in (0, 1):
        x = inputs_of(model, layer, HELD_OUT)
        mlp, seen = model.model.layers[layer].mlp, inputs_of(model, layer, WINDOWS)
        with torch.no_grad():
            y, target = mlp(x), mlp(seen)
        variance = (y - y.mean(0)).square().sum()
        for n, polynomial in enumerate(found.polynomials[layer]):
            expected = 1 - float((y - polynomial(x)).square().sum() / variance)
            assert float(found.on_text[layer, n]) == pytest.approx(expected, abs=1e-5)
        assert (found.gaussian[layer].diff() > 0).all()
        assert float(found.gaussian[layer, -1]) <= 1
        linear = torch.cat([seen, torch.ones(len(seen), 1)], dim=1)
        best = linear @ torch.linalg.lstsq(linear, target).solution
        assert torch.allclose(found.fits[layer][0](seen), best, atol=1e-4)
    # 480 points fit 153 monomials too well: what they explain of other text shows it.
    assert found.fits_on_text.shape == (2, 2)


def test_a_bilinear_model_is_explained_and_unchanged_at_degree_2(make_model):
    model = make_model()
    found = approximate_layers(model, WINDOWS, HELD_OUT, degrees=(1, 2), fit_degrees=(), layers=[1])
    assert float(found.gaussian[0, 1]) == pytest.approx(1)
    assert float(found.on_text[0, 1]) == pytest.approx(1, abs=1e-6)
    losses = replacement_losses(model, HELD_OUT, {1: found.polynomials[0][1]})
    assert float(losses.one) == pytest.approx(losses.whole, abs=1e-4)
    assert losses.all == float(losses.one)


def test_a_model_in_half_precision(make_model):
    model = make_model(gate="silu").bfloat16()
    found = approximate_layers(model, WINDOWS, HELD_OUT, degrees=(3,), layers=[0])
    (polynomial,) = found.polynomials[0]
    assert polynomial.dtype == torch.float32
    assert replacement_losses(model, HELD_OUT, {0: polynomial}).all > 0
    narrow = type(polynomial)(torch.zeros(16), torch.zeros(8, 16), None, 1)
    with pytest.raises(
        InputError, match=r"a polynomial \[8, 16\] cannot replace an MLP; expected .* 16 to 16"
    ):
        replacement_losses(model, HELD_OUT, {0: narrow})


def test_losses_with_one_and_all_replaced(make_model):
    model = make_model(gate="silu")
    losses = replacement_losses(model, HELD_OUT, {0: torch.zeros_like, 1: torch.zeros_like})
    assert losses.whole == pytest.approx(mean_loss(model, HELD_OUT))
    for layer in (0, 1):
        kept = model.model.layers[layer].mlp.down_proj.weight.detach().clone()
        model.model.layers[layer].mlp.down_proj.weight.data.zero_()
        assert float(losses.one[layer]) == pytest.approx(mean_loss(model, HELD_OUT))
        model.model.layers[layer].mlp.down_proj.weight.data.copy_(kept)
    for block in model.model.layers:
        block.mlp.down_proj.weight.data.zero_()
    assert losses.all == pytest.approx(mean_loss(model, HELD_OUT))


@pytest.mark.parametrize("gate", ["relu", "gelu"])
def test_a_model_without_gates(make_model, gate):
    """R² on text by the modules themselves, and the loss with a layer whose output is zero."""
    model = make_model(gate=gate, n_kv_heads=None)
    found = approximate_layers(model, WINDOWS, HELD_OUT, degrees=(1, 2), fit_degrees=(1,))
    seen = []
    mlp = model.gpt_neox.layers[1].mlp
    hook = mlp.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        model(torch.tensor(HELD_OUT))
    hook.remove()
    x, y = (each.flatten(0, 1) for each in seen[0])
    variance = (y - y.mean(0)).square().sum()
    for n, polynomial in enumerate(found.polynomials[1]):
        expected = 1 - float((y - polynomial(x)).square().sum() / variance)
        assert float(found.on_text[1, n]) == pytest.approx(expected, abs=1e-5)
    assert (found.gaussian.diff(dim=1) > 0).all()
    losses = replacement_losses(model, HELD_OUT, {1: found.polynomials[1][1], 0: torch.zeros_like})
    assert losses.whole == pytest.approx(mean_loss(model, HELD_OUT))
    with torch.no_grad():
        for parameter in model.gpt_neox.layers[0].mlp.dense_4h_to_h.parameters():
            parameter.zero_()
    assert float(losses.one[1]) == pytest.approx(mean_loss(model, HELD_OUT))
    narrow = type(polynomial)(torch.zeros(16), torch.zeros(8, 16), None, 1)
    with pytest.raises(InputError, match=r"a polynomial \[8, 16\] cannot"):
        replacement_losses(model, HELD_OUT, {0: narrow})


def test_weights_of_a_gated_mlp(make_model):
    model, x = make_model(gate="silu", mlp_bias=True), torch.randn(5, 16)
    weights, activation = mlp_weights(model, 1, fold_norm=False)
    assert isinstance(weights, GLUWeights)
    assert torch.allclose(weights.output(x, activation), model.model.layers[1].mlp(x), atol=1e-5)
    bilinear = make_model()
    folded, _ = mlp_weights(bilinear, 0)
    assert torch.equal(folded.tensor.W_gate, mlp_tensor(bilinear, 0).W_gate)
    with pytest.raises(InputError, match="layer 1 has a SiLU"):
        mlp_tensor(model, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [2]}, "layer 2 does not exist; expected 0 to 1"),
        ({"degrees": ()}, "0 degrees"),
        ({"degrees": (17,)}, "degree 17 of a polynomial; expected 0 to 16"),
        ({"fit_degrees": (3,)}, "degree 3 of a fitted polynomial"),
    ],
)
def test_errors_say_what_was_wrong(make_model, settings, message):
    with pytest.raises(InputError, match=message):
        approximate_layers(make_model(gate="silu"), WINDOWS, HELD_OUT, **settings)
    with pytest.raises(InputError, match="no layers to replace"):
        replacement_losses(make_model(), HELD_OUT, {})
