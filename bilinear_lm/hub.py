"""Fetching files of repositories on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bilinear_lm.errors import InputError


def download(repo: str, revision: str | None, files: Sequence[str], without: Sequence[str] = ()) -> Path:
    """A local folder with the files of a repository that match `files`, and none that match `without`.

    They come from the local cache where they are there already.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=list(files), ignore_patterns=list(without)
        )
    except (OSError, HfHubHTTPError, HFValidationError, httpx.HTTPError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = " ".join(str(error).split())
        raise InputError(
            f"{repo}: no such local path, and the hub repository{at} cannot be fetched ({reason}); "
            "check the name and the network, or give a local folder"
        ) from error
    return Path(folder)
