"""Thirty kills of seven kinds of run: nothing lost, nothing half-written; run by `make kills`."""

import shutil

import pytest
from kills import RUNS, kill, kills, run_whole

from .conftest import SEED

pytestmark = pytest.mark.kills
WHOLE = {}


@pytest.mark.parametrize(
    "planned",
    [
        pytest.param(planned, marks=pytest.mark.xdist_group(planned.run), id=planned.name)
        for planned in kills(SEED)
    ],
)
def test_a_kill(planned, record_property, seed, server, inputs, folder, cache, tmp_path):
    if planned.run not in WHOLE:
        WHOLE[planned.run] = run_whole(RUNS[planned.run], inputs, tmp_path / "whole", cache)
    outcome = kill(planned, seed, WHOLE[planned.run], inputs, folder, cache, server)
    record_property("kill", [*outcome.row, "FAULT" if outcome.faults else "good"])
    if outcome.faults:
        alone = f"make kills FUZZ_SEED={seed} CASE={planned.name!r}"
        listed = "\n".join(outcome.faults)
        pytest.fail(f"{listed}\nin {folder}; alone: {alone}\n{outcome.err[-3000:]}", pytrace=False)
    shutil.rmtree(folder)
