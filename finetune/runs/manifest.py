"""A list of a folder's files with their sizes and hashes, by which it is known to be as it was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, write_json

MANIFEST = "manifest.json"
"""The manifest's file; it is written last, so a folder without it was cut off by a kill."""


def write_manifest(folder: Path) -> None:
    """Lists the files of a folder, in its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {path.relative_to(folder).as_posix(): _entry(path) for path in files}
    write_json(folder / MANIFEST, entries)


def is_complete(folder: Path) -> bool:
    """Whether a folder was written to its end."""
    return (folder / MANIFEST).is_file()


def damage(folder: Path) -> str | None:
    """The first difference of a complete folder from its manifest; None where there is none."""
    try:
        entries = read_json(folder / MANIFEST)
    except InputError:
        return f"{MANIFEST} cannot be read"
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes, expected {entry['bytes']:,}"
        if _entry(path) != entry:
            return f"{name} has other contents than were written"
    return None


def require_undamaged(folder: Path) -> None:
    """Raises InputError where a folder of a run is not as it was written."""
    told = damage(folder) if is_complete(folder) else f"no {MANIFEST}"
    if told:
        raise InputError(f"{folder}: damaged ({told}); delete the folder {folder.parent} and start anew")


def _entry(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
