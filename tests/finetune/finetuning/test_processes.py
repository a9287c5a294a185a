"""Two processes train as one does on the same windows a step, with the whole model or half of it (FSDP)."""

import dataclasses
import errno
import json
import os
from pathlib import Path
from traceback import StackSummary

import pytest
from torch.distributed.checkpoint import CheckpointException, FileSystemReader

from bilinear_lm import InputError
from finetune import finetune as run
from finetune.runs.folder import writing

from .launches import Launch, arguments, require_same_logs, require_same_weights

ONE = {}


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """One launch for all, as its processes take longest to start."""
    made = Launch(tmp_path_factory.mktemp("launch"))
    try:
        yield made
        made.end()
    finally:
        made.launcher.kill()


@pytest.fixture
def long(settings, stories):
    """Settings of a run of which all is watched."""
    return dataclasses.replace(
        settings,
        tokens=3_000,
        distillation=0.5,
        norms="linear",
        checkpoint_steps=5,
        validation=stories / "held-out.txt",
        validation_steps=5,
    )


def in_one_process(settings):
    """The log of the same run by one process, and its folder; once for all that compare with it."""
    key = repr(dataclasses.replace(settings, model="", data=(), output=Path(), validation=None))
    if key not in ONE:
        one = dataclasses.replace(settings, output=settings.output.with_name("one"), batch_size=8)
        ONE[key] = run(one)["log"], one.output
    return ONE[key]


def record(settings):
    return json.loads((settings.output / "finetune.json").read_text())


def test_with_the_model_in_each(launch, long):
    """Float32 sums in another order: losses differ by less than 1e-5 of themselves, weights by 1e-4."""
    printed = launch.run(arguments(long), sharded=False)
    assert printed.strip().splitlines()[-1] == str(long.output)
    log, output = in_one_process(long)
    written = record(long)
    assert written["settings"]["processes"] == 2
    assert written["settings"]["sharded"] is False
    require_same_logs(written["log"], log, loss=1e-5)
    require_same_weights(long.output, output, share=1e-4)


def test_sharded_killed_and_resumed(launch, long):
    """As exact."""
    folder = long.output.with_name("model.run")
    number = launch.start(arguments(long))
    launch.until(folder / "checkpoint-10")
    launch.kill(number)
    assert not long.output.exists()
    tensors = FileSystemReader(folder / "checkpoint-5" / "optimizer_0").read_metadata().state_dict_metadata
    moments = [tensor for name, tensor in tensors.items() if "exp_avg" in name]
    assert {len(moment.chunks) for moment in moments} == {2}  # half in each process
    with pytest.raises(InputError, match="processes was 2, is 1; sharded was True, is False"):
        run(dataclasses.replace(long, resume=True))
    begun = (folder / "log.jsonl").read_text().splitlines()[:2]
    launch.run([*arguments(long), "--resume"])
    written = record(long)
    assert written["log"][:2] == [json.loads(line) for line in begun]  # until checkpoint-5
    assert written["settings"]["processes"] == 2
    assert written["settings"]["sharded"] is True
    log, output = in_one_process(long)
    require_same_logs(written["log"], log, loss=1e-5)
    require_same_weights(long.output, output, share=1e-4)


def test_sharded_bfloat16_from_a_conversion(launch, settings):
    """Both compute in bfloat16, not alike: autocast leaves the residual stream in float32."""
    settings = dataclasses.replace(settings, tokens=2_000, start="closed-form", precision="bfloat16")
    launch.run(arguments(settings))
    written = record(settings)
    assert written["log"][0]["loss"] * 64 % 1  # which it would be a multiple of, were it in bfloat16 too
    log, output = in_one_process(settings)
    require_same_logs(written["log"], log, loss=1e-3)
    require_same_weights(settings.output, output, share=1e-2)


def test_a_full_disk_at_a_checkpoint():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    told = r"checkpoint-5: cannot be written \(OSError.*No space left on device.*\); make room"
    with pytest.raises(InputError, match=told), writing(Path("checkpoint-5"), "make room"):
        raise CheckpointException("write", {1: (full, StackSummary())})
