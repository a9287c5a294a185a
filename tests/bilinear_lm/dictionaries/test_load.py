"""Where dictionaries are found, and one clear error for each that cannot be used."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import bilinear_lm.dictionaries.locate
import bilinear_lm.shipped
from bilinear_lm import InputError, Site, load_dictionary


def test_precision_and_what_is_asked_for(write_saelens):
    folder = write_saelens({"metadata": {}})
    dictionary = load_dictionary(folder, dtype=torch.float64, site=Site(1, "mlp-in"), d_in=6)
    assert dictionary.dtype == torch.float64
    assert dictionary.site == Site(1, "mlp-in")
    assert load_dictionary(str(folder)).dtype == torch.float32


def test_another_site_or_width(write_published):
    folder = write_published()
    with pytest.raises(InputError, match="a dictionary of site 4-mlp-out, expected 4-mlp-in"):
        load_dictionary(folder, site=Site(4, "mlp-in"))
    with pytest.raises(
        InputError, match="a dictionary of width 6, expected 192; it belongs to another model"
    ):
        load_dictionary(folder, d_in=192)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architecture": "temporal"},
            "architecture is 'temporal'; expected one of standard, topk, jumprelu",
        ),
        ({"architecture": "batchtopk"}, "expected one of .*; save it as SAELens does for inference"),
        ({"architecture": "gated"}, "not those of one dictionary: b_gate is missing; r_mag is missing"),
        ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'; expected relu, or topk"),
        (
            {"normalize_activations": "covariance_whitening"},
            "normalize_activations is 'covariance_whitening'; .* save it from SAELens after folding",
        ),
        ({"normalize_activations": 3}, "normalize_activations is 3; expected none"),
        (
            {"normalize_activations": "expected_average_only_in"},
            "whose factor is not in the folder; give it as .*norm_scaling_factor=.* or save",
        ),
        ({"normalize_activations": True}, "whose factor is not in the folder"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z', .* expected a dictionary of"),
        ({"hook_name": "blocks.1.attn.hook_z", "metadata": None}, "reshape_activations is 'hook_z'"),
        ({"metadata": "none"}, "metadata is 'none'; expected a value of type dict"),
        ({"architecture": "topk", "activation_fn_kwargs": [5]}, "activation_fn_kwargs is"),
        ({"architecture": "topk", "k": 0}, "k is 0 with activation topk and 24 features"),
        ({"architecture": "topk", "k": 2.0}, "k is 2.0; expected a value of type int"),
        ({"architecture": "topk"}, "k is missing; expected a value of type int"),
        ({"architecture": "topk", "k": True}, "k is True; expected a value of type int"),
        ({"architecture": "topk", "k": 25}, "k is 25 with activation topk and 24 features"),
        ({"architecture": "jumprelu"}, "not those of one dictionary: threshold is missing"),
        ({"d_sae": 25}, r"W_enc has shape \[6, 24\], expected \[6, 25\]"),
        (
            {"architecture": "transcoder", "d_out": 6},
            "apply_b_dec_to_input is True, which is not read here; expected False",
        ),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes'; expected a value of type bool"),
    ],
)
def test_saelens_settings(write_saelens, config, message):
    with pytest.raises(InputError, match=message) as raised:
        load_dictionary(write_saelens(config))
    assert "/dictionary: " in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ["b_enc"]}, "b_enc is missing"),
        ({"add": {"W_gate": np.zeros(3, dtype=np.float32)}}, "W_gate is left over"),
        ({"add": {"b_dec": np.zeros(3, dtype=np.float32)}}, r"b_dec has shape \[3\], expected \[6\]"),
        ({"add": {"b_enc": np.full(24, np.nan, dtype=np.float32)}}, "NaN or infinity in b_enc"),
        ({"add": {"scaling_factor": np.full(24, 2, dtype=np.float32)}}, "scaling_factor from finetuning"),
    ],
)
def test_saelens_weights(write_saelens, change, message):
    with pytest.raises(InputError, match=message):
        load_dictionary(write_saelens(**change))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax', which is not read here; expected 'topk'"),
        ({"signed": True}, "signed is True, which is not read here"),
        ({"skip_connection": True}, "W_skip is missing"),
        ({"num_latents": 0, "expansion_factor": 8}, r"expected \[48, 6\]"),
        ({"k": None}, "k is missing"),
        ({"site": "two"}, "site 'two'; expected {layer}-{point}"),
    ],
)
def test_sparsify_settings(write_sparsify, config, message):
    with pytest.raises(InputError, match=message):
        load_dictionary(write_sparsify(config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bilinear_encoder": True}, r"w_enc.weight has shape \[24, 6\], expected \[48, 6\]"),
        ({"point": ["mlp-middle", 4]}, "site '4-mlp-middle'; expected {layer}-{point} with one of resid-pre"),
        ({"point": [4, "mlp-out"]}, "expected a point and a layer"),
        ({"passthrough": [6]}, r"passthrough \[6\]; expected coordinates below 6"),
        ({"k": "many"}, "k is 'many'; expected a value of type int"),
    ],
)
def test_published_settings(write_published, config, message):
    with pytest.raises(InputError, match=message):
        load_dictionary(write_published(config))


def test_a_transcoder_the_wrong_way_round(write_circuit_tracer, weights):
    with pytest.raises(InputError, match=r"W_enc has shape \[6, 24\], expected \[24, 6\]"):
        load_dictionary(write_circuit_tracer(add={"W_enc": weights["encoder"]}))


def test_files_that_are_no_dictionary(write_sparsify, write, tmp_path):
    folder = write_sparsify()
    weights = folder / "sae.safetensors"
    with pytest.raises(InputError, match="give the folder of the dictionary"):
        load_dictionary(weights)
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_dictionary(folder)
    (folder / "cfg.json").unlink()
    model = write({"lm_head.weight": np.zeros((2, 2))}, folder="model", weights_name="model.safetensors")
    with pytest.raises(InputError, match=r"no dictionary in it, its tensors are lm_head\.weight"):
        load_dictionary(model)
    for name in ("ae.pt", "sae.bin"):
        pickle = tmp_path / name.removesuffix(".pt") / name
        pickle.parent.mkdir()
        pickle.write_bytes(b"PK")
        for path in (pickle, pickle.parent):
            with pytest.raises(InputError, match="a pickle or archive, which is never read"):
                load_dictionary(path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="not a dictionary; expected a folder"):
        load_dictionary(tmp_path / "notes.txt")


def test_folders_of_dictionaries(write_sparsify, write_circuit_tracer, tmp_path):
    write_sparsify(folder="many/0-mlp-in")
    write_sparsify(folder="many/0-mlp-out")
    with pytest.raises(InputError, match="give one of its folders 0-mlp-in, 0-mlp-out"):
        load_dictionary(tmp_path / "many")
    with pytest.raises(
        InputError, match=r"several transcoders; give one file of it, as .*layer_7.safetensors"
    ):
        load_dictionary(write_circuit_tracer().parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no dictionary there, expected one of model.safetensors"):
        load_dictionary(tmp_path / "empty")


def test_names(tmp_path, monkeypatch, write_sparsify):
    made = write_sparsify(folder="models/tiny-scope/0-mlp-in")
    monkeypatch.setattr(bilinear_lm.shipped, "SHIPPED", tmp_path / "models")
    assert load_dictionary("tiny-scope/0-mlp-in").n_feat == 24
    with pytest.raises(InputError, match=r"no such file or folder; .*tiny-scope/0-mlp-in"):
        load_dictionary("nothing here")
    with pytest.raises(InputError, match="a local path has no revision v1"):
        load_dictionary(made, revision="v1")


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("owner/tiny-scope/4-mlp-out-x4-k30", "4-mlp-out-x4-k30/model.safetensors"),
        ("owner/set/layer_7.safetensors", "layer_7.safetensors"),
        ("owner/one", "sae.safetensors"),
    ],
)
def test_the_hub_is_downloaded_and_then_read_as_a_folder(
    name, asked, tmp_path, monkeypatch, write_published, write_circuit_tracer, write_sparsify
):
    seen = {}
    hub = tmp_path / "hub"
    shutil.copytree(write_published(), hub / "4-mlp-out-x4-k30")
    shutil.copy(write_circuit_tracer(), hub)
    shutil.copytree(write_sparsify(), hub, dirs_exist_ok=True)

    def download(repo, revision, files):
        seen.update(repo=repo, revision=revision, files=files)
        return hub

    monkeypatch.setattr(bilinear_lm.dictionaries.locate, "download", download)
    assert load_dictionary(name, revision="v1").d_in == 6
    assert seen["repo"] == "/".join(name.split("/")[:2])
    assert seen["revision"] == "v1"
    assert asked in seen["files"]
    with pytest.raises(InputError, match="the hub repository owner/one has no dictionary at other"):
        load_dictionary("owner/one/other")


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec", "threshold"])
@pytest.mark.parametrize(("value", "dtype"), [(1e300, None), (1e5, torch.float16), (1e300, torch.bfloat16)])
def test_numbers_too_large_for_what_is_asked(write_saelens, weights, name, value, dtype):
    add = {"threshold": weights["threshold"]}
    ours = {"W_enc": "encoder", "W_dec": "decoder"}.get(name, name)
    add[name] = weights[ours].astype(np.float64)
    add[name].flat[3] = value
    folder = write_saelens({"architecture": "jumprelu"}, add=add)
    with pytest.raises(InputError, match=f"/dictionary: a dictionary: {ours} beyond .* the largest"):
        load_dictionary(folder, dtype=dtype)
    assert float(getattr(load_dictionary(folder, dtype=torch.float64), ours).view(-1)[3]) == value


@pytest.mark.parametrize("form", ["saelens", "sparsify", "published", "circuit_tracer"])
@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (np.complex64, "complex numbers in b_dec; expected real weights"),
        (np.int8, "int8 numbers in b_dec; expected floating-point weights"),
        (np.int64, "int64 numbers in b_dec; expected floating-point weights"),
        (bool, "bool numbers in b_dec; expected floating-point weights"),
    ],
)
def test_weights_that_are_no_real_numbers(request, weights, form, dtype, said):
    path = request.getfixturevalue(f"write_{form}")(add={"b_dec": weights["b_dec"].astype(dtype)})
    with pytest.raises(InputError, match=said):
        load_dictionary(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_narrow_numbers_are_read_as_they_are(write_saelens, weights, dtype):
    folder = write_saelens()
    file = folder / "sae_weights.safetensors"
    narrow = {name: value.to(dtype) for name, value in load_file(file).items()}
    save_file(narrow, file)
    dictionary = load_dictionary(folder)
    assert torch.equal(dictionary.encoder, narrow["W_enc"].float())
    assert torch.equal(dictionary.b_dec, narrow["b_dec"].float())
    narrow["b_enc"] = torch.full((24,), torch.nan).to(dtype)
    save_file(narrow, file)
    with pytest.raises(InputError, match="NaN or infinity in b_enc"):
        load_dictionary(folder)


@pytest.mark.parametrize("k", [0, -3, 25, True, 3.0, "3"])
@pytest.mark.parametrize("form", ["saelens", "sparsify", "published"])
def test_k_of_a_file(request, form, k):
    config = {"k": k} | ({"architecture": "topk"} if form == "saelens" else {})
    with pytest.raises(
        InputError, match=f"k is '?{k}'?( with activation topk|; expected a value of type int)"
    ):
        load_dictionary(request.getfixturevalue(f"write_{form}")(config))


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json", "activation_scaler.json"])
def test_links_out_of_the_folder(write_saelens, tmp_path, name):
    folder = write_saelens({"normalize_activations": "expected_average_only_in"})
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 2.0}')
    assert load_dictionary(folder).n_feat == 24
    (tmp_path / "elsewhere").mkdir()
    (folder / name).rename(tmp_path / "elsewhere" / name)
    (folder / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(InputError, match=f"dictionary: '{name}' lies outside the folder, a link to"):
        load_dictionary(folder)


def test_a_disk_that_refuses(write_sparsify, monkeypatch):
    folder = write_sparsify()

    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.is_file", refused)
    with pytest.raises(InputError, match=r"cannot be read .Permission denied.; expected a file or folder"):
        load_dictionary(folder)


@pytest.mark.parametrize("layer", ["9" * 5000, "9" * 10])
def test_layers_of_thousands_of_digits(write_saelens, layer):
    metadata = {"hook_name": f"blocks.{layer}.hook_mlp_out"}
    assert load_dictionary(write_saelens({"metadata": metadata})).site is None
    with pytest.raises(InputError, match=r"expected \{layer\}-\{point\} with one of"):
        Site.parse(f"{layer}-mlp-out")
