"""A tiny model with hostile tokens, and a runner with a worker that needs no model."""

import sys
import time
from pathlib import Path

import pytest

from analysis.explore.jobs import Jobs
from analysis.explore.runner import Runner
from analysis.report.options import STORY
from bilinear_lm import save_dictionary
from bilinear_lm.checkpoints import save_folder

from ..report.pages import hostile_model

HOSTILE = ["<script>alert(1)</script>", "</script><!--", "<img src=x onerror=alert(2)>"]

FAKE = [sys.executable, "-S", "-E", str(Path(__file__).with_name("fake_worker.py"))]


@pytest.fixture
def make_runner():
    """Starts a runner of the jobs in a folder; afterwards it is stopped, and its worker gone."""
    made = []

    def make(folder, command=FAKE, patience=0.3):
        runner = Runner(Jobs(folder), command, patience)
        made.append(runner)
        runner.start()
        return runner

    yield make
    for runner in made:
        runner.stop()
        assert runner.worker is None or runner.worker.process.returncode is not None


@pytest.fixture
def runner(make_runner, tmp_path):
    return make_runner(tmp_path)


@pytest.fixture
def until():
    """Waits until something holds."""

    def wait(condition, seconds=60):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end
            time.sleep(0.01)
        return found

    return wait


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model, dictionaries around its last MLP, and a text, in files."""
    folder = tmp_path_factory.mktemp("served")
    model, tokenizer, pair = hostile_model(HOSTILE)
    save_folder(model, tokenizer, folder / "model")
    for dictionary in (pair.inputs, pair.outputs):
        save_dictionary(dictionary, folder / "scope" / str(dictionary.site))
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(f"{token} {STORY}" for token in HOSTILE))
    return folder
