"""Every step weighs the same, and the tokens that are recorded are those the model was given."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import finetune.runs.trainer
from finetune import PretrainConfig, pretrain
from finetune import finetune as run
from finetune.data.windows import Windows
from finetune.pretraining.presets import PRESETS, Preset
from finetune.runs.trainer import whole_steps


@pytest.fixture
def given(monkeypatch):
    """The shapes of all batches that models are trained on, by the step they belong to."""
    seen = []
    real = finetune.runs.trainer.RunTrainer.training_step

    def watched(self, model, inputs, *args, **kwargs):
        seen.append((self.state.global_step, tuple(inputs["input_ids"].shape)))
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(finetune.runs.trainer.RunTrainer, "training_step", watched)
    return seen


def tokens_until(given, step):
    return sum(rows * width for at, (rows, width) in given if at < step)


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 8), (3, 1), (2, 3)])
def test_finetuning(settings, given, batch, accumulation):
    settings = dataclasses.replace(
        settings, tokens=None, batch_size=batch, accumulation=accumulation, log_steps=2
    )
    record = run(settings)
    steps = [[shape for at, shape in given if at == step] for step in range(record["steps"])]
    assert steps == [[(batch, 32)] * accumulation] * record["steps"]
    assert record["tokens"] == tokens_until(given, record["steps"])
    assert record["tokens"] > 5_000
    for entry in record["log"]:
        assert entry["tokens"] == tokens_until(given, entry["step"])


def test_accumulated_batches_are_one_batch(settings):
    """To the rounding of another order of sums."""
    settings = dataclasses.replace(settings, tokens=2_000)
    one = run(dataclasses.replace(settings, batch_size=8, output=settings.output.with_name("one")))
    many = run(dataclasses.replace(settings, batch_size=1, accumulation=8))
    assert [entry["tokens"] for entry in one["log"]] == [entry["tokens"] for entry in many["log"]]
    losses = [[entry["loss"] for entry in record["log"]] for record in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    norms = [[entry["grad_norm"] for entry in record["log"]] for record in (one, many)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_resumed_run_counts_what_it_read(settings, given, monkeypatch):
    settings = dataclasses.replace(settings, accumulation=2, batch_size=3, checkpoint_steps=5)
    watched = finetune.runs.trainer.RunTrainer.training_step

    def stopping(self, *args, **kwargs):
        if self.state.global_step == 8:
            raise KeyboardInterrupt
        return watched(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(finetune.runs.trainer.RunTrainer, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    before = tokens_until(given, 5)  # those behind the checkpoint are read again
    given.clear()
    record = run(dataclasses.replace(settings, resume=True))
    assert record["tokens"] == before + tokens_until(given, record["steps"])
    assert record["log"][-1]["tokens"] == record["tokens"]


@pytest.mark.parametrize(("batch", "rows"), [(7, 7), (8, 8), (100_000, None)])
def test_from_scratch(stories, given, monkeypatch, batch, rows):
    """A text that does not fill a step is one."""
    monkeypatch.setitem(PRESETS, "tiny", Preset(16, 24, 1, 2, n_ctx=32, d_vocab=300))
    record = pretrain(
        PretrainConfig(
            output=stories / "out",
            data=(str(stories / "train.txt"),),
            preset="tiny",
            batch_size=batch,
            precision="float32",
            device="cpu",
        )
    )
    if rows is None:
        assert record["steps"] == 1
    else:
        assert {shape for _, shape in given} == {(rows, 32)}
    assert record["tokens"] == tokens_until(given, record["steps"])
    assert json.loads((stories / "out" / "train.json").read_text())["tokens"] == record["tokens"]


def test_windows_are_left_out_at_random():
    windows = Windows([np.arange(1000, dtype=np.int32)], [1.0], context=10, first=None, seed=0)
    assert len(windows) in (99, 100)
    kept = whole_steps(windows, 16, seed=3)
    assert len(kept) == 96
    starts = [int(kept[row]["input_ids"][0]) for row in range(96)]
    every = [int(windows[row]["input_ids"][0]) for row in range(len(windows))]
    assert len(set(starts)) == 96
    assert starts == [start for start in every if start in set(starts)]
    again = [int(window["input_ids"][0]) for window in whole_steps(windows, 16, seed=3)]
    other = [int(window["input_ids"][0]) for window in whole_steps(windows, 16, seed=4)]
    assert again == starts != other
    assert whole_steps(windows, 1, seed=3) is windows
    assert torch.equal(windows[0]["input_ids"], windows[0]["labels"])
