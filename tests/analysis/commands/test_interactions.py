"""`bilinear-lm interactions` as a function: what it writes, and what bad input gives."""

import json

import pytest
import torch
import tyro
from safetensors.torch import load_file

from analysis import certify_features, feature_layer, strongest_interactions
from analysis.commands.interactions import interactions
from bilinear_lm import Dictionary, InputError, Site, load_pretrained, save_dictionary
from bilinear_lm.checkpoints import save_folder


@pytest.fixture
def files(tmp_path, make_model, tiny_tokenizer):
    """A tiny checkpoint, a dictionary on each side of its second MLP, and a text."""
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "model")
    torch.manual_seed(0)
    dictionaries = {
        name: Dictionary(torch.randn(16, 20), torch.randn(20, 16), activation="topk", k=4, site=Site(1, name))
        for name in ("mlp-in", "mlp-out")
    }
    for name, dictionary in dictionaries.items():
        save_dictionary(dictionary, tmp_path / name)
    (tmp_path / "text.txt").write_text("a cat and a dog ran to the park. They saw a big red ball. " * 20)
    arguments = {"inputs": str(tmp_path / "mlp-in"), "outputs": str(tmp_path / "mlp-out")}
    return tmp_path, dictionaries, {"layer": 1, "device": "cpu", **arguments}


def test_without_a_text(files, capsys):
    folder, dictionaries, arguments = files
    interactions(str(folder / "model"), **arguments, k=6, output=folder / "out")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("output feature")
    assert last == str(folder / "out")
    told = json.loads((folder / "out" / "interactions.json").read_text())
    assert [row["output"] for row in told["features"]] == list(range(20))
    assert all(len(row["mass"]) == 10 for row in told["features"])
    assert told["settings"]["layer"] == 1
    assert told["worst_case_error"] == 0.1
    ranges = certify_features(load_pretrained(str(folder / "model")), dictionaries["mlp-out"])
    assert [row["certified"]["high"] for row in told["features"]] == pytest.approx(ranges.high.tolist())
    counts = [row["certified"] for row in told["features"]]
    assert all(0 < row["eigenvectors_and_constant"] <= row["eigenvectors"] <= 16 for row in counts)
    assert set(told["versions"]) == {"bilinear_lm", "torch", "transformers"}
    model = load_pretrained(str(folder / "model"))
    between = feature_layer(model, 1, *dictionaries.values())
    expected = strongest_interactions(between, k=6)
    found = [(item["output"], item["left"], item["right"]) for item in told["interactions"]]
    assert found == [(item.output, item.left, item.right) for item in expected]
    strongest = max(told["features"], key=lambda row: row["strength"])["output"]
    tensors = load_file(folder / "out" / "interactions.safetensors")
    assert torch.allclose(tensors["values"], expected.values, rtol=1e-4)
    assert tensors[f"submatrix.{strongest}.matrix"].shape == (6, 6)
    names = {file.name for file in (folder / "out").iterdir()}
    assert names == {"interactions.json", "interactions.safetensors", f"submatrix-{strongest}.png"}


def test_with_a_text_and_chosen_features(files):
    folder, _, arguments = files
    text = folder / "text.txt"
    interactions(
        str(folder / "model"), **arguments, features=(3, 11), k=5, contexts=text, output=folder / "out"
    )
    told = json.loads((folder / "out" / "interactions.json").read_text(), parse_constant=pytest.fail)
    assert [row["output"] for row in told["features"]] == [3, 11]
    assert {item["output"] for item in told["interactions"]} <= {3, 11}
    assert all(name.startswith("#") for item in told["interactions"] for name in item["names"])
    assert set(told["contexts"]) == {str(feature) for feature in told["correlation"]["features"]}
    assert len(told["ablation"]["loss_change"]["random"]) == 5
    names = {file.name for file in (folder / "out").iterdir()}
    assert names >= {"submatrix-3.png", "submatrix-11.png", "correlation.png", "ablation.png"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 0}, "belongs to 1-mlp-out; expected 0-mlp-out"),
        ({"features": (20,)}, "output feature 20 does not exist"),
        ({"k": 0}, "k=0"),
        ({"inputs": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_writes_nothing(files, change, message):
    folder, _, arguments = files
    with pytest.raises(InputError, match=message):
        interactions(str(folder / "model"), **{**arguments, **change}, output=folder / "out")
    assert not (folder / "out").exists()


def test_bad_files(files):
    folder, _, arguments = files
    (folder / "empty.txt").write_text("")
    (folder / "full").mkdir()
    (folder / "full" / "a").touch()
    with pytest.raises(InputError, match="exists already"):
        interactions(str(folder / "model"), **arguments, output=folder / "full")
    with pytest.raises(InputError, match="no such file"):
        interactions(str(folder / "model"), **arguments, output=folder / "out", contexts=folder / "none.txt")
    with pytest.raises(InputError, match="the text is empty"):
        interactions(
            str(folder / "model"), **arguments, k=3, output=folder / "out", contexts=folder / "empty.txt"
        )


def test_arguments_as_given_on_a_command_line(files, capsys):
    folder, _, arguments = files
    line = [
        str(folder / "model"),
        "--layer",
        "1",
        "--features",
        "3",
        "11",
        "--k",
        "2",
        "-o",
        str(folder / "out"),
    ]
    tyro.cli(interactions, args=[*line, "--inputs", arguments["inputs"], "--outputs", arguments["outputs"]])
    assert {file.suffix for file in (folder / "out").iterdir()} == {".json", ".safetensors", ".png"}
