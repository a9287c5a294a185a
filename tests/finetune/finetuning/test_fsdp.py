"""A model sharded over two processes by the accelerate configuration that ships trains as in one process."""

import dataclasses
import errno
import json
import os
import subprocess
import time
from pathlib import Path
from traceback import StackSummary

import psutil
import pytest
from torch.distributed.checkpoint import CheckpointException, FileSystemReader

from bilinear_lm import InputError
from finetune import finetune as run
from finetune.runs.folder import writing

from .launches import ENVIRONMENT, LAUNCH, arguments, require_same_logs, require_same_weights

CONFIG = Path(__file__).parents[3] / "examples" / "tinyllama_fsdp.yaml"
ON_CPU = Path(__file__).with_name("fsdp_on_cpu.py")


def command(settings, *more):
    """Everything as it ships but for the number of processes, and CPUs that count as devices."""
    return [*LAUNCH, "--config_file", str(CONFIG), str(ON_CPU), *arguments(settings), *more]


def launched(settings, *more):
    whole = command(settings, *more)
    done = subprocess.run(whole, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads((settings.output / "finetune.json").read_text())


def launch_and_kill(settings, when):
    """Kills both processes as soon as `when` is there; the launcher ends of itself then."""
    launcher = subprocess.Popen(command(settings), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not when.exists():
        assert launcher.poll() is None
        time.sleep(0.01)
    for process in psutil.Process(launcher.pid).children():
        process.kill()
    assert launcher.wait(timeout=60) != 0
    assert not settings.output.exists()


def in_one_process(settings):
    one = dataclasses.replace(settings, output=settings.output.with_name("one"), batch_size=8)
    return run(one)["log"], one.output


def test_killed_and_resumed(settings, stories):
    """Float32 sums in another order: losses differ by less than 1e-5 of themselves, weights by 1e-4."""
    settings = dataclasses.replace(
        settings,
        tokens=3_000,
        distillation=0.5,
        norms="linear",
        checkpoint_steps=5,
        validation=stories / "held-out.txt",
        validation_steps=5,
    )
    folder = settings.output.with_name("model.run")
    launch_and_kill(settings, when=folder / "checkpoint-10")
    tensors = FileSystemReader(folder / "checkpoint-5" / "optimizer_0").read_metadata().state_dict_metadata
    moments = [tensor for name, tensor in tensors.items() if "exp_avg" in name]
    assert {len(moment.chunks) for moment in moments} == {2}  # half in each process
    with pytest.raises(InputError, match="processes was 2, is 1; sharded was True, is False"):
        run(dataclasses.replace(settings, resume=True))
    written = (folder / "log.jsonl").read_text().splitlines()[:2]
    record = launched(settings, "--resume")
    assert record["log"][:2] == [json.loads(line) for line in written]  # until checkpoint-5
    assert record["settings"]["processes"] == 2
    assert record["settings"]["sharded"] is True
    log, output = in_one_process(settings)
    require_same_logs(record["log"], log, loss=1e-5)
    require_same_weights(settings.output, output, share=1e-4)


def test_bfloat16_from_a_conversion(settings):
    """Both compute in bfloat16, not alike: autocast leaves the residual stream in float32."""
    settings = dataclasses.replace(settings, tokens=2_000, start="closed-form", precision="bfloat16")
    record = launched(settings)
    assert record["log"][0]["loss"] * 64 % 1  # which it would be a multiple of, were it in bfloat16 too
    log, output = in_one_process(settings)
    require_same_logs(record["log"], log, loss=1e-3)
    require_same_weights(settings.output, output, share=1e-2)


def test_a_full_disk_at_a_checkpoint():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    told = r"checkpoint-5: cannot be written \(OSError.*No space left on device.*\); make room"
    with pytest.raises(InputError, match=told), writing(Path("checkpoint-5"), "make room"):
        raise CheckpointException("write", {1: (full, StackSummary())})
