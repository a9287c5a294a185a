"""The documentation: its code prints what its pages show, its commands are taken, its site is built.

Blocks of Python are run, all of a page in one namespace. Commands of `sh` are run where docs/commands.py says
that they are quick (`QUICK`) and nothing is to be filled in; every other is read by the parser of the program
that it is for, without being run.
"""

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


pages, commands = load("pages"), load("commands")


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.stem)
def test_the_code_of_a_page_prints_what_the_page_shows(path):
    found = pages.cells(path.read_text(encoding="utf-8"))
    for cell, out in zip(found, pages.printed(path), strict=True):
        assert cell.shown is None or pages.alike(cell.shown, out), f"line {cell.line} prints\n{out}"


@pytest.mark.parametrize("path", commands.pages(), ids=lambda path: path.stem)
def test_the_commands_of_a_page_are_taken(path):
    assert list(commands.check(path)) == []


def test_what_is_run_and_what_is_read():
    every = {command for path in commands.pages() for command in commands.commands(path.read_text("utf-8"))}
    ran = {" ".join(command.words[1:]) for command in every if command.is_run}
    assert {name for name in commands.QUICK if any(one.startswith(name) for one in ran)} == {*commands.QUICK}
    assert {command.words[0] for command in every} >= {"bilinear-lm", "make", "pip", "python", "accelerate"}
    for text, says in (
        ("bilinear-lm report MODEL --context TEXT", "--context"),
        ("bilinear-lm policy reed -o DIR", "reed"),
        ("accelerate launch --num_processes 2 -m bilinear_lm finetune MODEL -o DIR --dat TEXT", "--dat"),
        ("bilinear-lm trace --feature 9-mlp-out-1 -o a.json", "status 2"),
        ("make dema", "dema"),
        ("pip install '.[exlore]'", "exlore"),
        ("python examples/gate.py", "no such file"),
        ("blinear-lm info stories", "nothing here reads"),
    ):
        (command,) = commands.commands(f"```sh\n{text}\n```\n")
        with pytest.raises(commands.NotTaken, match=says):
            commands.run(command) if command.is_run else commands.read(command)


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
