"""What an installed copy holds: every package, and every file beside the code."""

import fnmatch
import glob
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bilinear_lm", "finetune", "analysis")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def files(package):
    return [
        path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_modules_is_a_package(package):
    """One without `__init__.py` is left out of what is built, with all that lies in it."""
    modules = [path for path in files(package) if path.suffix == ".py"]
    folders = {folder for path in modules for folder in path.parents if folder.is_relative_to(ROOT / package)}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_all_packages_are_built():
    assert SETTINGS["tool"]["setuptools"]["packages"]["find"]["include"] == [f"{name}*" for name in PACKAGES]


def matches(package, pattern):
    """As setuptools reads a pattern: pathlib's `**` finds folders alone in Python 3.11 and 3.12."""
    return glob.glob(pattern, root_dir=ROOT / package, recursive=True)  # noqa: PTH207


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_beside_the_code_is_package_data(package):
    patterns = SETTINGS["tool"]["setuptools"]["package-data"][package]
    given = {ROOT / package / name for pattern in patterns for name in matches(package, pattern)}
    given = {path for path in given if path.is_file()}
    assert given == {path for path in files(package) if path.suffix != ".py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_told(package):
    assert (ROOT / package / "py.typed").read_bytes() == b""


def test_nothing_of_the_packages_is_ignored_by_git():
    """A rule meant for results hides a folder of code as well, and what is hidden is never kept."""
    rules = [rule for rule in (ROOT / ".gitignore").read_text().splitlines() if not rule.startswith("/")]
    for package in PACKAGES:
        for path in files(package):
            for part in path.relative_to(ROOT).parts:
                assert not any(fnmatch.fnmatch(part, rule.rstrip("/")) for rule in rules), path


def test_versions_agree():
    import bilinear_lm

    assert bilinear_lm.__version__ == SETTINGS["project"]["version"]


def test_every_adapter_is_registered_where_it_is_installed():
    from bilinear_lm import hooked
    from bilinear_lm.hooked.adapters import HOOKABLE

    entries = SETTINGS["project"]["entry-points"]["transformer_lens.architectures"]
    assert list(entries) == [f"Bilinear{name}" for name in HOOKABLE]
    for entry in entries.values():
        module, _, adapter = entry.partition(":")
        assert module == "bilinear_lm.hooked"
        assert adapter in hooked.__all__


def test_what_is_said_of_a_release_agrees():
    """The citation and the changelog are of the same version, and papers are those of README."""
    version = SETTINGS["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    papers = re.findall(r"arxiv\.org/abs/([\d.]+\d)", (ROOT / "README.md").read_text())
    assert papers == re.findall(r"value: arXiv:([\d.]+)", citation)


def test_the_order_of_rooms_is_that_of_the_tests():
    from .test_imports import ROOMS

    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = text.partition("import those before it:")[2].partition("`tests/test_imports.py`")[0]
    assert re.findall(r"`(\w+)`", listed) == ROOMS[1:]


def test_paths_that_contributors_are_sent_to_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`?((?:bilinear_lm|finetune|analysis|tests)/[\w/]+(?:\.py)?)", text))
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
