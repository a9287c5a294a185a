"""Runs that are killed, run out of disk or diverge: they go on to the same model, or say what to do."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers.trainer
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Trainer

import finetune.finetuning.finetune
from bilinear_lm import InputError
from finetune import FinetuneConfig, FitSettings
from finetune import finetune as run

STEPS_OF_FIT = 40
RUN = f"""
import json, os, signal, sys, time, torch
from functools import partial
from pathlib import Path

import transformers.models.llama.modeling_llama, transformers.trainer
import finetune.finetuning.finetune as run
from finetune import FinetuneConfig, FitSettings

torch.set_num_threads(1)
run.FitSettings = partial(FitSettings, steps={STEPS_OF_FIT}, batch_size=128)
run._finish = lambda *arguments: time.sleep(300)  # which the kill does not come too late for

for values in json.loads(sys.argv[1]):
    values |= {{"output": Path(values["output"]), "data": tuple(values["data"])}}
    child = os.fork()  # takes less time than to import all of this once more
    if not child:
        try:
            run.finetune(FinetuneConfig(**values))
        finally:
            os._exit(1)
    checkpoint, ended = values["output"].with_name(values["output"].name + ".run") / "checkpoint-20", 0
    while not checkpoint.exists() and not ended:
        time.sleep(0.002)
        ended, _ = os.waitpid(child, os.WNOHANG)
    assert not ended
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.fixture(autouse=True)
def quick_fits(monkeypatch):
    quick = partial(FitSettings, steps=STEPS_OF_FIT, batch_size=128)
    monkeypatch.setattr(finetune.finetuning.finetune, "FitSettings", quick)
    monkeypatch.setattr(finetune.finetuning.finetune, "loss_figure", lambda log, path: None)


def weights(settings):
    return (settings.output / "model.safetensors").read_bytes()


WHOLE = {}


def whole(settings):
    """The same run without interruption, elsewhere; once for all that compare with it."""
    key = repr(dataclasses.replace(settings, model="", data=(), output=Path()))
    if key not in WHOLE:
        settings = dataclasses.replace(
            settings, output=settings.output.with_name(f"{settings.output.name}-whole")
        )
        WHOLE[key] = run(settings), weights(settings)
    return WHOLE[key]


def folder(settings):
    return settings.output.with_name(settings.output.name + ".run")


def start_and_kill(runs: list[FinetuneConfig]):
    """Starts each run in a process of its own and kills it as soon as it writes its second checkpoint."""
    values = [{**dataclasses.asdict(each), "output": str(each.output), "report_to": ()} for each in runs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", RUN, json.dumps(values)], env=environment, check=True, timeout=300)
    assert not any(each.output.exists() for each in runs)


def without_speed(log):
    return [{name: value for name, value in entry.items() if name != "tokens_per_second"} for entry in log]


def test_killed_runs_go_on_to_the_same_models(settings):
    runs = [
        dataclasses.replace(settings, output=settings.output.with_name("anneal"), learnable_gates=True),
        dataclasses.replace(
            settings,
            output=settings.output.with_name("fit"),
            start="fit",
            distillation=0.5,
            matching=0.5,
        ),
    ]
    start_and_kill(runs)
    for each in runs:
        record = run(dataclasses.replace(each, resume=True))
        expected, expected_weights = whole(each)
        assert weights(each) == expected_weights
        assert not folder(each).exists()
        assert without_speed(record["log"]) == without_speed(expected["log"])


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def after(n, action, then=None):
    """`then` for n calls, then the action."""
    calls = iter(range(n))

    def call(*args, **kwargs):
        return action(*args, **kwargs) if next(calls, None) is None else then(*args, **kwargs)

    return call


def cut_off(checkpoint):
    state = checkpoint / "trainer_state.json"
    state.write_text(state.read_text()[:200])


@pytest.mark.parametrize("spoil", [cut_off, lambda checkpoint: (checkpoint / "trainer_state.json").unlink()])
def test_killed_while_a_checkpoint_was_written(settings, spoil, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_checkpoint", after(2, interrupt, Trainer._save_checkpoint))
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    spoil(folder(settings) / "checkpoint-20")
    run(dataclasses.replace(settings, resume=True))
    assert weights(settings) == whole(settings)[1]


@pytest.mark.parametrize("part", ["_write_start", "_train", "_finish", "loss_figure"])
def test_killed_in_every_part(settings, part, monkeypatch):
    settings = dataclasses.replace(settings, start="fit", lora_rank=2, norms="linear")
    with monkeypatch.context() as patch:
        patch.setattr(finetune.finetuning.finetune, part, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    assert not settings.output.exists()
    run(dataclasses.replace(settings, resume=True))
    assert [path.name for path in settings.output.parent.iterdir()] == ["model"]
    assert weights(settings) == whole(settings)[1]


def test_resumed_with_other_settings(settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(finetune.finetuning.finetune, "_train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    with pytest.raises(InputError, match=r"model\.run: an interrupted run is there; add --resume to go on"):
        run(settings)
    with pytest.raises(
        InputError, match=r"other settings \(learning_rate was 0\.003, is 0\.01; seed was 0, is 1\)"
    ):
        run(dataclasses.replace(settings, resume=True, learning_rate=0.01, seed=1))
    run(dataclasses.replace(settings, resume=True, log_steps=7))  # which is free to change


def test_a_run_that_diverges_stops_and_keeps_finite_weights(settings):
    settings = dataclasses.replace(settings, learning_rate=1e3, log_steps=1, checkpoint_steps=1)
    with pytest.raises(
        InputError, match=r"training diverged before step \d+: loss .* give a smaller one"
    ) as told:
        run(settings)
    kept = sorted(folder(settings).glob("checkpoint-*"))
    assert kept
    assert f"the last good checkpoint is {kept[-1]}" in str(told.value)
    for checkpoint in kept:
        assert all(value.isfinite().all() for value in load_file(checkpoint / "model.safetensors").values())
    assert not settings.output.exists()


def test_a_start_that_is_worse_than_chance_does_not_count_as_diverged(settings, monkeypatch):
    """Seen with large logits: what it is compared with is the first loss."""
    monkeypatch.setattr(finetune.runs.log, "_DIVERGED", 1.05)
    record = run(dataclasses.replace(settings, tokens=800))
    assert record["log"][0]["loss"] > 1.05 * torch.tensor(300.0).log()


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_for_safetensors(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_space_for_torch(*args, **kwargs):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


@pytest.mark.parametrize("refusal", [no_space, no_space_for_torch])
def test_a_full_disk_at_a_checkpoint(settings, monkeypatch, refusal):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", after(4, refusal, torch.save))
        with pytest.raises(InputError, match=r"model\.run/checkpoint-20: cannot be written .*--resume"):
            run(settings)
    assert transformers.trainer.torch.save is torch.save
    run(dataclasses.replace(settings, resume=True))
    assert weights(settings) == whole(settings)[1]


@pytest.mark.parametrize("refusal", [no_space, no_space_for_safetensors])
def test_a_full_disk_at_the_end(settings, monkeypatch, refusal):
    with monkeypatch.context() as patch:
        patch.setattr(finetune.finetuning.finetune, "save_folder", refusal)
        with pytest.raises(InputError, match=r"No space left on device.* nothing is lost: make room"):
            run(settings)
    assert [path.name for path in settings.output.parent.iterdir()] == ["model.run"]
    run(dataclasses.replace(settings, resume=True))
    assert weights(settings) == whole(settings)[1]


def test_a_full_disk_at_the_start(settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedModel, "save_pretrained", no_space_for_safetensors)
        with pytest.raises(InputError, match=r"model\.run/start: cannot be written .* run again"):
            run(settings)
    assert not list(settings.output.parent.iterdir())


def test_a_full_disk_while_tokenizing(settings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(finetune.data.token_files, "_write", no_space)
        with pytest.raises(InputError, match=r"tokens: cannot be written \(No space left on device\)"):
            run(settings)
    assert not list(settings.output.parent.iterdir())


def test_a_disk_that_cannot_be_read(settings, monkeypatch):
    monkeypatch.setattr(finetune.data.sources, "opened_text", no_space)
    with pytest.raises(InputError, match=r"train\.txt: cannot be read .*; expected a file or folder"):
        run(settings)
