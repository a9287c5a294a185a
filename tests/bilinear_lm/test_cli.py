"""Commands as a user gives them: what they print and write, and what bad input gives."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main


@pytest.fixture
def folder(tmp_path, make_model, tiny_tokenizer):
    """A tiny bilinear checkpoint on disk."""
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def swiglu(tmp_path, make_model, tiny_tokenizer):
    save_folder(make_model(d_vocab=len(tiny_tokenizer), gate="silu"), tiny_tokenizer, tmp_path / "swiglu")
    return tmp_path / "swiglu"


def test_info(folder, swiglu, capsys):
    assert main(["info", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "bilinear" in told
    assert main(["info", str(swiglu), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bilinear"] is False
    assert found["gate"] == "silu"
    assert any(f"bilinear-lm convert {swiglu} -o DIR" in note for note in found["notes"])


_INTERRUPTED_AT_EXIT = """
import atexit, os, signal, sys

class Last:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT):
        kill(own, number)

atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.kept = Last()
sys.argv = ["bilinear-lm", "info", FOLDER]
from bilinear_lm.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_interrupted_after_the_end(folder, is_there):
    script = _INTERRUPTED_AT_EXIT.replace("FOLDER", repr(str(folder if is_there else folder / "missing")))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == (0 if is_there else 2)
    assert len(ended.stderr.splitlines()) == (0 if is_there else 1)
    assert ("bilinear" in ended.stdout) == is_there


_STOPPED_WITHIN_A_PROGRAM = """
import signal
import bilinear_lm.cli

def stopped(arguments):
    try:
        signal.raise_signal(signal.NUMBER)
    finally:
        print("cleaned up", flush=True)

bilinear_lm.cli._run = stopped
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a program in the background begins without
try:
    print(bilinear_lm.cli.main(["info"]))
except KeyboardInterrupt as interruption:
    print(type(interruption).__name__)
"""


@pytest.mark.parametrize(
    ("name", "status", "then"), [("SIGTERM", -15, []), ("SIGINT", 0, ["KeyboardInterrupt"])]
)
def test_a_signal_stops_the_program_that_runs_a_command(name, status, then):
    """It is no failure of the command that the program could go on from, as a run of tests would."""
    script = _STOPPED_WITHIN_A_PROGRAM.replace("NUMBER", name)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert ended.stdout.splitlines() == ["cleaned up", *then]


def test_report(folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    arguments = ["--tokens", "g - c", "--layers", "1", "--directions", "1", "--text", "a cat ran to the park"]
    assert main(["report", str(folder), "-o", str(page), *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text().startswith("<!doctype html>")


def test_generate(folder, tmp_path, capsys):
    assert main(["generate", str(folder), "--prompt", "a cat", "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("a cat")
    file = tmp_path / "samples.txt"
    assert main(["generate", str(folder), "--count", "3", "--max-tokens", "4", "-o", str(file)]) == 0
    assert file.read_text().count("\n<|endoftext|>\n") == 3


def test_export(folder, tmp_path, capsys):
    assert main(["export", str(folder), "-o", str(tmp_path / "out")]) == 0
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_train(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("Once upon a time a cat ran home. " * 400)
    out = tmp_path / "model"
    arguments = ["--preset", "stories-1l", "--batch-size", "2", "--device", "cpu", "--precision", "float32"]
    text = str(tmp_path / "text.txt")
    assert main(["train", "-o", str(out), "--data", text, "--validation", text, *arguments]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert json.loads((out / "train.json").read_text())["settings"]["preset"] == "stories-1l"


def corrupt(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def poison(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (corrupt, "truncated or damaged"),
        (poison, "NaN or infinity in lm_head.weight"),
        (pickled, "a pickle, which is never read"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "an empty folder"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    ],
)
def test_spoiled_checkpoints(folder, tmp_path, capsys, spoil, said):
    spoil(folder)
    refused(capsys, ["report", str(folder), "-o", str(tmp_path / "page.html")], said)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layers", "7"], "layer 7 does not exist; the model has layers 0 to 1"),
        (["--tokens", "antidisestablishmentarianism"], "antidisestablishmentarianism"),
        (["--text", " "], "empty"),
        (["--validation", "nowhere.txt"], "nowhere.txt: no such file"),
        (["-o", "/proc/page.html"], "/proc/page.html: cannot be written"),
        (["-o", "."], "expected a new or empty folder"),
    ],
)
def test_bad_options_of_a_report(folder, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["report", str(folder), *arguments], said)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(folder, capsys, tmp_path):
    refused(capsys, ["report", str(folder), "-o", str(tmp_path / "p"), "--device", "cuda"], "no CUDA device")


def test_a_swiglu_model_where_a_bilinear_one_is_needed(swiglu, tmp_path, capsys):
    refused(capsys, ["report", str(swiglu), "-o", str(tmp_path / "page.html")], "bilinear-lm convert")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("command", ["report", "info", "generate"])
def test_a_missing_path(tmp_path, capsys, command):
    refused(capsys, [command, str(tmp_path / "nowhere")], "nowhere: no such file or folder")


def test_an_output_folder_that_is_not_empty(folder, capsys):
    refused(capsys, ["export", str(folder), "-o", str(folder)], "exists already")


def refused(capsys, arguments, said):
    """The command ends with status 2 and one line that says it."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("bilinear-lm: ")
    assert said in lines[-1]
    assert len([line for line in lines if line.startswith("bilinear-lm:")]) == 1
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("arguments", "old", "new", "value"),
    [
        (["hosvd", "nowhere", "--layer", "1", "-o", "out"], "--tokens", "--listed", "0"),
        (["finetune", "nowhere", "-o", "out", "--data", "none.txt"], "--tokens", "--train-tokens", "0"),
        (
            ["interactions", "--layer", "1", "--inputs", "a", "--outputs", "b", "-o", "out"],
            "--text",
            "--contexts",
            "c",
        ),
    ],
)
def test_options_keep_their_old_names(arguments, old, new, value, joined, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = []
    for name in (old, new):
        given = [f"{name}={value}"] if joined else [name, value]
        assert main([*arguments, *given]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == f"bilinear-lm: {arguments[0]} {old} is called {new} now\n{said[1]}"
