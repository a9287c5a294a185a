"""A report in a folder: the page, the data that it reads when needed, and how far the making of it has come.

    index.html            the page, written last
    data/NAME.js          a shard, which calls `shard(NAME, JSON as a text)`
    data/plotly.js        the library of figures
    report.json           settings, hashes of the inputs, and the layers that are done
    parts/LAYER.*         what the page needs of a layer beside its shards, until the page is written

A layer is in `report.json` only when its files are complete, each of which is written whole or not at all.
One process writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.report.document import library, shard_script
from analysis.report.features import FeatureReading, Keeper
from analysis.report.shards.content import Tokens, layer_shards
from analysis.report.shards.kept import load_reading, save_reading, slimmed
from analysis.report.shards.settings import differences
from analysis.text.windows import Windows
from bilinear_lm.errors import InputError
from bilinear_lm.files import is_file, read_json, require_new, require_writable, write_json, write_text

FORMAT, VERSION = "bilinear-lm report", 1

PAGE, MANIFEST = "index.html", "report.json"


class Passing(Keeper):
    """Keeps what a page needs of each layer beside its shards, for processes that write none."""

    def keep(self, reading: FeatureReading, windows: Windows, n_listed: int) -> FeatureReading:
        """The reading without what only its shards hold."""
        return slimmed(reading)


@dataclass
class ReportFolder(Keeper):
    """A report that is being written, layer by layer."""

    path: Path
    settings: Mapping[str, Any]
    layers: list[int] = field(default_factory=list)
    """The layers that are done."""
    is_finished: bool = False
    """Whether the page is written too."""

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> ReportFolder:
        """A new folder, or one with a report of these settings that was begun.

        Raises InputError for other settings, and for a folder with anything else in it.
        """
        if not is_report(path):
            require_new(path)
            folder = cls(path, settings)
            folder._tell()
            return folder
        manifest = read_json(path / MANIFEST)
        if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
            raise InputError(
                f"{path / MANIFEST}: format {manifest.get('format')!r}, version {manifest.get('version')!r}; "
                f"expected {FORMAT!r}, version {VERSION}; choose another folder"
            )
        if differs := differences(manifest["settings"], settings):
            raise InputError(
                f"{path}: holds a report made from other inputs ({differs}); give the same ones, or choose "
                "another folder"
            )
        folder = cls(path, settings, list(manifest["layers"]), bool(manifest["finished"]))
        folder._clear()
        return folder

    def finished(self, layer: int, windows: Windows) -> FeatureReading | None:
        """The reading of a layer that is done, as it is kept; None for others."""
        return load_reading(self.path / "parts", layer, windows) if layer in self.layers else None

    def keep(self, reading: FeatureReading, windows: Windows, n_listed: int) -> FeatureReading:
        """Writes the shards of a layer; what is kept of it."""
        tokens = Tokens(windows)
        for name, value in layer_shards(reading, tokens, n_listed):
            write_text(self.path / "data" / f"{name}.js", shard_script(name, value))
        kept = slimmed(reading)
        save_reading(self.path / "parts", kept)
        self.layers.append(reading.layer)
        self._tell()
        return kept

    def finish(self, page: str) -> None:
        """Writes the page, which ends the report."""
        write_text(self.path / "data" / "plotly.js", library())
        write_text(self.path / PAGE, page)
        self.is_finished = True
        self._tell()
        self._clear()

    def _clear(self) -> None:
        """Removes what is kept of layers once the page is written."""
        if self.is_finished:
            shutil.rmtree(self.path / "parts", ignore_errors=True)

    def _tell(self) -> None:
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "finished": self.is_finished,
            "layers": sorted(self.layers),
            "settings": dict(self.settings),
        }
        write_json(self.path / MANIFEST, manifest)


def is_report(path: Path) -> bool:
    """Whether a folder holds a report that was begun."""
    return is_file(path / MANIFEST)


def require_folder(path: Path) -> None:
    """Raises InputError unless a report can be written or go on in a folder; to be asked before long work."""
    if not is_report(path):
        require_new(path)
    require_writable(path / PAGE)
