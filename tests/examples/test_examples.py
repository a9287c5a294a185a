"""Every example runs on the models that ship."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SMALL = {"superposition": ["--steps", "20"], "gates": ["--steps", "20"]}
"""Options with which an example that trains takes a moment; it writes a figure."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, monkeypatch, capsys, tmp_path):
    figure = tmp_path / "figure.png"
    options = [*SMALL[path.stem], "--figure", str(figure)] if path.stem in SMALL else []
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    runpy.run_path(str(path), run_name="__main__")
    assert figure.exists() == (path.stem in SMALL)
    assert capsys.readouterr().out


def test_the_example_of_masks_draws_them(monkeypatch, tmp_path):
    (path,) = (path for path in EXAMPLES if path.stem == "masks")
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path / "masks.png")])
    runpy.run_path(str(path), run_name="__main__")
    assert (tmp_path / "masks.png").stat().st_size > 5000
