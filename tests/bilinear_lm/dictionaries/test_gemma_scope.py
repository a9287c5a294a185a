"""Gemma Scope's archives and Gemma Scope 2's files, written by numpy; nothing pickled is read."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import bilinear_lm.dictionaries.locate
from bilinear_lm import InputError, Site, load_dictionary

F = 24
RES = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"


@pytest.fixture
def arrays(weights):
    names = {"W_enc": "encoder", "b_enc": "b_enc", "W_dec": "decoder", "b_dec": "b_dec"}
    return {name: weights[ours] for name, ours in names.items()} | {"threshold": weights["threshold"]}


@pytest.fixture
def write_npz(tmp_path):
    def write(arrays, folder=RES, save=np.savez):
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        save(path / "params.npz", **arrays)
        return path

    return write


def reconstruction(weights, points):
    pre = points @ weights["encoder"] + weights["b_enc"]
    code = np.where(pre > weights["threshold"], pre, 0)
    return code, code @ weights["decoder"] + weights["b_dec"]


def agree(dictionary, weights, points, out=None):
    code, plain = reconstruction(weights, points)
    given = torch.from_numpy(points)
    torch.testing.assert_close(dictionary.encode(given), torch.from_numpy(code), rtol=1e-5, atol=1e-5)
    expected = torch.from_numpy(plain if out is None else out)
    torch.testing.assert_close(dictionary(given), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("letter", ["W", "w"])
def test_an_archive(write_npz, arrays, weights, points, save, letter):
    folder = write_npz({name.replace("W_", f"{letter}_"): value for name, value in arrays.items()}, save=save)
    for path in (folder, folder / "params.npz"):
        dictionary = load_dictionary(path)
        agree(dictionary, weights, points)
        assert dictionary.site == Site(20, "resid-post")
        assert dictionary.target is None


@pytest.mark.parametrize(
    ("folder", "site", "target"),
    [
        ("gemma-scope-9b-pt-mlp/layer_3/width_16k/average_l0_20", Site(3, "mlp-out"), None),
        ("models--google--gemma-scope-9b-it-res/snapshots/ab/layer_9/w/a", Site(9, "resid-post"), None),
        ("gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_6", None, Site(5, "mlp-out")),
        # What heads put out before they are mixed, and embeddings, are none of the points.
        ("gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_20", None, None),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", None, None),
        ("layer_20/width_16k/average_l0_71", None, None),
    ],
)
def test_where_the_path_tells_it(write_npz, arrays, weights, points, folder, site, target):
    dictionary = load_dictionary(write_npz(arrays, folder))
    assert (dictionary.site, dictionary.target) == (site, target)
    agree(dictionary, weights, points)


@pytest.mark.parametrize("kind", [np.float64, np.float16, ">f4", "fortran"])
def test_arrays_of_other_kinds(write_npz, arrays, weights, points, kind):
    other = {
        name: np.asfortranarray(value) if kind == "fortran" else value.astype(kind)
        for name, value in arrays.items()
    }
    dictionary = load_dictionary(write_npz(other))
    exact = {name: value.astype(np.float32) for name, value in other.items()}
    assert torch.equal(dictionary.encoder, torch.from_numpy(np.ascontiguousarray(exact["W_enc"])))
    assert torch.equal(dictionary.threshold, torch.from_numpy(exact["threshold"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": None}, "threshold is missing"),
        ({"W_enc": np.zeros((5, F), np.float32)}, None),
        ({"W_enc": np.zeros((6, 25), np.float32)}, r"W_enc has shape \[6, 25\], expected \[6, 24\]"),
        ({"W_dec": np.zeros(3, np.float32)}, r"W_dec has shape \[3\], expected"),
        ({"extra": np.zeros(3, np.float32)}, "extra is left over"),
        ({"b_enc": np.array(["x"] * F, dtype=object)}, "b_enc is of pickled objects, which are never read"),
        ({"b_enc": np.zeros(F, np.int64)}, "b_enc is of int64; expected floating-point weights"),
        ({"b_enc": np.zeros(F, np.complex64)}, "b_enc is of complex64; expected floating-point weights"),
        ({"b_enc": np.zeros(F, bool)}, "b_enc is of bool; expected floating-point weights"),
        ({"b_enc": np.array(["a"] * F)}, "b_enc is of <U1; expected floating-point weights"),
        ({"b_enc": np.full(F, np.nan)}, "NaN or infinity in b_enc"),
        ({"b_dec": np.full(6, 1e300)}, "b_dec beyond 3.4e\\+38, the largest float32"),
    ],
)
def test_archives_that_are_no_dictionary(write_npz, arrays, change, message):
    kept = {name: value for name, value in (arrays | change).items() if value is not None}
    folder = write_npz(kept)
    if message is None:  # a transcoder of two widths
        assert load_dictionary(folder).d_in == 5
        return
    with pytest.raises(InputError, match=message) as raised:
        load_dictionary(folder)
    assert str(raised.value).startswith(str(folder))


def numpy_file(header, data=b""):
    buffer = io.BytesIO()
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    buffer.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "entry",
    [
        b"no array",
        b"\x93NUMPY\x07\x00",
        numpy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000)}"),
        numpy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"1234567"),
        numpy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b"1234"),
        numpy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"12345"),
        numpy_file("__import__('os').system('true')"),
    ],
)
def test_damaged_entries(tmp_path, entry):
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", entry)
    with pytest.raises(InputError, match=r"not a complete .npz file .* truncated or damaged"):
        load_dictionary(tmp_path / "params.npz")


def test_damaged_archives(write_npz, arrays):
    folder = write_npz(arrays)
    file = folder / "params.npz"
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"PK", whole[:200] + b"\xff" * 40 + whole[240:]):
        file.write_bytes(data)
        with pytest.raises(InputError, match=r"params\.npz") as raised:
            load_dictionary(folder)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2(tmp_path, arrays, weights, points, configured, skip):
    tensors = {name.lower(): value for name, value in arrays.items()}
    if skip:
        tensors["affine_skip_connection"] = weights["skip"]
    save_file(tensors, tmp_path / "params.safetensors")
    if configured:
        config = {
            "architecture": "jump_relu",
            "hf_hook_point_in": "model.layers.7.pre_feedforward_layernorm.output",
            "hf_hook_point_out": "model.layers.7.post_feedforward_layernorm.output",
            "affine_connection": skip,
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
    dictionary = load_dictionary(tmp_path)
    _, out = reconstruction(weights, points)
    agree(dictionary, weights, points, out + points @ weights["skip"] if skip else out)
    sites = (Site(7, "mlp-in"), Site(7, "mlp-out")) if configured else (None, None)
    assert (dictionary.site, dictionary.target) == sites


@pytest.mark.parametrize(
    ("module", "site"),
    [
        ("model.layers.3.output", Site(3, "resid-post")),
        ("model.language_model.layers.12.post_feedforward_layernorm.output", Site(12, "mlp-out")),
        ("model.layers.3.self_attn.o_proj.input", None),
        (None, None),
    ],
)
def test_modules_of_gemma_scope_2(tmp_path, arrays, module, site):
    save_file({name.lower(): value for name, value in arrays.items()}, tmp_path / "params.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "jump_relu", "hf_hook_point_in": module})
    )
    dictionary = load_dictionary(tmp_path)
    assert (dictionary.site, dictionary.target) == (site, None)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "topk"}))
    with pytest.raises(InputError, match="architecture is 'topk', which is not read here"):
        load_dictionary(tmp_path)


def test_from_the_hub(tmp_path, monkeypatch, write_npz, arrays):
    seen = {}
    write_npz(arrays)
    hub = tmp_path / "models--google--gemma-scope-2b-pt-res" / "snapshots" / "0"
    shutil.copytree(tmp_path / "gemma-scope-2b-pt-res", hub)

    def download(repo, revision, files):
        seen.update(repo=repo, files=files)
        return hub

    monkeypatch.setattr(bilinear_lm.dictionaries.locate, "download", download)
    name = "google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    for path in (name, f"{name}/params.npz"):
        dictionary = load_dictionary(path)
        assert dictionary.site == Site(20, "resid-post")
        assert seen["repo"] == "google/gemma-scope-2b-pt-res"
        assert "layer_20/width_16k/average_l0_71/params.npz" in seen["files"]
