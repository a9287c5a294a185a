"""Conversions of every family by every method: bilinear, declared so, and the same after loading."""

from typing import get_args

import pytest
import torch
from torch.nn.functional import gelu, silu
from transformers import AutoModelForCausalLM

from bilinear_lm import InputError, approximate_glu, bilinear_approximation, hook, load_tokenizer, mlp_tensor
from bilinear_lm import load_pretrained as load
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.glus import bilinear_glus, find_glus
from bilinear_lm.polynomials.measured import Moments
from bilinear_lm.text.evaluate import window_loss
from finetune import FitSettings, calibration_windows, convert
from finetune.choices import Method
from finetune.conversion.convert import HELD_OUT, slope_at_zero
from finetune.conversion.glu_fit import LINEAR, explained
from finetune.data.calibration import glu_inputs

from ...bilinear_lm.tiny_families import ACTIVATION, gated

QUICK = FitSettings(steps=30, batch_size=128)
MAY_HAVE_BIASES = ("Llama", "Granite")


def windows(n=24, length=16, seed=0):
    return torch.randint(1, 64, (n, length), generator=torch.Generator().manual_seed(seed))


def logits(model, ids=None):
    with torch.inference_mode():
        return model(input_ids=windows(4, seed=9) if ids is None else ids).logits


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("family", ACTIVATION)
def test_every_family_by_every_method(family, method, tmp_path):
    model = gated(family)
    done = convert(model, method, windows(), fit=QUICK)
    assert [layer.name for layer in done.layers] == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert done.method == method
    assert done.n_tokens == 21 * 16
    has_biases = family == "Granite" or (family == "Llama" and method != "linear")
    assert done.biases == has_biases
    for layer in done.layers:
        assert (layer.r_squared_with_biases is not None) == (method == "closed-form" and not has_biases)
    key = "hidden_activation" if family == "Gemma2" else "hidden_act"
    assert getattr(model.config, key) == "linear"
    glus = find_glus(model)
    assert bilinear_glus(glus) == glus
    assert done.loss_after == pytest.approx(window_loss(model, windows()[::HELD_OUT]))

    model.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    own = logits(model)
    torch.testing.assert_close(logits(again), own, rtol=1e-6, atol=1e-6 * float(own.abs().max()))

    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    for layer, block in enumerate(again.model.layers):
        tensor = mlp_tensor(again, layer, fold_norm=False)
        assert tensor.constant == has_biases
        torch.testing.assert_close(tensor(x), block.mlp(x), rtol=1e-4, atol=1e-4)
    bridge = hook(load(tmp_path / "model"))
    with torch.inference_mode():
        hooked = bridge(windows(4, seed=9), prepend_bos=False)
    torch.testing.assert_close(hooked, own, rtol=1e-4, atol=1e-4 * float(own.abs().max()))


@pytest.mark.parametrize("family", MAY_HAVE_BIASES)
def test_closed_form_is_the_least_squares_quadratic(family):
    model = gated(family)
    (glu, _), text = find_glus(model), windows(200)
    fitted = text[torch.arange(200) % HELD_OUT != 0]
    moments = Moments.of(glu_inputs(model, glu, fitted))
    own = {name: None if value is None else value.clone() for name, value in vars(glu.factors()).items()}
    polynomial = approximate_glu(**own, activation=silu, mean=moments.mean, cov=moments.cov)
    x = torch.cat([x.flatten(0, 1) for x in glu_inputs(model, glu, text[::HELD_OUT])])
    done = convert(model, "closed-form", text)
    torch.testing.assert_close(
        find_glus(model)[0].factors().output(x, LINEAR), polynomial(x), rtol=1e-3, atol=1e-3
    )
    assert done.layers[0].r_squared == pytest.approx(
        float(1 - (polynomial(x) - GLUWeights(**own).output(x, silu)).square().sum() / deviations(own, x)),
        abs=1e-4,
    )


def deviations(own, x):
    out = GLUWeights(**own).output(x, silu)
    return (out - out.mean(dim=0)).square().sum()


@pytest.mark.parametrize("family", ["Qwen2", "Gemma", "Phi3"])
def test_what_the_closed_form_would_be_with_biases(family):
    model = gated(family)
    glu, text = find_glus(model)[0], windows(80)
    held_out = torch.arange(80) % HELD_OUT == 0
    moments = Moments.of(glu_inputs(model, glu, text[~held_out]))
    own = {name: None if value is None else value.clone() for name, value in vars(glu.factors()).items()}
    activation = glu.activation
    best = bilinear_approximation(**own, activation=activation, mean=moments.mean, cov=moments.cov)
    x = torch.cat([x.flatten(0, 1) for x in glu_inputs(model, glu, text[held_out])])
    layer = convert(model, "closed-form", text).layers[0]
    with_biases = GLUWeights(**{name: getattr(best, name) for name in own})
    assert layer.r_squared_with_biases == pytest.approx(
        explained(with_biases, GLUWeights(**own), activation, x), abs=1e-5
    )
    assert layer.r_squared < layer.r_squared_with_biases


def test_methods_from_worst_to_best():
    found = {}
    for method in get_args(Method):
        model = gated("Llama", num_hidden_layers=1)
        model.model.layers[0].mlp.gate_proj.weight.data.mul_(6)
        settings = FitSettings(steps=200, batch_size=256)
        found[method] = convert(model, method, windows(400), fit=settings).layers[0].r_squared
    assert found["linear"] < found["closed-form"] < found["fit"]


def test_linear_halves_the_gate():
    model, was = gated("Llama"), gated("Llama")
    done = convert(model, "linear")
    assert done.loss_before is None
    assert done.loss_after is None
    assert done.layers[0].r_squared is None
    for new, old in zip(model.model.layers, was.model.layers, strict=True):
        assert torch.equal(new.mlp.gate_proj.weight, old.mlp.gate_proj.weight / 2)
        assert torch.equal(new.mlp.up_proj.weight, old.mlp.up_proj.weight)


@pytest.mark.parametrize("biases", [True, False])
def test_biases_on_request(biases):
    model = gated("Llama")
    done = convert(model, "fit", windows(), biases=biases, fit=QUICK)
    assert done.biases == biases
    assert model.config.mlp_bias == biases
    assert (model.model.layers[0].mlp.down_proj.bias is not None) == biases


def test_biases_where_there_is_no_place_for_them():
    model = gated("Mistral")
    before = weights(model)
    with pytest.raises(InputError, match="a mistral model has no option for MLP biases"):
        convert(model, "fit", windows(), biases=True)
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("activation", "slope"),
    [(silu, 0.5), (gelu, 0.5), (torch.relu, 0.5), (torch.tanh, 1.0)],
)
def test_slopes(activation, slope):
    assert slope_at_zero(activation) == slope


def test_half_precision_stays():
    model = gated("Llama", dtype=torch.bfloat16)
    convert(model, "closed-form", windows())
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert logits(model).isfinite().all()


def poison(model):
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.inf


def linear_already(model):
    convert(model, "linear")


def nothing(model):
    pass


@pytest.mark.parametrize(
    ("spoil", "method", "calibration", "said"),
    [
        (
            linear_already,
            "fit",
            windows(),
            r"2 of 2 MLPs are bilinear already \(model\.layers\.0\.mlp",
        ),
        (poison, "fit", windows(), r"NaN or infinity in model\.layers\.1\.mlp\.up_proj\.weight"),
        (nothing, "fit", None, "the method fit needs calibration text"),
        (nothing, "closed-form", None, "the method closed-form needs calibration text"),
        (
            nothing,
            "fit",
            windows(1),
            r"calibration of shape \[1, 16\]; expected \[window, pos\]",
        ),
        (nothing, "fit", windows(0), r"calibration of shape \[0, 16\]"),
        (nothing, "fit", windows(8, 1), r"calibration of shape \[8, 1\]"),
        (nothing, "linear", windows() + 60, "token ids from 61 to 123; expected those of the model's 64"),
    ],
)
def test_refused_and_left_alone(spoil, method, calibration, said):
    model = gated("Llama")
    spoil(model)
    before, config = weights(model), model.config.to_dict()
    with pytest.raises(InputError, match=said):
        convert(model, method, calibration)
    assert unchanged(model, before)
    assert model.config.to_dict() == config


def test_bad_settings_of_the_fit_are_refused_before_anything_is_changed():
    model = gated("Llama")
    before = weights(model)
    with pytest.raises(InputError, match="expected steps of at least 0"):
        convert(model, "fit", windows(), fit=FitSettings(batch_size=0))
    assert unchanged(model, before)


def test_a_configuration_that_does_not_decide_the_activation():
    model = gated("Llama")
    before = weights(model)

    class Fixed(type(model)):
        def __init__(self, config):
            super().__init__(config)
            for block in self.model.layers:
                block.mlp.act_fn = torch.nn.SiLU()

    model.__class__ = Fixed
    with pytest.raises(InputError, match=r"does not decide the activation of model\.layers\.0\.mlp"):
        convert(model, "fit", windows(), fit=QUICK)
    assert unchanged(model, before)
    assert model.config.hidden_act == "silu"


def test_a_layer_of_another_kind_is_refused():
    model = gated("Llama")
    model.model.layers[1].mlp = torch.nn.Linear(32, 32)
    before = weights(model)
    with pytest.raises(InputError, match=r"1 gated MLPs found .* model\.layers\.1\.mlp \(Linear\)"):
        convert(model, "fit", windows())
    assert unchanged(model, before)


def shared_windows(shared):
    with (shared / "text/tinystories/clean_v1_valid.txt").open() as file:
        text = file.read(100_000)
    ids = load_tokenizer(shared / "stories260K").encode(text, add_special_tokens=False, verbose=False)
    return torch.tensor(ids[: 100 * 256]).view(100, 256)


def test_stories260k(shared, tmp_path):
    held_out = shared_windows(shared)
    model = load(shared / "stories260K")
    assert window_loss(model, held_out) == pytest.approx(1.3387, abs=5e-4)
    convert(model, "linear")
    assert window_loss(model, held_out) == pytest.approx(4.90, abs=0.01)
    with (shared / "text/tinystories/clean_v1_train.txt").open() as file:
        (tmp_path / "text.txt").write_text(file.read(150_000))
    calibration = calibration_windows(
        load_tokenizer(shared / "stories260K"), [str(tmp_path / "text.txt")], n_tokens=40_000, first=False
    )
    model = load(shared / "stories260K")
    assert convert(model, "closed-form", calibration).biases
    assert window_loss(model, held_out) < 2.40
