"""The server and the inputs of the fuzz, which files of it are run, and the table at the end."""

import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the server, a script, imports the same modules

from sandbox import Server

SEED = int(os.environ.get("FUZZ_SEED", "0"))
COUNT = os.environ.get("FUZZ_CASES", "600")
"""How many cases; "all" for all of them."""


@pytest.fixture(scope="session")
def seed():
    return SEED


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder for what libraries keep between calls."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(cache):
    made = Server(cache)
    yield made
    made.close()


@pytest.fixture(scope="session")
def inputs(server, tmp_path_factory):
    """The valid inputs of `inputs.py`, made by the server."""
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("inputs", "working", "tmp", "home"):
        (folder / name).mkdir()
    made = server.call(folder / "working", "inputs:build", (str(folder / "inputs"),), seconds=300)
    assert made.status == 0, made.err[-2000:]
    return folder / "inputs"


@pytest.fixture
def folder(tmp_path):
    """A short path, as names of cases are long."""
    return tmp_path / "case"


def pytest_terminal_summary(terminalreporter):
    """Counts by kind and verdict of the cases, and a row for each kill."""
    tests = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    properties = [dict(report.user_properties) for report in tests]
    kills = sorted(row for report in tests for name, row in report.user_properties if name == "kill")
    counts = defaultdict(Counter)
    for entry in properties:
        if "kind" in entry:
            counts[entry["kind"]][entry["verdict"]] += 1
    if counts:
        ways = sorted({way for row in counts.values() for way in row})
        total = Counter(way for row in counts.values() for way in row.elements())
        rows = [(kind, *(str(counts[kind][way] or "") for way in ways)) for kind in sorted(counts)]
        rows.append(("all", *(str(total[way]) for way in ways)))
        _table(terminalreporter, f"fuzz, seed {SEED}: {total.total()} cases", ("kind", *ways), rows)
    if kills:
        head = ("run", "signal", "after", "status", "left beside", "then", "verdict")
        _table(terminalreporter, f"kills, seed {SEED}: {len(kills)}", head, kills)


def _table(reporter, title, head, rows):
    reporter.section(title)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        reporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
