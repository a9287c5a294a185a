"""What is read from each format computes what the format says, by numpy and by the authors' own codes."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bilinear_lm import Site, load_dictionary


def top(pre, k, signed=False):
    """The k largest entries of each row, in place; without `signed` after a ReLU."""
    smallest_kept = np.sort(pre, axis=-1)[:, -k][:, None]
    return np.where(pre >= smallest_kept, pre if signed else np.maximum(pre, 0), 0)


def agree(dictionary, x, code, out):
    x, code, out = (torch.from_numpy(value) for value in (x, code, out))
    torch.testing.assert_close(dictionary.encode(x), code, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dictionary.decode(code), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sae-plain", "sae-encoder-bias", "sae-bilinear-encoder", "sae-passthrough"])
def test_published_dictionaries_give_the_authors_codes(shared, name):
    folder = shared / "formats" / name
    oracle = load_file(folder / "oracle.safetensors")
    dictionary = load_dictionary(folder)
    torch.testing.assert_close(dictionary.encode(oracle["x"]), oracle["hidden"], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(dictionary(oracle["x"]), oracle["reconstruction"], rtol=1e-5, atol=2e-5)
    if name == "sae-encoder-bias":
        assert (oracle["hidden"] < 0).any()
        assert (dictionary.site, dictionary.target) == (Site(1, "resid-mid"), Site(1, "resid-post"))


def test_published(write_published, weights, points):
    dictionary = load_dictionary(write_published({"passthrough": [0, 3], "point": ["resid_mid", 4]}))
    pre = (points - weights["b_dec"]) @ weights["encoder"]
    code = top(pre, 5, signed=True)
    agree(dictionary, points, code, code @ weights["decoder"] + weights["b_dec"])
    assert dictionary.passthrough == (0, 3)
    assert dictionary.site == Site(4, "resid-mid")


@pytest.mark.parametrize("key", ["bilinear_encoder", "bilinear"])
def test_published_bilinear_encoder_with_bias(write_published, weights, points, key):
    gate, b_gate = weights["encoder"][::-1].T + 1, weights["b_enc"][::-1]
    stacked = {
        "w_enc.weight": np.concatenate([weights["encoder"].T, gate]),
        "w_enc.bias": np.concatenate([weights["b_enc"], b_gate]),
    }
    dictionary = load_dictionary(write_published({key: True}, add=stacked))
    centred = points - weights["b_dec"]
    pre = (centred @ weights["encoder"] + weights["b_enc"]) * (centred @ gate.T + b_gate)
    code = top(pre, 5, signed=True)
    agree(dictionary, points, code, code @ weights["decoder"] + weights["b_dec"])


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_saelens(write_saelens, weights, points, architecture, subtract):
    add = {"threshold": weights["threshold"]} if architecture == "jumprelu" else {}
    config = {"architecture": architecture, "apply_b_dec_to_input": subtract, "k": 5}
    dictionary = load_dictionary(write_saelens(config, add=add))
    pre = (points - weights["b_dec"] * subtract) @ weights["encoder"] + weights["b_enc"]
    code = {
        "standard": np.maximum(pre, 0),
        "topk": top(pre, 5),
        "jumprelu": np.where(pre > weights["threshold"], pre, 0),
    }[architecture]
    agree(dictionary, points, code, code @ weights["decoder"] + weights["b_dec"])
    assert dictionary.site == Site(3, "resid-post")


@pytest.mark.parametrize("jumprelu", [False, True])
def test_saelens_skip_transcoders(write_saelens, weights, points, jumprelu):
    add = {"W_skip": weights["skip"]} | ({"threshold": weights["threshold"]} if jumprelu else {})
    hooks = {"hook_name": "blocks.0.ln2.hook_out", "hook_name_out": "blocks.0.hook_mlp_out"}
    config = {
        "architecture": "jumprelu_skip_transcoder" if jumprelu else "skip_transcoder",
        "apply_b_dec_to_input": False,
        "d_out": 6,
        "metadata": hooks,
    }
    dictionary = load_dictionary(write_saelens(config, add=add))
    pre = points @ weights["encoder"] + weights["b_enc"]
    code = np.where(pre > weights["threshold"] * jumprelu, pre, 0)
    out = code @ weights["decoder"] + weights["b_dec"]
    agree(dictionary, points, code, out)
    whole = torch.from_numpy(out + points @ weights["skip"].T)
    torch.testing.assert_close(dictionary(torch.from_numpy(points)), whole, rtol=1e-5, atol=1e-5)
    assert (dictionary.site, dictionary.target) == (Site(0, "mlp-in"), Site(0, "mlp-out"))


def test_saelens_compares_features_by_what_they_write(write_saelens, weights, points):
    config = {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True}
    dictionary = load_dictionary(write_saelens(config))
    norms = np.linalg.norm(weights["decoder"], axis=1)
    pre = ((points - weights["b_dec"]) @ weights["encoder"] + weights["b_enc"]) * norms
    code = top(pre, 5)
    agree(dictionary, points, code, (code / norms) @ weights["decoder"] + weights["b_dec"])


def test_saelens_before_version_six(write_saelens, weights, points):
    config = {
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 4},
        "hook_name": "blocks.1.hook_mlp_out",
        "metadata": None,
        "normalize_activations": False,
    }
    ones = {"scaling_factor": np.ones(24, dtype=np.float32)}
    dictionary = load_dictionary(write_saelens(config, add=ones))
    code = top((points - weights["b_dec"]) @ weights["encoder"] + weights["b_enc"], 4)
    agree(dictionary, points, code, code @ weights["decoder"] + weights["b_dec"])
    assert dictionary.site == Site(1, "mlp-out")


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.2.mlp.hook_in", Site(2, "mlp-in")),
        ("blocks.2.hook_attn_out", Site(2, "attn-out")),
        ("blocks.2.ln2.hook_normalized", None),
        ("blocks.2.attn.hook_z", None),
    ],
)
def test_saelens_hooks_and_sites(write_saelens, hook, site):
    assert load_dictionary(write_saelens({"metadata": {"hook_name": hook}})).site == site


@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(write_sparsify, weights, points, transcode):
    skip = {"W_skip": weights["skip"]} if transcode else {}
    folder = write_sparsify({"transcode": transcode, "skip_connection": transcode}, add=skip)
    dictionary = load_dictionary(folder)
    pre = (points - weights["b_dec"] * (not transcode)) @ weights["encoder"] + weights["b_enc"]
    code = top(pre, 5)
    out = code @ weights["decoder"] + weights["b_dec"]
    agree(dictionary, points, code, out)
    whole = torch.from_numpy(out + points @ weights["skip"].T * transcode)
    torch.testing.assert_close(dictionary(torch.from_numpy(points)), whole, rtol=1e-5, atol=1e-5)
    sites = (Site(2, "mlp-in"), Site(2, "mlp-out")) if transcode else (Site(2, "mlp-out"), None)
    assert (dictionary.site, dictionary.target) == sites


@pytest.mark.parametrize(
    ("folder", "site"),
    [
        ("layers.10", Site(10, "resid-post")),
        ("h.3", Site(3, "resid-post")),
        ("layers.0.post_attention_layernorm", Site(0, "mlp-in")),
        ("layers.0.self_attn", Site(0, "attn-out")),
        ("layers.0.mlp.gate_proj", None),
        ("mine", None),
    ],
)
def test_sparsify_folders_and_sites(write_sparsify, folder, site):
    assert load_dictionary(write_sparsify(folder=folder)).site == site


@pytest.mark.parametrize("jumprelu", [False, True])
def test_circuit_tracer(write_circuit_tracer, weights, points, jumprelu):
    threshold = weights["threshold"] - 1.0  # some below zero
    add = {"W_skip": weights["skip"]} | ({"activation_function.threshold": threshold} if jumprelu else {})
    file = write_circuit_tracer(add=add)
    file.with_name("config.yaml").write_text(
        'model_name: "tiny"\nfeature_input_hook: "mlp.hook_in"\nfeature_output_hook: hook_mlp_out\n'
    )
    dictionary = load_dictionary(file)
    pre = points @ weights["encoder"] + weights["b_enc"]
    code = pre * (pre > (threshold if jumprelu else 0))
    out = code @ weights["decoder"] + weights["b_dec"]
    agree(dictionary, points, code, out)
    whole = torch.from_numpy(out + points @ weights["skip"].T)
    torch.testing.assert_close(dictionary(torch.from_numpy(points)), whole, rtol=1e-5, atol=1e-5)
    assert (dictionary.site, dictionary.target) == (Site(7, "mlp-in"), Site(7, "mlp-out"))
