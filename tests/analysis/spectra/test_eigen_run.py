"""Decompositions on disk: what is saved loads, and a killed run is finished as if it had not been."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import analysis.spectra.eigen_run
from analysis import eigendecompose, eigendecompose_to_folder, load_decomposition, save_decomposition
from analysis.commands.eigen import eigen
from analysis.spectra import Eigendecomposition
from bilinear_lm import BilinearTensor, Dictionary, InputError, Site, mlp_tensor, save_dictionary, unembedding
from bilinear_lm.checkpoints import save_folder

D, H, OUT, N = 64, 100, 6, 23


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tensor():
    return BilinearTensor(draw(D, H), draw(D, H, seed=1), draw(H, OUT, seed=2))


@pytest.fixture
def u():
    return draw(N, OUT, seed=3)


def same(ours, theirs):
    return all(torch.equal(getattr(ours, name), value) for name, value in vars(theirs).items())


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_saved_decompositions_load(tensor, u, tmp_path):
    for name, directions in (("many", u[:6].reshape(2, 3, OUT)), ("one", u[0])):
        found = eigendecompose(tensor, directions, 4)
        save_decomposition(found, tmp_path / name, {"layer": 3})
        assert same(load_decomposition(tmp_path / name), found)
    settings = json.loads((tmp_path / "many" / "settings.json").read_text())
    assert settings["settings"] == {"layer": 3}
    assert set(settings["versions"]) == {"bilinear-lm", "torch"}
    with pytest.raises(InputError, match="exists already"):
        save_decomposition(found, tmp_path / "many")


def test_a_run_is_the_decomposition_in_parts(tensor, u, tmp_path):
    eigendecompose_to_folder(tensor, u, tmp_path / "run", 4, part_size=5, about={"layer": 3})
    names = ["settings.json", *(f"part-0000{i}.safetensors" for i in range(5))]
    assert sorted(contents(tmp_path / "run")) == sorted(names)
    loaded, found = load_decomposition(tmp_path / "run"), eigendecompose(tensor, u, 4)
    for name, value in vars(found).items():
        assert torch.allclose(getattr(loaded, name), value, atol=1e-9)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["about"] == {"layer": 3}
    assert (settings["k"], settings["dtype"], settings["axes"]) == (4, "float64", [N])


KILLED = """
import os, pathlib, signal, sys, torch
from safetensors.torch import load_file
import analysis.spectra.eigen_run as run
from bilinear_lm import BilinearTensor

torch.set_num_threads(1)
folder, moment, weights = pathlib.Path(sys.argv[1]), sys.argv[2], load_file(sys.argv[3])
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
replace, decompose = pathlib.Path.replace, run.eigendecompose

def die_before_renaming(draft, target):
    return die() if target.name == "part-00003.safetensors" else replace(draft, target)

def die_while_computing(*arguments, **options):
    return die() if (folder / "part-00002.safetensors").exists() else decompose(*arguments, **options)

if moment == "renaming":
    pathlib.Path.replace = die_before_renaming
else:
    run.eigendecompose = die_while_computing
tensor = BilinearTensor(weights["W_gate"], weights["W_in"], weights["W_out"])
run.eigendecompose_to_folder(tensor, weights["u"], folder, 4, method="block", part_size=5)
"""


@pytest.mark.parametrize("moment", ["computing", "renaming"])
def test_killed_and_resumed(tensor, u, moment, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    weights = {name: getattr(tensor, name) for name in ("W_gate", "W_in", "W_out")} | {"u": u}
    save_file(weights, tmp_path / "weights")
    command = [sys.executable, "-c", KILLED, str(killed), moment, str(tmp_path / "weights")]
    assert subprocess.run(command, capture_output=True).returncode == -9
    eigendecompose_to_folder(tensor, u, whole, 4, method="block", part_size=5)

    left = {file.name: file.stat() for file in killed.iterdir()}
    assert {f"part-0000{i}.safetensors" for i in range(3)} < left.keys()
    assert "part-00003.safetensors" not in left
    assert any(name.startswith(".part-00003") for name in left) == (moment == "renaming")
    with pytest.raises(InputError, match="holds 15 of 23 directions"):
        load_decomposition(killed)
    prefix = load_decomposition(killed, partial=True)
    assert torch.equal(prefix.vectors, load_decomposition(whole).vectors[:15])

    done, decompose = [], analysis.spectra.eigen_run.eigendecompose
    monkeypatch.setattr(
        analysis.spectra.eigen_run,
        "eigendecompose",
        lambda tensor, u, *a, **options: done.append(len(u)) or decompose(tensor, u, *a, **options),
    )
    with pytest.raises(InputError, match=r"exists already, with a run in it; finish that one with resume"):
        eigendecompose_to_folder(tensor, u, killed, 4, method="block", part_size=5)
    eigendecompose_to_folder(tensor, u, killed, 4, method="block", part_size=5, resume=True)
    assert done == [5, 3]
    assert contents(killed) == contents(whole)
    for index in range(3):
        name = f"part-0000{index}.safetensors"
        assert (killed / name).stat().st_mtime_ns == left[name].st_mtime_ns
    eigendecompose_to_folder(tensor, u, killed, 4, method="block", part_size=5, resume=True)
    assert done == [5, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 3}, "k was 4, is 3"),
        ({"seed": 1, "tolerance": 1e-9}, r"tolerance was .*; seed was 0, is 1"),
        ({"part_size": 6}, "part_size was 5, is 6"),
        ({"u": draw(N, OUT, seed=4)}, "directions_sha256 was"),
        ({"u": draw(N - 1, OUT, seed=3)}, r"axes was \[23\], is \[22\]"),
        ({"tensor": BilinearTensor(draw(D, H), draw(D, H), draw(H, OUT))}, "tensor_sha256 was"),
    ],
)
def test_other_settings_are_not_resumed(tensor, u, change, message, tmp_path):
    arguments = {"tensor": tensor, "u": u, "folder": tmp_path / "run", "k": 4, "part_size": 5}
    eigendecompose_to_folder(**arguments, resume=True)  # a new folder: from the start
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=f"cannot be resumed with other settings.*{message}"):
        eigendecompose_to_folder(**(arguments | change), resume=True)
    assert contents(tmp_path / "run") == before


def test_bad_input(tensor, u, tmp_path):
    broken = u.clone()
    broken[-1, -1] = torch.nan
    for directions, k, message in (
        (u, D + 1, "expected 1 to d_in=64"),
        (u[:, 1:], 4, "expected d_out=6"),
        (broken, 4, "NaN"),
        (u[:0], 4, "0 output directions in parts of 256"),
    ):
        with pytest.raises(InputError, match=message):
            eigendecompose_to_folder(tensor, directions, tmp_path / "run", k)
    assert not (tmp_path / "run").exists()
    (tmp_path / "text.txt").write_text("not ours")
    with pytest.raises(InputError, match="exists already"):
        eigendecompose_to_folder(tensor, u, tmp_path, 4, resume=True)


def test_damaged_folders(tensor, u, tmp_path):
    folder = tmp_path / "run"
    eigendecompose_to_folder(tensor, u, folder, 4, part_size=20)
    part = folder / "part-00001.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-8])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_decomposition(folder)
    save_file({"values": torch.zeros(3, 4)}, part)
    with pytest.raises(InputError, match="expected values, vectors, residuals, gap of 3 directions"):
        load_decomposition(folder)
    part.unlink()
    (folder / "part-00000.safetensors").unlink()
    with pytest.raises(InputError, match="holds 0 of 23"):
        load_decomposition(folder, partial=True)
    (folder / "settings.json").write_text('{"axes": "many"}')
    with pytest.raises(InputError, match="expected whole numbers"):
        load_decomposition(folder)


@pytest.fixture
def checkpoint(tmp_path, make_model, tiny_tokenizer):
    """A tiny checkpoint with a dictionary of what its second MLP writes."""
    model = make_model(d_vocab=len(tiny_tokenizer))
    save_folder(model, tiny_tokenizer, tmp_path / "model")
    torch.manual_seed(0)
    features = Dictionary(
        torch.randn(16, 20), torch.randn(20, 16), activation="topk", k=4, site=Site(1, "mlp-out")
    )
    save_dictionary(features, tmp_path / "features")
    return tmp_path, model, features


def close(ours: Eigendecomposition, theirs: Eigendecomposition):
    return torch.allclose(ours.values, theirs.values, atol=1e-4 * theirs.values.abs().max())


def test_command_for_tokens(checkpoint, tmp_path, capsys):
    folder, model, _ = checkpoint
    arguments = {"layer": -1, "k": 3, "device": "cpu"}
    eigen(str(folder / "model"), **arguments, tokens=("g", "g - c"), output=tmp_path / "two")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("direction")
    assert last == str(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "settings.json").read_text())["about"]["directions"] == [
        "g",
        "g - c",
    ]
    assert (tmp_path / "two" / "spectrum-00001.png").exists()
    assert load_decomposition(tmp_path / "two").values.shape == (2, 3)

    eigen(str(folder / "model"), **arguments, all_tokens=True, output=tmp_path / "all")
    W_U, tensor = unembedding(model), mlp_tensor(model, 1)
    found = load_decomposition(tmp_path / "all")
    assert close(found, eigendecompose(tensor, (W_U - W_U.mean(1, keepdim=True)).T, 3))
    assert not list((tmp_path / "all").glob("*.png"))


def test_command_for_features(checkpoint, tmp_path):
    folder, model, features = checkpoint
    arguments = {"layer": 1, "k": 3, "device": "cpu", "dictionary": str(folder / "features")}
    eigen(str(folder / "model"), **arguments, output=tmp_path / "all")
    eigen(str(folder / "model"), **arguments, features=(7, 2), output=tmp_path / "two")
    exact = eigendecompose(mlp_tensor(model, 1), features.encoder.T, 3)
    assert close(load_decomposition(tmp_path / "all"), exact)
    two = load_decomposition(tmp_path / "two")
    assert torch.allclose(two.values, exact.values[[7, 2]], atol=1e-4 * float(exact.values.abs().max()))
    eigen(str(folder / "model"), **arguments, features=(7, 2), output=tmp_path / "two", resume=True)
    for wrong, message in (
        ({"features": (20,)}, "feature 20 does not exist; expected 0 to 19"),
        ({"layer": 0}, "dictionary of 1-mlp-out; expected one of 0-mlp-out"),
        ({"tokens": ("g",)}, "by --tokens and --dictionary; expected one of"),
        ({"dictionary": None}, "by nothing; expected one of --tokens"),
        ({"dictionary": None, "all_tokens": True, "features": (1,)}, "--features without --dictionary"),
    ):
        with pytest.raises(InputError, match=message):
            eigen(str(folder / "model"), **(arguments | wrong), output=tmp_path / "none")


@pytest.mark.parametrize(
    ("fits", "part_size", "advice"),
    [(0, N, "choose another"), (1, N, "choose another"), (3, 5, r"finish this one with resume \(--resume\)")],
)
def test_a_full_disk(tensor, u, fits, part_size, advice, tmp_path, monkeypatch):
    replace, written = Path.replace, []

    def fill_up(draft, path):
        written.append(path)
        if len(written) > fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(draft, path)

    folder = tmp_path / "new" / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fill_up)
        with pytest.raises(InputError, match=f"No space left on device.*{advice}"):
            eigendecompose_to_folder(tensor, u, folder, 4, part_size=part_size)
    assert folder.exists() == (fits == 3)
    eigendecompose_to_folder(tensor, u, folder, 4, part_size=part_size, resume=True)
    assert load_decomposition(folder).vectors.shape == (N, 4, D)
