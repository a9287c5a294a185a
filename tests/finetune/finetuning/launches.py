"""Runs by several processes, through `accelerate launch`, and what they have in common with a run by one."""

import os
import sys

import pytest
from safetensors.torch import load_file

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
LAUNCH += ["--main_process_port", "0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def arguments(settings):
    """What the command line is given for settings."""
    given = ["finetune", settings.model, "-o", str(settings.output), "--data", *settings.data]
    for name in (
        *("tokens", "start", "distillation", "matching", "norms", "batch-size", "learning-rate", "precision"),
        *("calibration-tokens", "checkpoint-steps", "log-steps", "device"),
    ):
        given += [f"--{name}", str(getattr(settings, name.replace("-", "_")))]
    if settings.validation is not None:
        given += ["--validation", str(settings.validation)]
        given += ["--validation-steps", str(settings.validation_steps)]
    return given


def require_same_logs(log, expected, loss):
    """Entries of the same steps; losses differ by less than this share, gradient norms by 100 times it."""
    assert [entry["step"] for entry in log] == [entry["step"] for entry in expected]
    for own, other in zip(log, expected, strict=True):
        assert own.keys() == other.keys()
        assert own["tokens"] == other["tokens"]
        assert own["linearity"] == other["linearity"]
        for name in own.keys() & {"loss", "validation_loss"}:
            assert own[name] == pytest.approx(other[name], rel=loss)
        assert own["grad_norm"] == pytest.approx(other["grad_norm"], rel=100 * loss)


def require_same_weights(output, expected, share):
    """The difference of each weight is less than this share of it."""
    weights, expected_weights = (load_file(path / "model.safetensors") for path in (output, expected))
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        assert float((weights[name] - value).norm() / value.norm()) < share, name
