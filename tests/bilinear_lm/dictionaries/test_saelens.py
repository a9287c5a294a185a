"""SAELens dictionaries that do more than encode and decode: normalised, gated, finetuned; by numpy."""

import json

import numpy as np
import pytest
import torch

from bilinear_lm import InputError, load_dictionary, save_dictionary

D = 6


@pytest.fixture
def x(points):
    """Points off the centre and of many sizes."""
    sizes = np.linspace(0.01, 30, len(points))[:, None]
    return (points * sizes + np.array([3, -1, 0.5, 2, 0, 1])).astype(np.float32)


def encoded(weights, x, architecture, subtract):
    """The code of what has been normalised already."""
    pre = (x - weights["b_dec"] * subtract) @ weights["encoder"] + weights["b_enc"]
    if architecture == "topk":
        cut = np.sort(pre, axis=-1)[:, -5][:, None]
        return np.where(pre >= cut, np.maximum(pre, 0), 0)
    return np.where(pre > (weights["threshold"] if architecture == "jumprelu" else 0), pre, 0)


def agree(got, expected):
    torch.testing.assert_close(got, torch.from_numpy(np.asarray(expected, np.float32)), rtol=2e-5, atol=2e-5)


def normalised(x, kind):
    """What SAELens encodes of x, and the mean and factor that it gives back."""
    if kind == "constant_norm_rescale":
        factor = np.linalg.norm(x, axis=-1, keepdims=True) / np.sqrt(x.shape[-1])
        return x / factor, 0, factor
    mean = x.mean(axis=-1, keepdims=True)
    deviation = (x - mean).std(axis=-1, keepdims=True, ddof=1)
    return (x - mean) / (deviation + 1e-5), mean, deviation


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("kind", ["constant_norm_rescale", "layer_norm"])
def test_normalised_inputs(write_saelens, weights, x, kind, architecture, subtract, tmp_path):
    config = {"normalize_activations": kind, "architecture": architecture, "k": 5}
    add = {"threshold": weights["threshold"]} if architecture == "jumprelu" else {}
    folder = write_saelens(config | {"apply_b_dec_to_input": subtract}, add=add)
    within, mean, factor = normalised(x.astype(np.float64), kind)
    code = encoded(weights, within, architecture, subtract)
    out = (code @ weights["decoder"] + weights["b_dec"]) * factor + mean
    given = torch.from_numpy(x)
    dictionary = load_dictionary(folder)
    agree(dictionary.encode(given), code)
    agree(dictionary(given), out)
    agree(dictionary.decode(dictionary.encode(given), given), out)
    with pytest.raises(InputError, match=r"normalises what it reads .* give decode\(code, x\)"):
        dictionary.decode(dictionary.encode(given))
    save_dictionary(dictionary, tmp_path / "again", format="saelens")
    assert json.loads((tmp_path / "again" / "cfg.json").read_text())["normalize_activations"] == kind
    assert torch.equal(load_dictionary(tmp_path / "again")(given), dictionary(given))
    if architecture == "topk":
        with pytest.raises(InputError, match="sparsify has no dictionary that normalises what it reads"):
            save_dictionary(dictionary, tmp_path / "sparsify")


@pytest.mark.parametrize("kind", ["constant_norm_rescale", "layer_norm"])
def test_inputs_without_a_size(write_saelens, weights, kind):
    dictionary = load_dictionary(write_saelens({"normalize_activations": kind}))
    zero = np.zeros((1, D))
    code = encoded(weights, zero, "standard", subtract=True)
    agree(dictionary.encode(torch.zeros(1, D)), code)
    assert torch.equal(dictionary(torch.zeros(1, D)), torch.zeros(1, D))
    # A constant vector is all mean.
    if kind == "layer_norm":
        agree(dictionary(torch.full((1, D), 3.0)), np.full((1, D), 3.0))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("spelling", ["expected_average_only_in", True])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_an_average_norm_is_folded_in(write_saelens, weights, x, architecture, spelling, beside):
    factor = 0.37
    config = {"normalize_activations": spelling, "architecture": architecture, "k": 5}
    add = {"threshold": weights["threshold"]} if architecture == "jumprelu" else {}
    folder = write_saelens(config, add=add)
    given = {} if beside else {"norm_scaling_factor": factor}
    if beside:
        scaler = {"scaling_factor": factor, "has_whitening": False}
        (folder / "activation_scaler.json").write_text(json.dumps(scaler))
    dictionary = load_dictionary(folder, **given)
    code = encoded(weights, x.astype(np.float64) * factor, architecture, subtract=True)
    out = (code @ weights["decoder"] + weights["b_dec"]) / factor
    agree(dictionary.encode(torch.from_numpy(x)), code)
    agree(dictionary.decode(dictionary.encode(torch.from_numpy(x))), out)
    assert dictionary.nonlinear is None


def test_a_scaled_dictionary_that_compares_by_what_it_writes(write_saelens, weights, x):
    # SAELens multiplies by the norms of the decoder that the factor is folded into.
    config = {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True}
    config["normalize_activations"] = "expected_average_only_in"
    dictionary = load_dictionary(write_saelens(config), norm_scaling_factor=0.5)
    encoder, decoder, b_dec = weights["encoder"] * 0.5, weights["decoder"] / 0.5, weights["b_dec"] / 0.5
    norms = np.linalg.norm(decoder, axis=1)
    folded = weights | {"encoder": encoder * norms, "b_enc": weights["b_enc"] * norms, "b_dec": b_dec}
    code = encoded(folded, x.astype(np.float64), "topk", subtract=True)
    agree(dictionary.encode(torch.from_numpy(x)), code)
    agree(dictionary(torch.from_numpy(x)), (code / norms) @ decoder + b_dec)


def test_a_feature_that_writes_nothing(write_saelens, weights, x):
    decoder = weights["decoder"].copy()
    decoder[3] = 0
    config = {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True}
    dictionary = load_dictionary(write_saelens(config, add={"W_dec": decoder}))
    norms = np.linalg.norm(decoder, axis=1)
    scaled = weights | {"encoder": weights["encoder"] * norms, "b_enc": weights["b_enc"] * norms}
    code = encoded(scaled, x.astype(np.float64), "topk", subtract=True)
    agree(dictionary.encode(torch.from_numpy(x)), code)
    assert not code[:, 3].any()


def test_only_topk_compares_by_what_it_writes(write_saelens, weights, x):
    config = {"architecture": "jumprelu", "rescale_acts_by_decoder_norm": True}
    dictionary = load_dictionary(write_saelens(config, add={"threshold": weights["threshold"]}))
    agree(dictionary.encode(torch.from_numpy(x)), encoded(weights, x.astype(np.float64), "jumprelu", True))


@pytest.fixture
def gates():
    rng = np.random.default_rng(5)
    parts = {"b_gate": rng.normal(size=24), "r_mag": rng.normal(size=24), "b_mag": rng.normal(size=24)}
    return {name: value.astype(np.float32) for name, value in parts.items()}


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("version", [3, 6])
def test_gated(write_saelens, weights, gates, x, subtract, version, tmp_path):
    config = {"architecture": "gated", "apply_b_dec_to_input": subtract}
    if version == 3:
        config |= {"activation_fn_str": "relu", "normalize_activations": None, "metadata": None}
    dictionary = load_dictionary(write_saelens(config, drop=["b_enc"], add=gates))
    wide = {name: value.astype(np.float64) for name, value in (weights | gates).items()}
    read = x.astype(np.float64) - wide["b_dec"] * subtract
    gate = read @ wide["encoder"] + wide["b_gate"] > 0
    magnitude = np.maximum(read @ (wide["encoder"] * np.exp(wide["r_mag"])) + wide["b_mag"], 0)
    code = gate * magnitude
    # Both ways in which only one of the two is positive occur.
    assert (gate & (magnitude == 0)).any()
    assert (~gate & (magnitude > 0)).any()
    agree(dictionary.encode(torch.from_numpy(x)), code)
    agree(dictionary(torch.from_numpy(x)), code @ wide["decoder"] + wide["b_dec"])
    assert dictionary.nonlinear is None
    save_dictionary(dictionary, tmp_path / "again", format="saelens")
    again = load_dictionary(tmp_path / "again")
    assert torch.equal(again.encode(torch.from_numpy(x)), dictionary.encode(torch.from_numpy(x)))


def test_gated_and_normalised(write_saelens, weights, gates, x):
    config = {"architecture": "gated", "normalize_activations": "layer_norm"}
    dictionary = load_dictionary(write_saelens(config, drop=["b_enc"], add=gates))
    within, mean, factor = normalised(x.astype(np.float64), "layer_norm")
    read = within - weights["b_dec"]
    magnitude = np.maximum(read @ (weights["encoder"] * np.exp(gates["r_mag"])) + gates["b_mag"], 0)
    code = (read @ weights["encoder"] + gates["b_gate"] > 0) * magnitude
    agree(dictionary.encode(torch.from_numpy(x)), code)
    agree(dictionary(torch.from_numpy(x)), (code @ weights["decoder"] + weights["b_dec"]) * factor + mean)


@pytest.mark.parametrize("r_mag", [-200, 200])
def test_magnitudes_that_no_number_is_for(write_saelens, gates, r_mag):
    gates["r_mag"][2] = r_mag
    with pytest.raises(InputError, match=r"r_mag from .* expected log-scales of magnitudes"):
        load_dictionary(write_saelens({"architecture": "gated"}, drop=["b_enc"], add=gates))


@pytest.mark.parametrize("name", ["scaling_factor", "finetuning_scaling_factor"])
def test_finetuned(write_saelens, weights, x, name):
    factors = np.random.default_rng(6).uniform(0.5, 2, size=24).astype(np.float32)
    dictionary = load_dictionary(write_saelens({"finetuning_scaling_factor": True}, add={name: factors}))
    code = encoded(weights, x.astype(np.float64), "standard", subtract=True)
    agree(dictionary.encode(torch.from_numpy(x)), code)
    agree(dictionary(torch.from_numpy(x)), (code * factors) @ weights["decoder"] + weights["b_dec"])


@pytest.mark.parametrize("factor", [0, -1.5, float("inf"), "2", True, None])
def test_factors_that_are_none(write_saelens, factor):
    folder = write_saelens({"normalize_activations": "expected_average_only_in"})
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    said = "not in the folder" if factor is None else "expected a positive number"
    with pytest.raises(InputError, match=said):
        load_dictionary(folder)


def test_where_a_factor_does_not_belong(write_saelens, write_sparsify):
    with pytest.raises(InputError, match=r"norm_scaling_factor=2.0 for normalize_activations 'none'"):
        load_dictionary(write_saelens(), norm_scaling_factor=2.0)
    with pytest.raises(InputError, match=r"norm_scaling_factor=2.0 is for files of SAELens alone"):
        load_dictionary(write_sparsify(), norm_scaling_factor=2.0)
    config = {"architecture": "transcoder", "d_out": D, "apply_b_dec_to_input": False}
    for kind in ("layer_norm", "expected_average_only_in"):
        with pytest.raises(InputError, match=f"'{kind}' of a transcoder, .* expected one trained with none"):
            load_dictionary(write_saelens(config | {"normalize_activations": kind}))
