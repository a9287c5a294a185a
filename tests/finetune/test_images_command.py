"""`bilinear-lm images` as a user gives it: what it writes, a saved classifier read again, and refusals."""

import json
import struct

import numpy as np
import pytest
import torch

from bilinear_lm.cli import main
from bilinear_lm.networks import ImageClassifier, ImageSettings, load_network, save_network

QUICK = ("--epochs", "4", "--d-model", "10", "--d-mlp", "10", "--certified", "5", "--eigenvectors", "2")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The four idx files of two classes: bright above, or bright below."""
    folder, rng = tmp_path_factory.mktemp("data") / "bars", np.random.default_rng(0)
    folder.mkdir()
    for split, n in (("train", 60), ("t10k", 20)):
        labels = np.arange(n, dtype=np.uint8) % 2
        pixels = rng.integers(0, 60, (n, 4, 4), dtype=np.uint8)
        pixels[labels == 0, :2] += 180
        pixels[labels == 1, 2:] += 180
        for kind, numbers in (("images", pixels), ("labels", labels)):
            header = struct.pack(f">4B{numbers.ndim}I", 0, 0, 8, numbers.ndim, *numbers.shape)
            (folder / f"{split}-{kind}-idx{numbers.ndim}-ubyte").write_bytes(header + numbers.tobytes())
    return folder


@pytest.fixture(scope="module")
def result(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "result"
    options = ("--learning-rate", "0.01", "--batch-size", "10", "--epochs", "20", "--device", "cpu")
    assert main(["images", str(images), "-o", str(output), *QUICK, *options]) == 0
    return output


def test_what_is_written(result):
    names = {"eigenvectors.png", "spectra.png", "ranks.png", "radii.png", "masks.png"}
    assert {path.name for path in result.iterdir()} == names | {"images.html", "images.json", "classifier"}
    record = json.loads((result / "images.json").read_text())
    assert record["accuracy"] == 1.0
    assert record["data"] == "bars"
    assert record["training"]["learning_rate"] == 0.01
    assert len(record["training"]["losses"]) == record["training"]["epochs"] == 20
    assert load_network(result / "classifier").settings.image_shape == (4, 4)
    assert "100.00%" in (result / "images.html").read_text()


def test_a_saved_classifier_is_read(images, result, tmp_path, capsys):
    arguments = ["images", str(images), "--classifier", str(result / "classifier"), "--certified", "5"]
    arguments += ["--eigenvectors", "2", "--device", "cpu", "-o", str(tmp_path / "again")]
    assert main(arguments) == 0
    assert "accuracy 1.0000 on 20 test images" in capsys.readouterr().out
    first, again = (json.loads((each / "images.json").read_text()) for each in (result, tmp_path / "again"))
    assert again["training"] is None
    assert again["eigenvalues"] == first["eigenvalues"]


def refused(capsys, *arguments):
    assert main(["images", *map(str, arguments)]) == 2
    said = capsys.readouterr().err.splitlines()
    return said[-1]


def test_refusals(images, result, tmp_path, capsys):
    out = ("--device", "cpu", "-o", tmp_path / "out")
    assert "exists already" in refused(capsys, images, "-o", result)
    assert "is trained already; leave --epochs" in refused(
        capsys, images, *out, "--classifier", result / "classifier", "--epochs", "2"
    )
    assert "eigenvectors 21; expected at least 1 and at most 20" in refused(
        capsys, images, *out, "--eigenvectors", "21"
    )
    assert "expected a folder of idx files" in refused(capsys, images / "train-labels-idx1-ubyte", *out)
    torch.manual_seed(0)
    for name, settings in {
        "deep": ImageSettings((4, 4), 2, 6, 6, n_layers=2),
        "relu": ImageSettings((4, 4), 2, 6, 6, kind="relu"),
        "other": ImageSettings((5, 5), 2, 6, 6),
    }.items():
        save_network(ImageClassifier(settings), tmp_path / name)
    for name, message in {
        "deep": "2 layers is no quadratic form",
        "relu": "kind 'relu' has no tensor",
        "other": "images [5, 5] in 2 classes for bars",
        "none": "no such file",
    }.items():
        assert message in refused(capsys, images, *out, "--classifier", tmp_path / name)
    assert not (tmp_path / "out").exists()
