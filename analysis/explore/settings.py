"""The model that a served page is about, and where its state lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Literal

from bilinear_lm.errors import InputError
from bilinear_lm.files import reading, told

DeviceName = Literal["auto", "cpu", "cuda"]

PAGE = "report.html"
"""The file of the state with the whole page."""


@dataclass(frozen=True)
class Settings:
    """The model, what it is read through, and what the page begins with."""

    checkpoint: str
    """As it is given to `load_pretrained`."""
    dictionaries: str | None
    """The folder of dictionaries."""
    contexts: str | None
    """The file of the text that features are named by."""
    names: str | None
    """The file of a user's own names for features."""
    features: int
    """Features of each dictionary on the page; 0: none."""
    first: tuple[int, int] | None
    """Layer and number of the output feature that the page opens with."""
    own_names: bool
    """Whether the names of features that ship with the model are theirs."""
    device: DeviceName
    seed: int
    state: str = ""
    """The folder of this model's state."""

    @property
    def name(self) -> str:
        """The model's name on the page."""
        return told(Path(self.checkpoint).name)

    def as_json(self) -> dict[str, Any]:
        """The settings as the worker gets them."""
        return asdict(self)

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Settings:
        """The settings that `as_json` wrote."""
        return cls(**{**record, "first": tuple(record["first"]) if record["first"] else None})


def require_bilinear(checkpoint: str, bilinear: bool) -> None:
    """Raises InputError unless a checkpoint is of a bilinear model."""
    if not bilinear:
        raise InputError(
            f"explore: {told(checkpoint)} is not bilinear; convert it (`bilinear-lm convert MODEL -o DIR`), "
            "or read it through quadratics (`bilinear-lm report --calibration FILE`)"
        )


def state_key(settings: Settings, paths: list[Path]) -> str:
    """A name for what settings and files stand for: another where any of them, or the version, is another.

    Files are told apart by name, size and time of writing; whole weights would take long to read.
    """
    facts = [
        {**settings.as_json(), "state": "", "device": ""},
        _version(),
        [[path.name, *_stamp(path)] for path in sorted(each for path in paths for each in _files(path))],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def _files(path: Path) -> Iterator[Path]:
    with reading(path):
        if not path.is_dir():
            yield path
            return
        yield from (each for each in path.rglob("*") if each.is_file())


def _stamp(path: Path) -> tuple[int, int]:
    with reading(path):
        stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _version() -> str:
    try:
        return version("bilinear-lm")
    except PackageNotFoundError:  # run from a folder, not installed
        return ""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a folder of state for this server while open; InputError where another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder for --state"
        ) from error
    with file:
        _lock(file, folder)
        yield


def _lock(file: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # where there are no such locks
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            f"{folder}: another explore uses it; end that one, or choose another folder for --state"
        ) from error
