"""No file that a command writes tells where on the machine its inputs lay."""

import dataclasses
import math
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import finetune.dictionaries.train
import finetune.finetuning.finetune
import finetune.networks.policy
import finetune.pretraining.pretrain
from bilinear_lm import Dictionary, Site, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import GROUPS, commands, main
from bilinear_lm.environments import Policy, save_policy
from bilinear_lm.networks import PolicyNetwork, PolicySettings
from finetune.pretraining.config import PretrainConfig
from finetune.runs.folder import as_json

ROOT = Path(__file__).parents[1]


def told_paths(folder):
    """The files that hold the path of the test's folder or of the repository, each with what it holds."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file():
            for where in {folder, ROOT}:
                if hit := holds(file, str(where).encode()):
                    found[str(file.relative_to(folder))] = hit
    return found


def write_idx_folder(folder):
    folder.mkdir()
    for split, n in (("train", 30), ("t10k", 12)):
        for kind, shape in (("images", (n, 4, 4)), ("labels", (n,))):
            numbers = bytes(i * 7 % (3 if kind == "labels" else 251) for i in range(math.prod(shape)))
            header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
            (folder / f"{split}-{kind}-idx{len(shape)}-ubyte").write_bytes(header + numbers)


def holds(file, path):
    contents = [file.read_bytes()]
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            contents += [archive.read(name) for name in archive.namelist()]
    for content in contents:
        at = content.find(path)
        if at >= 0:
            return content[max(0, at - 40) : at + len(path) + 40]
    return None


@pytest.fixture
def inputs(tmp_path, make_model, tiny_tokenizer):
    """Models, dictionaries and texts, all given by absolute paths."""
    for name, gate in (("model", "linear"), ("swiglu", "silu")):
        save_folder(
            make_model(gate=gate, d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "in" / name
        )
    save_folder(make_model(seed=1, d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "in" / "other")
    torch.manual_seed(0)
    save_file({"up": torch.randn(16)}, tmp_path / "in" / "own.safetensors")
    for layer in (0, 1):
        for point in ("mlp-in", "mlp-out"):
            site, encoder, decoder = Site(layer, point), torch.randn(16, 24), torch.randn(24, 16)
            made = Dictionary(encoder, decoder, activation="topk", k=4, site=site)
            save_dictionary(made, tmp_path / "in" / "scope" / str(site))
    generator = random.Random(0)
    names, verbs = ["A cat", "A dog", "They"], ["ran to the park", "saw a ball", "were happy"]
    told = [
        " ".join(f"{generator.choice(names)} {generator.choice(verbs)}." for _ in range(8))
        for _ in range(140)
    ]
    (tmp_path / "in" / "train.txt").write_text("\n<|endoftext|>\n".join(told))
    (tmp_path / "in" / "held-out.txt").write_text("\n".join(told[:10]))
    write_idx_folder(tmp_path / "in" / "images")
    shape = PolicySettings(channels=(4, 6), d_hidden=12)
    save_policy(Policy(PolicyNetwork(shape), "maze", {"limit": 8}), tmp_path / "in" / "policy")
    return tmp_path / "in"


CPU = ("--device", "cpu")
READ = {
    "export": ("export", "{in}/model", "-o", "{out}/model"),
    "generate": ("generate", "{in}/model", "--max-tokens", "4", "-o", "{out}/text.txt", *CPU),
    "eigen": ("eigen", "{in}/model", "--layer", "1", "--tokens", "a", "-k", "3", "-o", "{out}/eigen", *CPU),
    "eigen of features": (
        *("eigen", "{in}/model", "--layer", "1", "--dictionary", "{in}/scope/1-mlp-out", "--features", "1"),
        *("-k", "3", "-o", "{out}/eigen", *CPU),
    ),
    "hosvd": ("hosvd", "{in}/model", "--layer", "1", "--k", "3", "-o", "{out}/hosvd", *CPU),
    "interactions": (
        *("interactions", "{in}/model", "--layer", "1", "--inputs", "{in}/scope/1-mlp-in"),
        *("--outputs", "{in}/scope/1-mlp-out", "--features", "1", "--k", "3"),
        *("--contexts", "{in}/held-out.txt", "-o", "{out}/interactions", *CPU),
    ),
    "trace": (
        *("trace", "{in}/model", "--prompt", "A cat", "--dictionaries", "{in}/scope", "--max-nodes", "20"),
        *("--contexts", "{in}/held-out.txt", "-o", "{out}/graph.json", "--page", "{out}/graph.html", *CPU),
    ),
    "trace for circuit-tracer": (
        *("trace", "{in}/model", "--prompt", "A cat", "--eigenvectors", "--max-nodes", "20"),
        *("--format", "circuit-tracer", "-o", "{out}/graph.json", *CPU),
    ),
    "trace by weights": (
        *("trace", "{in}/model", "--token", "a", "--dictionaries", "{in}/scope", "--max-nodes", "20"),
        *("-o", "{out}/graph.json", *CPU),
    ),
    "diff": (
        *("diff", "{in}/model", "{in}/other", "--null", "{in}/other", "--dictionaries", "{in}/scope"),
        *("--k", "2", "--page", "-o", "{out}/diff", *CPU),
    ),
    "polynomial": (
        *("polynomial", "{in}/swiglu", "--contexts", "{in}/train.txt", "--degrees", "1", "2"),
        *("--tokens", "500", "-o", "{out}/polynomial", *CPU),
    ),
    "edit": (
        *("edit", "{in}/model", "--layer", "1", "--inputs", "{in}/scope/1-mlp-in", "--delete", "1:2,up"),
        *(
            "--outputs",
            "{in}/scope/1-mlp-out",
            "--directions",
            "{in}/own.safetensors",
            "-o",
            "{out}/model",
            *CPU,
        ),
    ),
    "images": (
        *("images", "{in}/images", "--epochs", "2", "--d-model", "8", "--d-mlp", "8", "--certified", "5"),
        *("-o", "{out}/images", *CPU),
    ),
    "policy read": (
        *("policy", "read", "{in}/policy", "--levels", "8", "--states", "200", "--controls", "1"),
        *("-o", "{out}/policy", *CPU),
    ),
    "policy play": ("policy", "play", "{in}/policy", "-o", "{out}/episode.json", *CPU),
    "report": (
        *("report", "{in}/model", "--directions", "1", "--eigenvectors", "1", "--text", "A cat ran."),
        *("--dictionaries", "{in}/scope", "--contexts", "{in}/held-out.txt", "--features", "3"),
        *("--validation", "{in}/held-out.txt", "-o", "{out}/page.html", *CPU),
    ),
    "convert": (
        *("convert", "{in}/swiglu", "--calibration", "{in}/train.txt", "--calibration-tokens", "1500"),
        *("--context", "32", "--steps", "10", "--batch-size", "64", "-o", "{out}/model", *CPU),
    ),
    "a shipped model": ("hosvd", "stories-1l", "--layer", "0", "--k", "1", "-o", "{out}/hosvd", *CPU),
}
RUNS = {
    "train": (
        *("train", "--data", "{in}/train.txt", "--validation", "{in}/held-out.txt", "--preset", "stories-1l"),
        *("--tokenizer", "{in}/model", "--batch-size", "4", "--passes", "0.6", "--precision", "float32"),
        *("--checkpoint-steps", "1", *CPU),
    ),
    "policy train": (
        *("policy", "train", "--steps", "200", "--mazes", "4", "--rollout", "25", "--batch-size", "50"),
        *("--checkpoint-rollouts", "1", *CPU),
    ),
    "dictionaries": (
        *("dictionaries", "{in}/model", "--data", "{in}/train.txt", "--validation", "{in}/held-out.txt"),
        *("--layers", "1", "--points", "mlp-out", "--features", "24", "--k", "4", "--max-tokens", "1200"),
        *("--validation-tokens", "300", "--checkpoint-steps", "2", *CPU),
    ),
    "finetune": (
        *("finetune", "{in}/swiglu", "--data", "{in}/train.txt", "--validation", "{in}/held-out.txt"),
        *("--train-tokens", "1500", "--start", "anneal", "--precision", "float32", "--distillation", "0"),
        *("--batch-size", "4", "--checkpoint-steps", "5", "--calibration-tokens", "1000", *CPU),
    ),
}
RUNS["finetune with LoRA"] = (*RUNS["finetune"], "--lora-rank", "2")
BEFORE_THE_END = {
    "train": (finetune.pretraining.pretrain, "save_folder"),
    "dictionaries": (finetune.dictionaries.train, "_measured"),
    "policy train": (finetune.networks.policy, "_measured"),
    "finetune": (finetune.finetuning.finetune, "_finish"),
}


def test_every_command_that_writes_is_tried():
    named = {_command(arguments) for arguments in (READ | RUNS).values()}
    assert named == commands().keys() - {"info", "explore"}  # a server, tested by itself


def _command(arguments):
    return " ".join(arguments[: 2 if arguments[0] in GROUPS else 1])


def given(arguments, tmp_path):
    folders = {"in": tmp_path / "in", "out": tmp_path / "out"}
    return [argument.format_map(folders) for argument in arguments]


@pytest.mark.parametrize("name", READ)
def test_what_commands_write(name, inputs, tmp_path, capsys):
    assert main(given(READ[name], tmp_path)) == 0
    assert list((tmp_path / "out").iterdir())
    assert told_paths(tmp_path) == {}


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", RUNS)
def test_what_runs_write(name, inputs, tmp_path, capsys, monkeypatch):
    """While they go on, and at their end; a run that is resumed with the same paths is the same."""
    arguments = [*given(RUNS[name], tmp_path), "-o", str(tmp_path / "out" / "result")]
    with monkeypatch.context() as patch:
        patch.setattr(*BEFORE_THE_END[name.removesuffix(" with LoRA")], interrupt)
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
    run = tmp_path / "out" / "result.run"
    assert list(run.glob("*/*"))
    assert told_paths(tmp_path) == {}
    others, changed = [argument.replace("train.txt", "held-out.txt") for argument in arguments], "data"
    if others == arguments:  # it reads no text
        others, changed = [*arguments, "--gamma", "0.9"], "gamma"
    assert main([*others, "--resume"]) == 2
    assert f"resumed with other settings ({changed} was" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert told_paths(tmp_path) == {}


def test_a_run_is_the_same_from_another_folder(inputs, tmp_path, monkeypatch):
    """Sources that are there go by their own names, those on the hub by their whole ones."""
    text, tokenizer = inputs / "train.txt", inputs / "model"
    config = PretrainConfig(
        output=tmp_path / "out", data=(str(text), "owner/dataset"), tokenizer=str(tokenizer), validation=text
    )
    settings = as_json(config, leave_out=("output",))
    assert settings["data"] == ["train.txt", "owner/dataset"]
    assert (settings["tokenizer"], settings["validation"]) == ("model", "train.txt")
    monkeypatch.chdir(tmp_path)
    near = {"data": ("in/train.txt", "owner/dataset"), "tokenizer": "in/model"}
    assert as_json(dataclasses.replace(config, **near), leave_out=("output",)) == settings
