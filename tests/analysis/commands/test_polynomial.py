"""`bilinear-lm polynomial` as a user gives it: a model, a run with checkpoints, and what is refused."""

import json
import random

import pytest
import torch

from analysis import approximate_layers
from analysis.text.windows import document_windows, mean_loss
from bilinear_lm import load_pretrained, load_tokenizer
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main
from finetune.data.windows import train_tokenizer


@pytest.fixture
def folder(tmp_path, make_model, tiny_tokenizer):
    """A SwiGLU model with checkpoints of two steps, and a text."""
    model = make_model(gate="silu", d_vocab=len(tiny_tokenizer))
    save_folder(model, tiny_tokenizer, tmp_path / "model")
    save_folder(model, tiny_tokenizer, tmp_path / "model" / "checkpoints" / "16")
    with torch.no_grad():
        model.model.layers[0].mlp.gate_proj.weight *= 0.1
    save_folder(model, tiny_tokenizer, tmp_path / "model" / "checkpoints" / "00")
    words, generator = ["cat", "dog", "ran", "park", "ball", "saw", "they", "big"], random.Random(0)
    told = [" ".join(generator.choices(words, k=12)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(told))
    return tmp_path


def run(folder, name, *arguments):
    given = [str(folder / name), "-o", str(folder / "out"), "--device", "cpu", *arguments]
    return main(["polynomial", *given])


def read(folder, name):
    return json.loads((folder / "out" / name).read_text(), parse_constant=pytest.fail)


def test_a_model_and_its_training(folder, capsys):
    arguments = ("--contexts", str(folder / "text.txt"), "--degrees", "1", "3", "--fit-degrees", "1", "2")
    assert run(folder, "model", *arguments) == 0
    told = capsys.readouterr().out.strip().splitlines()
    names = ["polynomial.json", "polynomial.png", "training.json", "training.png"]
    assert told[-1] == str(folder / "out")
    assert sorted(path.name for path in (folder / "out").iterdir()) == names
    result, course = read(folder, "polynomial.json"), read(folder, "training.json")
    model, tokenizer = load_pretrained(folder / "model"), load_tokenizer(folder / "model")
    windows = document_windows(tokenizer, (folder / "text.txt").read_text(), 32)
    held_out = windows[-(len(windows) // 5) :]
    assert result["n_held_out"] == sum(map(len, held_out))
    seen = windows[: -len(held_out)]
    assert result["n_tokens"] == sum(map(len, seen))
    found = approximate_layers(model, seen, held_out, degrees=(1, 3), fit_degrees=(1, 2))
    for row, layer in enumerate(result["layers"]):
        assert layer["r_squared"]["text"] == pytest.approx(found.on_text[row].tolist())
        assert layer["r_squared"]["gaussian"] == pytest.approx(found.gaussian[row].tolist())
        assert layer["r_squared"]["fits"] == pytest.approx(found.fits_on_text[row].tolist())
    losses = result["losses"]
    assert losses["whole"] == pytest.approx(mean_loss(model, held_out))
    replaced = losses["replaced_by"]
    assert list(replaced) == ["degree 1", "degree 3", "fit, degree 1", "fit, degree 2", "nothing"]
    assert abs(replaced["degree 3"]["all"] - losses["whole"]) < abs(
        replaced["nothing"]["all"] - losses["whole"]
    )
    assert [step["step"] for step in course["steps"]] == [0, 16]
    assert course["steps"][1]["r_squared"]["text"][0] == pytest.approx(
        result["layers"][0]["r_squared"]["text"]
    )
    lines = [step["r_squared"]["gaussian"][0][0] for step in course["steps"]]
    assert lines[0] != lines[1]
    assert f"loss {losses['whole']:.3f} of the model as it is" in told[-5]


def test_a_folder_of_checkpoints_alone(folder, capsys):
    text = ("--contexts", str(folder / "text.txt"), "--degrees", "2", "--tokens", "400")
    assert run(folder, "model/checkpoints", *text) == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["training.json", "training.png"]
    assert read(folder, "training.json")["settings"]["checkpoint"] == "checkpoints"
    assert read(folder, "training.json")["n_tokens"] < 400


def test_outputs_that_do_not_vary(folder, capsys):
    """R² of a constant is 1 where the polynomial is it; JSON has no infinite numbers."""
    model, tokenizer = load_pretrained(folder / "model"), load_tokenizer(folder / "model")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    save_folder(model, tokenizer, folder / "zero")
    assert run(folder, "zero", "--contexts", str(folder / "text.txt"), "--degrees", "0", "1") == 0
    assert read(folder, "polynomial.json")["layers"][1]["r_squared"]["text"] == [1, 1]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("model", (), "no text to measure its MLPs on; give one by --contexts FILE"),
        ("model", ("--contexts", "{}/none.txt"), "none.txt"),
        ("model", ("--contexts", "{}/short.txt"), "a text of 1 windows of 32 tokens; expected two or more"),
        ("model", ("--contexts", "{}/empty.txt"), "empty"),
        ("model", ("--contexts", "{}/text.txt", "--degrees", "17"), "--degrees 17; expected 0 to 16"),
        ("model", ("--contexts", "{}/text.txt", "--fit-degrees", "3"), "--fit-degrees 3; expected 1 or 2"),
        ("model", ("--contexts", "{}/text.txt", "--tokens", "3"), "--tokens 3; expected at least 20"),
        ("other", ("--contexts", "{}/text.txt"), "no checkpoint and no folder of them"),
        ("wide", ("--contexts", "{}/text.txt"), "expected checkpoints of one model"),
        ("renamed", ("--contexts", "{}/text.txt"), "expected two checkpoints of one tokenizer"),
        ("model", ("--contexts", "{}/text.txt", "-o", "{}/model"), "exists already"),
    ],
)
def test_refused(folder, name, arguments, said, capsys, make_model, tiny_tokenizer):
    (folder / "short.txt").write_text("A cat.")
    (folder / "empty.txt").write_text(" \n")
    (folder / "other" / "notes").mkdir(parents=True)
    if name in ("wide", "renamed"):
        (folder / "model" / "checkpoints").rename(folder / name)
        step = folder / name / "32"
        n_layers = 3 if name == "wide" else 2
        save_folder(
            make_model(gate="silu", d_vocab=len(tiny_tokenizer), n_layers=n_layers), tiny_tokenizer, step
        )
        train_tokenizer(["a cow and a duck swam. " * 3], 300).save_pretrained(folder / name / "16")
    before = sorted(path.name for path in folder.iterdir())
    assert run(folder, name, *(part.format(folder) for part in arguments)) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert sorted(path.name for path in folder.iterdir()) == before
