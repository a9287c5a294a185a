"""Kills of eight kinds of run: nothing lost, nothing half-written; run by `make kills`."""

import shutil

import pytest
from kills import RUNS, kill, kills, run_whole

from .conftest import SEED


@pytest.mark.kills
@pytest.mark.parametrize("run", RUNS)
def test_kills(run, record_property, seed, server, inputs, cache, tmp_path):
    whole = run_whole(RUNS[run], inputs, tmp_path / "whole", cache)
    faults = []
    for planned in (planned for planned in kills(SEED) if planned.run == run):
        folder = tmp_path / planned.name
        outcome = kill(planned, seed, whole, inputs, folder, cache, server)
        record_property("kill", [*outcome.row, "FAULT" if outcome.faults else "good"])
        faults += [f"{planned.name}: {fault}" for fault in outcome.faults]
        if outcome.faults:
            faults.append(f"    in {folder}, which said {outcome.err[-300:]!r}")
        else:
            shutil.rmtree(folder)
    if faults:
        listed = "\n".join(faults)
        pytest.fail(f"{listed}\nagain: make kills FUZZ_SEED={seed} CASE={run}", pytrace=False)
