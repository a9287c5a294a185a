"""The folder of an unfinished run: its settings and checkpoints, from which it goes on after a kill."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException

from bilinear_lm.checkpoints.huggingface import one_line
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, write_json

SETTINGS = "settings.json"
STATE = "trainer_state.json"
"""transformers writes it last: a checkpoint without it was cut off by a kill."""
_SOURCES = ("model", "data", "calibration", "validation")


def as_json(config: Any, leave_out: Iterable[str], **more: Any) -> dict[str, Any]:
    """The fields of a settings dataclass as JSON values, but for those left out, and `more`.

    Models and texts are named without the folders that they lie in.
    """
    settings = {
        name: _named(value) if name in _SOURCES else value
        for name, value in dataclasses.asdict(config).items()
        if name not in leave_out
    }
    return json.loads(json.dumps(settings | more, default=str))


def _named(source: Any) -> Any:
    """What to call a source, or each of several: a file or folder by its own name."""
    if isinstance(source, tuple):
        return [_named(each) for each in source]
    return Path(source).name if source is not None and Path(source).exists() else source


def run_folder_of(output: Path) -> Path:
    """Where the run lies that will write `output`: in `<output>.run`."""
    return output.with_name(output.name + ".run")


def open_run(output: Path, settings: dict[str, Any], resume: bool) -> Path:
    """The folder of the run that will write `output`: new, or of the same settings where it is resumed.

    Raises InputError for a run that is there and not to be resumed, or is to be and has other settings or is
    not there.
    """
    run = run_folder_of(output)
    if not run.exists():
        if resume:
            raise InputError(f"{run}: no interrupted run there; start it without --resume")
        with new_folder(run) as folder:
            write_json(folder / SETTINGS, settings)
    elif not resume:
        raise InputError(f"{run}: an interrupted run is there; add --resume to go on, or delete it")
    then = read_json(run / SETTINGS)
    if changed := [name for name in settings if then.get(name) != settings[name]]:
        listed = "; ".join(f"{name} was {then.get(name)}, is {settings[name]}" for name in changed)
        raise InputError(f"{run}: resumed with other settings ({listed}); give the same ones or start anew")
    return run


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    complete = [folder for folder in run.glob("checkpoint-*") if _ends(folder / STATE)]
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _ends(state: Path) -> bool:
    """Whether the file is there to its end, the brace of the outermost object."""
    return state.is_file() and state.read_text(encoding="utf-8").endswith("\n}\n")


@contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Turns what a full or read-only disk makes of saving weights into an InputError about `path`."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises a RuntimeError
        raise InputError(f"{path}: cannot be written ({one_line(error)}); {advice}") from error
    except CheckpointException as error:  # several processes were writing; it holds what each met
        [(cause, _), *_] = error.failures.values()
        raise InputError(f"{path}: cannot be written ({cause!r}); {advice}") from error
