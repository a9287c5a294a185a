"""Benchmarks are run by hand: here they are only imported, so that no name they use has gone."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture(autouse=True)
def modules_of_benchmarks(monkeypatch):
    """Benchmarks import each other by name; `trace` is also a module of Python's own."""
    before = {name: sys.modules.pop(name) for name in SCRIPTS if name in sys.modules}
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in SCRIPTS:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.mark.parametrize("name", SCRIPTS)
def test_its_imports_are_there(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    assert module.__doc__
