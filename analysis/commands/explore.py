"""`bilinear-lm explore`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from analysis.commands.report import PROMPT, SHOWN_FIRST
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint
from bilinear_lm.device import DeviceName
from bilinear_lm.errors import InputError
from bilinear_lm.shipped import shipped_scope

NEEDED = ("starlette", "uvicorn")


def explore(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    dictionaries: Path | None = None,
    contexts: Path | None = None,
    names: Path | None = None,
    features: int = 1000,
    prompt: str | None = None,
    state: Path | None = None,
    port: int = 0,
    browser: bool = True,
    device: DeviceName = "auto",
    seed: int = 0,
) -> None:
    """Serve the page about a model on this machine: trace prompts, change nodes, steer, and see what it does.

    The address is printed, and opened in a browser. It holds a random token: nobody without it, and no other
    machine, gets an answer. Ctrl-C ends the server. Needs the extra `explore`.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model; a bilinear one.
        dictionaries: Folder of dictionaries at mlp-in (or resid-mid) and mlp-out; a shipped model has its
            own. Without any, eigenvectors are followed.
        contexts: Text file that features are named by, documents separated by <|endoftext|>; a shipped model
            has its own.
        names: JSON file of your own names for features, as the page saves it.
        features: How many features of each dictionary the page shows, the most active; 0: none.
        prompt: The prompt of the first graph. The default model has one.
        state: Folder for jobs, results and the page, which another start goes on with; a temporary one by
            default.
        port: Port of 127.0.0.1; a free one by default.
        browser: Open the page in a browser.
        device: Where to compute.
        seed: Seeds the sampled text.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"explore: {' and '.join(missing)} cannot be imported; install the extra: "
            'pip install "bilinear-lm[explore]"'
        )
    from analysis.explore.serve import serve
    from analysis.explore.settings import Settings

    require_seed(seed)
    require_count(features, f"explore: --features {features}", "0 or more", least=0)
    if not 0 <= port < 1 << 16:
        raise InputError(f"explore: --port {port}; expected 0, a free one, to {(1 << 16) - 1}")
    folder, text = shipped_scope(checkpoint)
    own_names = dictionaries is None and contexts is None and folder is not None
    folder, text = dictionaries or folder, contexts or (None if dictionaries else text)
    files = [_checkpoint(checkpoint)]
    if folder is not None:
        files.append(_existing(folder, "dictionaries", is_folder=True))
    if text is not None:
        files.append(_existing(text, "contexts", is_folder=False))
    if names is not None:
        files.append(_existing(names, "names", is_folder=False))
    if folder is None and names is not None:
        raise InputError(f"explore: --names {names} without dictionaries whose features they name")
    if folder is None and text is not None:
        raise InputError(
            f"explore: --contexts {text} without --dictionaries; give the folder of the dictionaries whose "
            "features it is to name"
        )
    is_default = checkpoint == DEFAULT_MODEL
    settings = Settings(
        checkpoint=_absolute(checkpoint),
        dictionaries=None if folder is None else str(folder.absolute()),
        contexts=None if text is None else str(text.absolute()),
        names=None if names is None else str(names.absolute()),
        features=features if text is not None else 0,
        first=SHOWN_FIRST if is_default and own_names else None,
        own_names=own_names,
        device=device,
        seed=seed,
    )
    first = PROMPT if is_default and prompt is None else prompt
    serve(settings, files, state=state, port=port, browser=browser, prompt=first)


def _checkpoint(checkpoint: str) -> Path:
    """Where a checkpoint lies; InputError unless it is one of a bilinear model."""
    from analysis.explore.settings import require_bilinear
    from bilinear_lm.checkpoints.info import checkpoint_info
    from bilinear_lm.checkpoints.locate import locate

    require_bilinear(checkpoint, checkpoint_info(checkpoint).bilinear)
    return locate(checkpoint)


def _absolute(checkpoint: str) -> str:
    """A path from wherever the worker is; names of shipped models and of the hub as they are."""
    path = Path(checkpoint).expanduser()
    return str(path.absolute()) if path.exists() else checkpoint


def _existing(path: Path, name: str, is_folder: bool) -> Path:
    if not (path.is_dir() if is_folder else path.is_file()):
        what = "folder" if is_folder else "file"
        raise InputError(f"explore: --{name} {path}: no such {what}; expected one there")
    return path
