"""Locating a checkpoint: a local path, a model that ships with the package, or a repository on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bilinear_lm.errors import InputError
from bilinear_lm.hub import download
from bilinear_lm.shipped import shipped_models, shipped_or_local

TOKENIZER_FILES = ("*.json", "merges.txt", "vocab.txt", "tokenizer.model")
MODEL_FILES = ("*.safetensors", *TOKENIZER_FILES)
# Only the top level is read, and "consolidated" files repeat the weights in another layout.
UNREAD_FILES = ("*/*", "consolidated*")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def locate(
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    files: tuple[str, ...] = MODEL_FILES,
) -> Path:
    """The local file or folder that a path, a shipped model's name or a hub repository stands for.

    A path that exists wins. A hub repository is downloaded (only `files`, patterns of its top level)
    at `revision`, or taken from the local cache.
    """
    name = os.fspath(path_or_repo)
    if (path := local_path(name)) is not None:
        if revision is not None:
            raise InputError(f"{name}: a local path has no revision {revision}; leave the revision out")
        return path
    if not isinstance(path_or_repo, str) or not _may_be_on_the_hub(name):
        shipped = f" ({', '.join(shipped_models())})" if shipped_models() else ""
        raise InputError(
            f"{name}: no such file or folder; expected a checkpoint's path, "
            f"a shipped model{shipped}, or a hub repository as owner/name"
        )
    return download(name, revision, files, without=UNREAD_FILES)


def local_path(path_or_repo: str | os.PathLike[str]) -> Path | None:
    """The file or folder here that a path or a shipped model's name stands for, if there is one."""
    return shipped_or_local(os.fspath(path_or_repo), shipped_models())


def _may_be_on_the_hub(name: str) -> bool:
    looks_like_a_file = name.endswith((".bin", ".safetensors", ".json", ".pt", ".pth", ".ckpt"))
    return HUB_NAME.fullmatch(name) is not None and not looks_like_a_file
