"""A copy of a model whose MLPs are quadratics, against the closed form, and what it explains."""

import pytest
import torch

from analysis import quadratic_model
from analysis.polynomials.quadratic_model import is_bilinear
from analysis.text.windows import mean_loss
from bilinear_lm import InputError, mlp_tensor
from bilinear_lm.polynomials.approximate import approximate_layer
from bilinear_lm.sites import Site, site_activations
from bilinear_lm.weights import mlp_weights

from ...bilinear_lm.tiny_families import gated

TEXT = torch.randint(0, 64, (24, 30), generator=torch.Generator().manual_seed(0))
WINDOWS, HELD_OUT = TEXT[:16].tolist(), TEXT[16:].tolist()


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Phi3", "Gemma2", "Granite"])
def test_each_mlp_is_its_own_least_squares_quadratic(family):
    model = gated(family, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quadratic = quadratic_model(model, WINDOWS, HELD_OUT)
    for layer in (0, 1):
        site = Site(layer, "mlp-in")
        seen, held_out = (
            next(iter(site_activations(model, [torch.tensor(text)], [site])))[site].flatten(0, 1)
            for text in (WINDOWS, HELD_OUT)
        )
        weights, activation = mlp_weights(model, layer, fold_norm=False)
        centred = seen - seen.mean(0)
        expected = approximate_layer(
            weights, activation, degree=2, mean=seen.mean(0), cov=centred.T @ centred / len(seen)
        )
        got = mlp_tensor(quadratic.model, layer, fold_norm=False)(held_out)
        torch.testing.assert_close(got, expected(held_out), atol=1e-8, rtol=1e-8)
        y = weights.output(held_out, activation)
        left = (y - got).square().sum() / (y - y.mean(0)).square().sum()
        assert float(quadratic.r_squared[layer]) == pytest.approx(1 - float(left), abs=1e-9)
    assert quadratic.losses.all == pytest.approx(mean_loss(quadratic.model, HELD_OUT), abs=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()


def test_the_loss_explained_lies_between_nothing_and_everything():
    quadratic = quadratic_model(gated("Llama"), WINDOWS, HELD_OUT)
    whole, replaced, without = quadratic.losses.whole, quadratic.losses.all, quadratic.without.all
    assert quadratic.explained_loss == pytest.approx((without - replaced) / (without - whole))
    assert len(quadratic.explained_losses) == 2
    assert (quadratic.n_tokens, quadratic.n_held_out) == (480, 240)
    assert quadratic.activation == "SiLU"
    assert "explained_loss" in repr(quadratic)


def test_bilinear_models_and_models_without_gates_are_refused():
    bilinear = gated("Llama", activation="linear")
    assert is_bilinear(bilinear)
    with pytest.raises(InputError, match="the model is bilinear already"):
        quadratic_model(bilinear, WINDOWS, HELD_OUT)
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    with pytest.raises(InputError, match="no gated MLP found"):
        quadratic_model(GPTNeoXForCausalLM(config), WINDOWS, HELD_OUT)
