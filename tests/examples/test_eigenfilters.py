"""The example of eigenfilters at a small size, with its figure."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "eigenfilters.py"


def test_the_figure_is_written(tmp_path, capsys):
    figure = tmp_path / "filters.png"
    runpy.run_path(str(EXAMPLE))["main"](str(figure), steps=3)
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert "mean response to bars" in capsys.readouterr().out
