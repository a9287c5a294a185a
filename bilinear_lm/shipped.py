"""The data that ships with the package: models, their dictionaries, and a text that one of them wrote."""

from __future__ import annotations

from pathlib import Path

from bilinear_lm.arguments import checked
from bilinear_lm.files import read_json, reading
from bilinear_lm.site_names import Site

SHIPPED = Path(__file__).parent / "models"

NAMES = "names.json"
"""The file beside shipped dictionaries with the names of their features."""


@checked
def shipped_models() -> list[str]:
    """The names of the models that ship with the package."""
    if not SHIPPED.is_dir():
        return []
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "config.json").is_file())


def shipped_dictionaries() -> list[str]:
    """The names of the dictionaries that ship with the package, such as stories-scope/0-mlp-in."""
    files = SHIPPED.glob("*-scope/*/cfg.json")
    return sorted(file.parent.relative_to(SHIPPED).as_posix() for file in files)


def shipped_or_local(name: str, shipped: list[str]) -> Path | None:
    """The path that a name stands for, if there is one: a path that exists wins over what is `shipped`."""
    path = Path(name).expanduser()
    with reading(path):
        if not path.exists() and name in shipped:
            path = SHIPPED / name
        return path if name and path.exists() else None


def shipped_scope(checkpoint: str) -> tuple[Path | None, Path | None]:
    """The folder of dictionaries of a shipped model, and the text that names its features; None if absent."""
    names = shipped_models()
    if checkpoint not in names or shipped_or_local(checkpoint, names) != SHIPPED / checkpoint:
        return None, None
    folder, text = SHIPPED / f"{checkpoint}-scope", SHIPPED / f"{checkpoint}.txt"
    return folder if folder.is_dir() else None, text if text.is_file() else None


def shipped_names(checkpoint: str) -> dict[Site, tuple[str, ...]]:
    """By site, the names of all features of a shipped model's dictionaries; none if absent.

    They are made of the text that ships, and kept in a file beside the dictionaries
    (`analysis.features.shipped_names`).
    """
    folder, _ = shipped_scope(checkpoint)
    if folder is None or not (folder / NAMES).is_file():
        return {}
    return {Site.parse(site): tuple(names) for site, names in read_json(folder / NAMES)["names"].items()}


def shipped_dictionary_names(checkpoint: str, dictionary: str) -> tuple[str, ...]:
    """The names of all features of one of a shipped model's own dictionaries, given by name or path.

    None (an empty tuple) for another dictionary, and for another checkpoint.
    """
    folder, _ = shipped_scope(checkpoint)
    path = shipped_or_local(dictionary, shipped_dictionaries())
    if folder is None or path is None or path.resolve().parent != folder.resolve():
        return ()
    return shipped_names(checkpoint).get(Site.parse(path.resolve().name), ())
