"""`bilinear-lm convert` and `finetune` as a user gives them."""

import hashlib
import json

import datasets
import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

import finetune.conversion.checkpoint
from bilinear_lm import load_pretrained
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main

from ..bilinear_lm.tiny_families import gated


def fingerprint(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(20).view(2, 10)).logits


def refused(capsys, arguments, said):
    """The command ends with status 2 and one line that says it."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("bilinear-lm: ")
    assert said in lines[-1]
    assert len([line for line in lines if "bilinear-lm:" in line]) == 1
    assert not any("Traceback" in line for line in lines)


QUICK = ["--calibration-tokens", "1500", "--context", "32", "--steps", "30", "--device", "cpu"]


@pytest.mark.parametrize("method", ["fit", "closed-form", "linear"])
def test_convert(swiglu, stories, capsys, method):
    out, before = stories / "bilinear", fingerprint(swiglu)
    text = ["--calibration", str(stories / "train.txt")]
    assert main(["convert", str(swiglu), "-o", str(out), "--method", method, *text, *QUICK]) == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert told[0].startswith("model.layers.0.mlp")
    assert "R²" in told[0]
    assert "in nats per held-out token" in told[2]
    assert told[3] == str(out)
    assert fingerprint(swiglu) == before
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert model.config.hidden_act == "linear"
    torch.testing.assert_close(logits(load_pretrained(out)), logits(model))
    record = json.loads((out / "convert.json").read_text())
    assert record["source"] == "swiglu"
    assert record["settings"]["method"] == method
    assert record["settings"]["calibration"] == ["train.txt"]
    assert record["conversion"]["loss_after"] > record["conversion"]["loss_before"] - 0.5
    assert record["reload_difference"] < 1e-4
    assert main(["info", str(out)]) == 0
    assert "bilinear" in capsys.readouterr().out


def test_convert_without_text(swiglu, stories, capsys):
    out = stories / "bilinear"
    assert main(["convert", str(swiglu), "-o", str(out), "--method", "linear", "--store", "bfloat16"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    conversion = json.loads((out / "convert.json").read_text(), parse_constant=pytest.fail)["conversion"]
    assert conversion["layers"][0]["r_squared"] is None


def test_the_closed_form_of_a_family_without_biases(stories, tiny_tokenizer, capsys):
    save_folder(gated("Qwen2", vocab_size=len(tiny_tokenizer)), tiny_tokenizer, stories / "qwen2")
    arguments = [str(stories / "qwen2"), "-o", str(stories / "out"), "--method", "closed-form", *QUICK]
    assert main(["convert", *arguments, "--calibration", str(stories / "train.txt")]) == 0
    assert "with biases)" in capsys.readouterr().out.splitlines()[0]


def test_finetune(swiglu, stories, capsys):
    out = stories / "finetuned"
    held_out, data = str(stories / "held-out.txt"), str(stories / "train.txt")
    arguments = ["finetune", str(swiglu), "-o", str(out), "--data", data, "--validation", held_out]
    quick = ["--train-tokens", "1000", "--start", "anneal", "--precision", "float32", "--device", "cpu"]
    assert main([*arguments, *quick]) == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert told[-2].endswith("bits per byte")
    assert told[-1] == str(out)
    assert AutoModelForCausalLM.from_pretrained(out).config.hidden_act == "linear"


def test_plan(swiglu, stories, capsys):
    out = stories / "finetuned"
    arguments = ["finetune", str(swiglu), "-o", str(out), "--data", "nowhere.txt", "--plan"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "gated MLPs           2" in told
    assert "peak memory" in told
    assert not out.exists()
    assert not out.with_name("finetuned.run").exists()


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def poison(folder):
    model = load_pretrained(folder)
    model.lm_head.weight.data[0, 0] = torch.nan
    model.save_pretrained(folder)


def swap_for_gpt2(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))


@pytest.mark.parametrize("command", ["convert", "finetune"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "truncated or damaged"),
        (poison, "NaN or infinity in lm_head.weight"),
        (swap_for_gpt2, "config.json asks for 124,439,808 numbers, the weights hold"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    ],
)
def test_spoiled_models(command, spoil, said, swiglu, stories, capsys):
    spoil(swiglu)
    text = "--calibration" if command == "convert" else "--data"
    arguments = [command, str(swiglu), "-o", str(stories / "out"), text, str(stories / "train.txt")]
    refused(capsys, [*arguments, "--device", "cpu"], said)
    assert not list(stories.glob("out*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the method fit needs text; give it with --calibration"),
        (["--calibration", "nowhere.txt"], "nowhere.txt: neither a text file"),
        (["--calibration", "{stories}/empty.txt"], "empty.txt: 0 tokens of text, too short"),
        (
            ["--calibration", "{stories}/train.txt", "--calibration-tokens", "33"],
            "33 tokens of calibration text hold no window of 32",
        ),
        (["-o", "/proc/model", "--method", "linear"], "cannot be written"),
        (["-o", "{stories}", "--method", "linear"], "exists already; expected a new or empty folder"),
    ],
)
def test_bad_options_of_convert(arguments, said, swiglu, stories, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # else it asks again for 20 s
    (stories / "empty.txt").write_text("")
    arguments = [argument.format(stories=stories) for argument in arguments]
    names = {path.name for path in stories.iterdir()}
    refused(capsys, ["convert", str(swiglu), "-o", str(stories / "out"), *QUICK, *arguments], said)
    assert {path.name for path in stories.iterdir()} == names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "{stories}/empty.txt"], "empty.txt: no text in it"),
        (["--data", "{stories}/train.txt", "--context", "64"], "a context of 64 tokens; expected 2 to"),
        (
            ["--data", "{stories}/train.txt", "--learning-rate", "1e6", "--log-steps", "1"],
            "training diverged",
        ),
        (["--data", "{stories}/train.txt", "--resume"], "no interrupted run there"),
        (["--data", "{stories}/train.txt", "-o", "/proc/model"], "cannot be written"),
    ],
)
def test_bad_options_of_finetune(arguments, said, swiglu, stories, capsys):
    (stories / "empty.txt").write_text("")
    arguments = [argument.format(stories=stories) for argument in arguments]
    quick = ["--start", "anneal", "--precision", "float32", "--device", "cpu", "--train-tokens", "4000"]
    refused(capsys, ["finetune", str(swiglu), "-o", str(stories / "out"), *quick, *arguments], said)
    assert not (stories / "out").exists()


def test_a_full_disk(swiglu, stories, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(finetune.conversion.checkpoint, "save_folder", full)
    arguments = ["convert", str(swiglu), "-o", str(stories / "out"), "--method", "linear"]
    refused(capsys, arguments, "No space left on device (os error 28)); make room")
    assert not list(stories.glob("out*"))
