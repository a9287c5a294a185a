"""Commands and loaders on hostile input: one line and status 2, or the right thing; nothing else, ever.

`make fuzz` runs a seeded sample of the catalogue, of which a few cases are among the ordinary tests.
"""

import shutil

import pytest
from calls import CALLS
from catalogue import catalogue, sample
from sandbox import Case, run

from .conftest import COUNT, SEED

CASES = catalogue(SEED)
SLOW = CASES if COUNT == "all" else list(sample(CASES, int(COUNT), SEED))
QUICK = [case for case in sample(CASES, 20, seed=1) if not case.real]


def try_case(case, record_property, seed, server, inputs, folder, cache):
    verdict = run(case, seed, server, inputs, folder, cache)
    record_property("kind", case.kind)
    record_property("verdict", "FAULT" if verdict.faults else verdict.way)
    if verdict.faults:
        pytest.fail(
            f"{'; '.join(verdict.faults)}\n{case.function} {' '.join(map(repr, case.arguments))}\n"
            f"in {folder}; alone: make fuzz FUZZ_SEED={seed} FUZZ_CASES=all CASE={case.name!r}\n"
            f"{verdict.ended.err[-3000:]}",
            pytrace=False,
        )
    shutil.rmtree(folder)


@pytest.mark.parametrize("command", CALLS)
def test_what_is_spoiled_is_valid_before(command, server, inputs, folder, cache):
    call = CALLS[command]
    case = Case(f"valid/{command}", call.arguments, call.uses, outputs=call.outputs, right="success")
    assert run(case, 0, server, inputs, folder, cache).faults == ()


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_some_cases(case, record_property, server, inputs, folder, cache):
    try_case(case, record_property, SEED, server, inputs, folder, cache)


@pytest.mark.fuzz
@pytest.mark.parametrize("case", SLOW, ids=lambda case: case.name)
def test_cases(case, record_property, seed, server, inputs, folder, cache):
    try_case(case, record_property, seed, server, inputs, folder, cache)
