"""The folder of an unfinished run: its settings and checkpoints, from which it goes on after a kill.

Everything that a run writes, drafts too, lies there until the run is over; the finished model is moved out in
one step. So a kill at any moment leaves this folder, from which the run goes on, and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException
from tqdm.auto import tqdm

from bilinear_lm.checkpoints.huggingface import one_line
from bilinear_lm.checkpoints.steps import KEPT
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, require_new, require_writable, told, write_json
from finetune.runs.manifest import MANIFEST, damage, is_complete

SETTINGS = "settings.json"

FINISHED = "finished"
"""The model as it will be, in the run's folder until it is complete."""

MAKE_ROOM = "earlier checkpoints are kept: make room and go on with --resume"

_WORK = ("start", "tokens", "trained", FINISHED)
"""Parts of a run, besides checkpoints, that are worth going on from."""

_SOURCES = ("model", "data", "calibration", "validation", "tokenizer")


class Diverged(InputError):
    """Training that has diverged, as it would again with the same settings."""


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
    """The name of a source, or of each of several, in a record: a file or folder has its own name.

    A run may be resumed from another folder, and its inputs may have been moved meanwhile.
    """
    if isinstance(source, tuple):
        return [_named(each) for each in source]
    if source is None:
        return None
    return told(Path(source).absolute() if Path(source).exists() else source)


def run_folder_of(output: Path) -> Path:
    """The folder of the run that will write `output`: `<output>.run`."""
    if not output.name:
        raise InputError(f"{output}: has no name of its own; expected the name of a new folder")
    return output.with_name(output.name + ".run")


def open_run(output: Path, settings: dict[str, Any], resume: bool) -> Path:
    """The folder of the run that will write `output`: new, or of the same settings where it is resumed.

    Raises InputError for an existing run that is not to be resumed, and for one to be resumed that is not
    there or has other settings.
    """
    run = run_folder_of(output)
    if _is_unbegun(run):
        if resume:
            raise InputError(f"{run}: no interrupted run there; start it without --resume")
        if not run.is_dir():
            require_writable(run)
            run.mkdir(parents=True)
        write_json(run / SETTINGS, settings)
    elif not resume:
        raise InputError(f"{run}: an interrupted run is there; add --resume to go on, or delete it")
    _remove_drafts(run)
    then = read_json(run / SETTINGS)
    if changed := [name for name in settings if then.get(name) != settings[name]]:
        listed = "; ".join(f"{name} was {then.get(name)}, is {settings[name]}" for name in changed)
        raise InputError(f"{run}: resumed with other settings ({listed}); give the same ones or start anew")
    return run


def _is_unbegun(run: Path) -> bool:
    """Whether there is no run, or nothing of it but drafts of its settings."""
    return not run.exists() or all(path.name.startswith(f".{SETTINGS}.") for path in run.iterdir())


def _remove_drafts(run: Path) -> None:
    """Removes drafts that a kill left half-written; `files` gives them names that begin with a dot."""
    for draft in run.glob(".*"):
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()


@contextmanager
def preparing(output: Path, first: bool = True) -> Iterator[Path]:
    """The folder of a run while its start and its data are made ready.

    Bad input removes a folder that is new; Ctrl-C removes it where it holds nothing to go on from. The
    `first` of several processes removes it.
    """
    run = run_folder_of(output)
    new = first and _is_unbegun(run)
    try:
        yield run
    except InputError:
        if new:
            shutil.rmtree(run, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        if new:
            _remove_if_empty(run)
        raise


@contextmanager
def training(run: Path, first: bool = True, looked_at: bool = True) -> Iterator[None]:
    """Removes the folder of a run that diverges or is stopped while it trains, with nothing to go on from.

    Checkpoints of a run that diverges are kept where their losses were `looked_at` before they were saved.
    """
    try:
        yield
    except Diverged:
        if first and not (looked_at and newest_checkpoint(run)):
            shutil.rmtree(run)
        raise
    except KeyboardInterrupt:
        if first:
            _remove_if_empty(run)
        raise


def _remove_if_empty(run: Path) -> None:
    if newest_checkpoint(run) is None and not any((run / name).exists() for name in _WORK):
        shutil.rmtree(run, ignore_errors=True)


@contextmanager
def finishing(run: Path, output: Path) -> Iterator[Path]:
    """The folder of the finished model, to fill; the block's end makes it `output` and removes the run."""
    with new_folder(run / FINISHED) as folder:
        yield folder
    move_out(run, output)


def move_out(run: Path, output: Path) -> None:
    """Makes the finished model of a run its output, in one step, and removes the run's folder."""
    finished = run / FINISHED
    if (run / KEPT).is_dir():
        (run / KEPT).rename(finished / KEPT)
    for part in run.iterdir():
        if part.is_dir() and part != finished:
            shutil.rmtree(part)
        elif part.is_file() and part.name != SETTINGS:
            part.unlink()
    (finished / MANIFEST).unlink(missing_ok=True)
    if output.is_dir():
        output.rmdir()
    finished.rename(output)
    shutil.rmtree(run)


def is_finished(output: Path, settings: dict[str, Any], resume: bool, record: str) -> bool:
    """Whether the run to resume was cut off after its end: `output` is there, or is now moved out.

    Raises InputError where anything else lies at `output`, and for a run of other settings.
    """
    run = run_folder_of(output)
    names = {path.name for path in run.iterdir()} if resume and run.is_dir() else set()
    moved = names == {SETTINGS} and (output / record).is_file()
    if not moved:
        require_new(output)
    if not moved and FINISHED not in names:
        return False
    open_run(output, settings, resume)
    if moved:
        shutil.rmtree(run)
    else:
        move_out(run, output)
    return True


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end, if there is one."""
    return next(filter(is_complete, checkpoints(run)), None)


def checkpoint_to_resume(run: Path) -> Path | None:
    """The newest checkpoint that is as it was written; None where none was written to its end.

    Newer ones are named in a line to standard error. Raises InputError where all are damaged.
    """
    damaged = False
    unusable: list[str] = []
    for folder in checkpoints(run):
        told = damage(folder) if is_complete(folder) else "cut off while it was written"
        if told is None:
            if unusable:
                _say(f"{'; '.join(unusable)}; going on from {folder.name}")
            return folder
        damaged |= is_complete(folder)
        unusable.append(f"{folder} is damaged ({told})")
    if damaged:
        raise InputError(f"{'; '.join(unusable)}; no checkpoint is left: delete {run} and start anew")
    if unusable:
        _say(f"{'; '.join(unusable)}; going on from the start")
    return None


def _say(line: str) -> None:
    tqdm.write(f"bilinear-lm: {line}", file=sys.stderr)


def checkpoints(run: Path) -> list[Path]:
    """The folders of checkpoints, the newest first."""
    numbered = {
        int(number): folder
        for folder in run.glob("checkpoint-*")
        if (number := folder.name.rpartition("-")[2]).isdecimal()
    }
    return [numbered[number] for number in sorted(numbered, reverse=True)]


@contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Turns errors of saving weights on a full or read-only disk into an InputError about `path`."""
    try:
        yield
    except InputError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises a RuntimeError
        raise InputError(f"{path}: cannot be written ({one_line(error)}); {advice}") from error
    except CheckpointException as error:  # several processes were writing; it holds what each met
        [(cause, _), *_] = error.failures.values()
        raise InputError(f"{path}: cannot be written ({cause!r}); {advice}") from error
