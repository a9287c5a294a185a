"""A file or folder of the user's that has the name of one of our packages is named, in one line."""

import importlib
import os
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from bilinear_lm import InputError, own_packages
from bilinear_lm.own_packages import require_own_packages, what_hides

ROOT = Path(__file__).parents[2]

INSTALLED_EDITABLE = f"""
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

class Finder:  # as setuptools installs: asked after the folders of sys.path
    @staticmethod
    def find_spec(name, path=None, target=None):
        folder = Path({str(ROOT)!r}, name)
        if name in ("bilinear_lm", "analysis", "finetune"):
            init, places = folder / "__init__.py", [str(folder)]
            return spec_from_file_location(name, init, submodule_search_locations=places)

sys.path[:] = [folder for folder in sys.path if folder != {str(ROOT)!r}]
paths = [finder.__name__ == "PathFinder" if isinstance(finder, type) else False for finder in sys.meta_path]
sys.meta_path.insert(paths.index(True) + 1, Finder)
"""


WHICH = "which hides the package of bilinear-lm; rename it or run elsewhere"


def python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def file(name):
    def make(folder):
        (folder / name).write_text("")
        return folder / name

    return make


def package(name):
    def make(folder):
        (folder / name).mkdir()
        return file("__init__.py")(folder / name)

    return make


def plain_folder(name):
    def make(folder):
        (folder / name).mkdir()
        (folder / name / "results.csv").write_text("1")
        return folder / name

    return make


HIDERS = [file("analysis.py"), file("finetune.py"), package("analysis")]
IDS = ["analysis.py", "finetune.py", "analysis/__init__.py"]


@pytest.mark.parametrize("make", HIDERS, ids=IDS)
def test_a_command(tmp_path, make):
    hider = make(tmp_path)
    name = hider.relative_to(tmp_path).parts[0].removesuffix(".py")
    done = python(tmp_path, "-m", "bilinear_lm", "info", "stories")
    assert done.returncode == 2
    assert done.stderr == f"bilinear-lm: {name} is {hider}, {WHICH}\n"
    assert done.stdout == ""


@pytest.mark.parametrize("make", HIDERS, ids=IDS)
def test_a_script(tmp_path, make):
    """A user who only loads models is not stopped; one line says what is hidden, and at which import."""
    hider = make(tmp_path)
    (tmp_path / "mine.py").write_text("import bilinear_lm\nfrom bilinear_lm import cli\ncli.commands()\n")
    done = python(tmp_path, "mine.py")
    first, at, *rest = done.stderr.splitlines()
    assert first.startswith(f"{tmp_path / 'mine.py'}:1: UserWarning: ")
    assert f"is {hider}, {WHICH} to import" in first
    assert at == "  import bilinear_lm"
    assert rest[-1].endswith(WHICH)
    assert [line for line in rest if "UserWarning" in line] == []


def test_a_script_of_the_name_itself(tmp_path):
    """Python's own error says little; the line before it says why."""
    script = tmp_path / "analysis.py"
    script.write_text("import bilinear_lm\nfrom analysis import eigendecompose\n")
    done = python(tmp_path, "analysis.py")
    assert done.stderr.startswith(f"{script}:1: UserWarning: analysis is {script}, which hides the package")
    assert "cannot import name 'eigendecompose'" in done.stderr


def test_both_are_told_at_once(tmp_path):
    for name in ("analysis.py", "finetune.py"):
        file(name)(tmp_path)
    done = python(tmp_path, "-c", "import bilinear_lm; print(bilinear_lm.__version__)")
    assert done.stdout
    assert done.stderr.count("UserWarning") == 1
    assert "analysis.py" in done.stderr
    assert "finetune.py" in done.stderr


@pytest.mark.parametrize("name", ["analysis", "finetune"])
def test_a_folder_without_modules(tmp_path, name):
    """It hides an editable installation, which Python asks last, and no other."""
    folder = plain_folder(name)(tmp_path)
    beside = python(tmp_path, "-c", "import bilinear_lm.cli; bilinear_lm.cli.require_own_packages()")
    assert (beside.returncode, beside.stderr) == (0, "")
    code = (
        f"{INSTALLED_EDITABLE}\nimport bilinear_lm.cli\nsys.exit(bilinear_lm.cli.main(['info', 'stories']))"
    )
    editable = python(tmp_path, "-c", code)
    assert editable.returncode == 2
    assert editable.stderr.splitlines()[-1] == f"bilinear-lm: {name} is {folder}, {WHICH}"


@pytest.mark.parametrize("before", ["", INSTALLED_EDITABLE])
def test_nothing_is_said_where_nothing_is_hidden(tmp_path, before):
    code = "import sys, bilinear_lm.cli; bilinear_lm.cli.require_own_packages(); print(*sys.modules)"
    done = python(tmp_path, "-W", "error", "-c", f"{before}\n{code}")
    assert (done.returncode, done.stderr) == (0, "")
    assert not {"analysis", "finetune", "torch"} & set(done.stdout.split())


def test_through_a_link(tmp_path):
    for name in ("bilinear_lm", "analysis", "finetune"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = python(tmp_path, "-W", "error", "-c", "import bilinear_lm.cli as c; c.require_own_packages()")
    assert (done.returncode, done.stderr) == (0, "")


def test_modules_that_are_imported_already(monkeypatch):
    monkeypatch.setitem(sys.modules, "analysis", types.ModuleType("analysis"))
    assert what_hides("analysis") == "a module without a file"
    with pytest.raises(InputError, match="analysis is a module without a file, which hides the package"):
        require_own_packages()
    monkeypatch.setitem(sys.modules, "analysis", importlib.import_module("finetune"))
    assert what_hides("analysis") == str(ROOT / "finetune" / "__init__.py")


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.delitem(sys.modules, "analysis", raising=False)
    monkeypatch.setattr(own_packages, "find_spec", lambda name: None)
    assert what_hides("analysis") is None
    monkeypatch.setattr(own_packages, "find_spec", lambda name: ModuleSpec(name, None, is_package=True))
    assert what_hides("analysis") == "a module without a file"
