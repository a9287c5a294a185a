"""The documentation: its code prints what its pages show, its site is built, its notebooks run."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).parents[2] / "docs"


def load(name: str):
    """A module of the folder of documentation, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


pages = load("pages")


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.stem)
def test_the_code_of_a_page_prints_what_the_page_shows(path):
    found = pages.cells(path.read_text(encoding="utf-8"))
    for cell, out in zip(found, pages.printed(path), strict=True):
        assert cell.shown is None or pages.alike(cell.shown, out), f"line {cell.line} prints\n{out}"


def test_an_output_that_differs_is_told():
    assert not pages.alike("r 0.97, 12 nodes", "r 0.91, 12 nodes")
    assert not pages.alike("␣felt ␣feel", "␣feel ␣felt")
    assert pages.alike("tensor([0.2536,\n 0.1938])", "tensor([0.2537, 0.1938])")


def test_the_site_is_built_and_asks_nothing_of_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site]
    subprocess.run(command, cwd=DOCS.parent, check=True, capture_output=True)
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        asked = re.findall(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//[^"]*"', html)
        asked += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="https?:[^"]*"', html)
        assert not asked, path
    assert "eigendecompose" in (site / "api" / "spectra.html").read_text(encoding="utf-8")
    for path in (DOCS / "tutorial").glob("*.md"):
        notebook = nbformat.read(site / "tutorial" / f"{path.stem}.ipynb", as_version=4)
        nbformat.validate(notebook)
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert code == [cell.code.strip() for cell in pages.cells(path.read_text(encoding="utf-8"))]


def test_a_notebook_runs(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    made = load("notebooks").notebook((DOCS / "tutorial" / "polynomials.md").read_text(encoding="utf-8"))
    notebook = nbformat.from_dict(made)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    assert any("R²" in str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
