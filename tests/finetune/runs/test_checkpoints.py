"""Runs whose newest checkpoint is damaged go on from the older one to the same model, or say what to do."""

import dataclasses
import json
import random
import shutil

import pytest

import finetune.pretraining.pretrain
import finetune.runs.trainer
from bilinear_lm import InputError
from finetune import PretrainConfig, pretrain
from finetune.pretraining.presets import PRESETS, Preset

TINY = Preset(d_model=16, d_mlp=24, n_layers=1, n_heads=2, n_ctx=16, d_vocab=300)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run of some forty steps, with checkpoints at 10, 20 and on."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    words = ["A cat", "A dog", "ran home", "saw a ball", "was happy", "The old man", "and then"]
    generator = random.Random(0)
    text = "\n<|endoftext|>\n".join(" ".join(generator.choices(words, k=12)) for _ in range(60))
    (tmp_path / "train.txt").write_text(text)
    return PretrainConfig(
        output=tmp_path / "model",
        data=(str(tmp_path / "train.txt"),),
        passes=(3.0,),
        preset="tiny",
        batch_size=8,
        learning_rate=1e-2,
        precision="float32",
        device="cpu",
        checkpoint_steps=10,
    )


def interrupted(config, monkeypatch, step):
    """The folder of a run that was stopped in a step."""
    real = finetune.runs.trainer.RunTrainer.training_step

    def stopping(self, *args, **kwargs):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(finetune.runs.trainer.RunTrainer, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    return config.output.with_name("model.run")


RUNS = {}


def stopped_at_25(config, monkeypatch):
    """The folder of such a run: done once, and copied from then on."""
    run = config.output.with_name("model.run")
    if "stopped" not in RUNS:
        interrupted(config, monkeypatch, step=25)
        RUNS["stopped"] = run.rename(run.parents[1] / "stopped at 25")
    shutil.copytree(RUNS["stopped"], run)
    return run


WHOLE = {}


def whole(config):
    """The weights of the same run without interruption."""
    if not WHOLE:
        elsewhere = dataclasses.replace(config, output=config.output.with_name("whole"))
        pretrain(elsewhere)
        WHOLE["weights"] = (elsewhere.output / "model.safetensors").read_bytes()
        shutil.rmtree(elsewhere.output)
    return WHOLE["weights"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", flip),
        ("optimizer.pt", truncate),
        ("optimizer.pt", empty),
        ("scheduler.pt", empty),
        ("rng_state.pth", truncate),
        ("trainer_state.json", truncate),
        ("trainer_state.json", empty),
        ("log.jsonl", empty),
        ("manifest.json", empty),
        ("config.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_checkpoint(config, name, spoil, monkeypatch, capsys):
    run = stopped_at_25(config, monkeypatch)
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-10", "checkpoint-20"}
    spoil(run / "checkpoint-20" / name)
    capsys.readouterr()
    record = pretrain(dataclasses.replace(config, resume=True))
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert f"{run / 'checkpoint-20'} is damaged ({name} " in told
    assert told.endswith("; going on from checkpoint-10")
    assert (config.output / "model.safetensors").read_bytes() == whole(config)
    steps = [entry["step"] for entry in record["training_loss"]]
    assert steps == [1, *range(10, record["steps"], 10), record["steps"]]
    assert not run.exists()


def test_a_checkpoint_that_was_cut_off(config, monkeypatch, capsys):
    run = interrupted(config, monkeypatch, step=15)
    shutil.copytree(run / "checkpoint-10", run / "checkpoint-20")
    (run / "checkpoint-20" / "manifest.json").unlink()
    pretrain(dataclasses.replace(config, resume=True))
    assert "cut off while it was written); going on from checkpoint-10" in capsys.readouterr().err
    assert (config.output / "model.safetensors").read_bytes() == whole(config)


def test_cut_off_in_the_first_checkpoint(config, monkeypatch, capsys):
    run = interrupted(config, monkeypatch, step=15)
    (run / "checkpoint-10" / "manifest.json").unlink()
    pretrain(dataclasses.replace(config, resume=True))
    assert "cut off while it was written); going on from the start" in capsys.readouterr().err
    assert (config.output / "model.safetensors").read_bytes() == whole(config)


def test_no_checkpoint_is_left(config, monkeypatch):
    run = stopped_at_25(config, monkeypatch)
    for number in (10, 20):
        truncate(run / f"checkpoint-{number}" / "optimizer.pt")
    with pytest.raises(InputError) as told:
        pretrain(dataclasses.replace(config, resume=True))
    message = str(told.value)
    assert "checkpoint-20 is damaged (optimizer.pt has" in message
    assert "checkpoint-10 is damaged (optimizer.pt has" in message
    assert message.endswith(f"no checkpoint is left: delete {run} and start anew")
    assert "\n" not in message
    assert (run / "checkpoint-20").exists()


def test_a_damaged_tokenizer(config, monkeypatch):
    run = interrupted(config, monkeypatch, step=15)
    truncate(run / "tokenizer" / "tokenizer.json")
    with pytest.raises(
        InputError, match=r"model\.run/tokenizer: damaged \(tokenizer\.json has .* start anew"
    ):
        pretrain(dataclasses.replace(config, resume=True))


@pytest.mark.parametrize("moment", ["before the move", "after the move"])
def test_killed_behind_the_end(config, moment, monkeypatch):
    real = shutil.rmtree

    def move_out(run, output):
        if moment == "after the move":
            for part in run.iterdir():
                if part.is_dir() and part.name != "finished":
                    real(part)
            (run / "log.jsonl").unlink()
            (run / "finished").rename(output)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune.runs.folder, "move_out", move_out)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    run = config.output.with_name("model.run")
    assert run.exists()
    with pytest.raises(InputError, match=r"exists already|an interrupted run is there"):
        pretrain(config)
    with monkeypatch.context() as patch:
        patch.setattr(finetune.pretraining.pretrain, "_train", lambda *args: pytest.fail("trained again"))
        record = pretrain(dataclasses.replace(config, resume=True))
    assert record == json.loads((config.output / "train.json").read_text())
    assert (config.output / "model.safetensors").read_bytes() == whole(config)
    assert sorted(path.name for path in config.output.parent.iterdir()) == ["model", "train.txt"]


def test_stopped_before_the_first_checkpoint(config, monkeypatch):
    """Nothing is there to go on from, and nothing in the way of the next run."""
    run = interrupted(config, monkeypatch, step=5)
    assert not run.exists()
    pretrain(config)
    assert (config.output / "model.safetensors").read_bytes() == whole(config)


@pytest.mark.parametrize(
    "change",
    [{"data": ("empty.txt",)}, {"passes": (1e-3,)}, {"max_tokens": 7}, {"tokenizer": "nowhere"}],
)
def test_bad_input_leaves_nothing(config, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError):
        pretrain(dataclasses.replace(config, **change))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "train.txt"]


def test_drafts_are_removed(config, monkeypatch):
    run = interrupted(config, monkeypatch, step=15)
    (run / ".finished.x1").mkdir()
    (run / ".log.jsonl.x2").touch()
    pretrain(dataclasses.replace(config, resume=True))
    assert (config.output / "model.safetensors").read_bytes() == whole(config)
    assert not run.exists()
