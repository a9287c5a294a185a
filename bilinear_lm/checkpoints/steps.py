"""Checkpoints of one training run, in folders named by their steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bilinear_lm.checkpoints.folder import read_all_shapes
from bilinear_lm.checkpoints.locate import local_path
from bilinear_lm.errors import InputError
from bilinear_lm.files import reading

KEPT = "checkpoints"
"""The folder in the output of a training run that holds the models of chosen steps."""


@dataclass(frozen=True)
class Checkpoints:
    """The models at a path: one, and those of steps of its training."""

    is_model: bool
    """Whether there is a model at the path itself."""
    steps: dict[int, Path]
    """Step → folder of the checkpoint, in the order of steps; empty where there are none."""


def find_checkpoints(checkpoint: str) -> Checkpoints:
    """The checkpoints at a path, a shipped model's name or a hub repository.

    Steps are folders named by numbers, in the path where it is no model, or in its folder `checkpoints`, as
    in the output of `bilinear-lm train --keep-checkpoints log`. InputError for a folder that is no
    checkpoint and holds none, and for steps whose tensors have other names or shapes.
    """
    folder = local_path(checkpoint)
    if folder is None or not folder.is_dir():
        return Checkpoints(True, {})
    with reading(folder):
        is_model = (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))
        steps = {} if is_model else _steps(folder)
        steps = steps or _steps(folder / KEPT)
    if not steps and not is_model:
        raise InputError(
            f"{folder}: no checkpoint and no folder of them; expected config.json and model.safetensors, or "
            "folders with these that are named by their steps, as train --keep-checkpoints log writes"
        )
    _require_one_shape(steps)
    return Checkpoints(is_model, steps)


def _steps(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    named = [path for path in folder.iterdir() if path.is_dir() and _is_step(path.name)]
    steps = {int(path.name): path for path in named}
    if len(steps) != len(named):
        raise InputError(f"{folder}: two folders of one step; expected one folder for each")
    return dict(sorted(steps.items()))


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 16


def _require_one_shape(steps: dict[int, Path]) -> None:
    """Raises InputError unless the tensors of all folders have the same names and shapes."""
    shapes = [(path, read_all_shapes(path)) for path in steps.values()]
    for path, own in shapes[1:]:
        first, expected = shapes[0]
        for name in expected | own:
            before, here = expected.get(name), own.get(name)
            if before != here:
                raise InputError(
                    f"{path}: {name} is {_said(here)}, in {first.name} {_said(before)}; expected checkpoints "
                    "of one model"
                )


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
