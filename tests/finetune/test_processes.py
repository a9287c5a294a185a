"""Two processes train as one does on the same windows a step."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from finetune import finetune as run

# --multi_gpu although there may be none: with --cpu accelerate starts one process, whatever it is told.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def launched(settings, *more):
    """The run by two processes, through the command line."""
    arguments = [settings.model, "-o", str(settings.output), "--data", *settings.data]
    for name in (
        *("tokens", "start", "distillation", "matching", "norms", "batch-size", "learning-rate", "precision"),
        *("calibration-tokens", "checkpoint-steps", "log-steps", "device"),
    ):
        arguments += [f"--{name}", str(getattr(settings, name.replace("-", "_")))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*LAUNCH, "--main_process_port", "0", "-m", "bilinear_lm", "finetune", *arguments, *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def test_two_processes(settings):
    """Float32 sums in another order: losses differ by less than 1e-5 of themselves, weights by 1e-4."""
    settings = dataclasses.replace(settings, tokens=3_000, distillation=0.5, norms="linear")
    done = launched(settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(settings.output)
    one = dataclasses.replace(settings, output=settings.output.with_name("one"), batch_size=8)
    expected = run(one)["log"]
    record = json.loads((settings.output / "finetune.json").read_text())
    assert record["settings"]["processes"] == 2
    assert [entry["step"] for entry in record["log"]] == [entry["step"] for entry in expected]
    for own, other in zip(record["log"], expected, strict=True):
        assert own["tokens"] == other["tokens"]
        assert own["linearity"] == other["linearity"]
        assert own["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert own["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    weights, expected_weights = (
        load_file(path / "model.safetensors") for path in (settings.output, one.output)
    )
    for name, value in expected_weights.items():
        assert float((weights[name] - value).norm() / value.norm()) < 1e-4, name
