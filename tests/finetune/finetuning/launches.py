"""Runs by two processes, through `accelerate launch`, and what they have in common with a run by one."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

CONFIG = Path(__file__).parents[3] / "examples" / "tinyllama_fsdp.yaml"
"""Everything as it ships but for the number of processes."""
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
LAUNCH += ["--main_process_port", "0", "--config_file", str(CONFIG)]
LAUNCHED = Path(__file__).with_name("launched.py")


class Launch:
    """One launch of two processes, which do one run after the other (`launched.py`)."""

    def __init__(self, folder: Path):
        self.folder, self.n_runs = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "launch.txt").open("w") as said:
            command = [*LAUNCH, str(LAUNCHED), str(folder)]
            self.launcher = subprocess.Popen(command, env=environment, stdout=said, stderr=said)

    def start(self, arguments, sharded=True):
        """Has them begin a run, and gives its number."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        draft = self.folder / "asked"
        draft.write_text(json.dumps({"arguments": arguments, "port": port, "sharded": sharded}))
        draft.replace(self.folder / f"{self.n_runs}.json")
        self.n_runs += 1
        return self.n_runs - 1

    def until(self, there):
        """Waits for a file."""
        deadline = time.monotonic() + 200
        while not there.exists():
            assert self.launcher.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.005)

    def ends(self, number):
        """The status of each process at the end of a run."""
        files = [self.folder / f"{number}.{rank}.ended" for rank in range(2)]
        for file in files:
            self.until(file)
        return [int(file.read_text()) for file in files]

    def run(self, arguments, sharded=True):
        """Does a run, and gives what the first process printed."""
        number = self.start(arguments, sharded)
        assert self.ends(number) == [0, 0], self.said()
        return (self.folder / f"{number}.0.txt").read_text()

    def kill(self, number):
        """Kills both processes of a run."""
        for process in psutil.Process(self.launcher.pid).children():
            for child in process.children():
                child.kill()
        assert self.ends(number) == [-9, -9], self.said()

    def said(self):
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("*.txt")))

    def end(self):
        self.start([])
        assert self.launcher.wait(timeout=60) == 0, self.said()


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
