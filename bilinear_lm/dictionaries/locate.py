"""Locating a dictionary: a local path, one that ships with the package, or a folder on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bilinear_lm.errors import InputError
from bilinear_lm.hub import download
from bilinear_lm.shipped import shipped_dictionaries, shipped_or_local

FILES = (
    "cfg.json",
    "config.json",
    "activation_scaler.json",
    "model.safetensors",
    "sae.safetensors",
    "sae_weights.safetensors",
    "params.npz",
    "params.safetensors",
)
_HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?P<inside>(/[\w.=-]+)*)")


def locate_dictionary(path_or_repo: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder or file that a path, a shipped dictionary's name or a place on the hub stands for.

    A path that exists wins. On the hub, `owner/name/folder` is a folder of a repository and
    `owner/name/layer_3.safetensors` or a `.npz` a file of it; only that is downloaded.
    """
    name = os.fspath(path_or_repo)
    if (path := shipped_or_local(name, shipped_dictionaries())) is not None:
        if revision is not None:
            raise InputError(f"{name}: a local path has no revision {revision}; leave the revision out")
        return path
    match = _HUB_NAME.fullmatch(name)
    if match is None or not isinstance(path_or_repo, str):
        shipped = f" ({', '.join(shipped_dictionaries())})" if shipped_dictionaries() else ""
        raise InputError(
            f"{name}: no such file or folder; expected a dictionary's path, a shipped one{shipped}, "
            "or a folder of a hub repository as owner/name/folder"
        )
    inside = match["inside"].lstrip("/")
    if inside.endswith((".safetensors", ".npz")):
        files = [inside, "config.yaml"]
    else:
        files = [f"{inside}/{file}" if inside else file for file in FILES]
    local = download(match["repo"], revision, files) / inside
    if not local.exists():
        raise InputError(f"{name}: the hub repository {match['repo']} has no dictionary at {inside}")
    return local
