"""Eigendecompositions on disk: settings.json, and parts that each hold a fixed range of directions.

Part i, `part-0000i.safetensors`, holds directions i · part_size to (i + 1) · part_size, with one tensor for
each field of `Eigendecomposition`. Parts are written in order and whole, so a folder whose run was killed
holds the first directions.
"""

from __future__ import annotations

import math
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from analysis.eigen import Eigendecomposition
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, read_tensors, write_json, write_tensors

SETTINGS = "settings.json"


def save_decomposition(
    found: Eigendecomposition, folder: Path, settings: dict[str, Any] | None = None
) -> None:
    """Writes a decomposition as a new folder of one part; `settings` is kept in settings.json."""
    axes = found.gap.shape
    flat = Eigendecomposition(
        found.values.reshape(-1, found.values.shape[-1]),
        found.vectors.reshape(-1, *found.vectors.shape[-2:]),
        found.residuals.reshape(-1, found.values.shape[-1]),
        found.gap.reshape(-1),
    )
    with new_folder(folder) as draft:
        write_part(draft, 0, flat)
        header = {"axes": list(axes), "part_size": max(1, math.prod(axes)), "versions": versions()}
        write_json(draft / SETTINGS, header | {"settings": settings or {}})


def load_decomposition(folder: Path, *, partial: bool = False) -> Eigendecomposition:
    """The decomposition in a folder, with its leading axes.

    Of a run that has not finished there is an InputError, or with `partial` the directions it got to,
    [n_done, ...].
    """
    axes, part_size = _layout(folder)
    n = math.prod(axes)
    parts = []
    for index in range(n_parts(n, part_size)):
        if not part_path(folder, index).exists():
            break
        parts.append(_read_part(folder, index, min(part_size, n - index * part_size)))
    done = sum(len(part.gap) for part in parts)
    if not parts or (done < n and not partial):
        raise InputError(
            f"{folder}: holds {done} of {n} directions; finish the run by resuming it, or load what there is "
            "with partial=True"
        )
    columns = {field: torch.cat([getattr(part, field) for part in parts]) for field in _FIELDS}
    if done == n:
        columns = {field: column.reshape([*axes, *column.shape[1:]]) for field, column in columns.items()}
    return Eigendecomposition(**columns)


_FIELDS = [field.name for field in fields(Eigendecomposition)]


def n_parts(n: int, part_size: int) -> int:
    """How many parts hold n directions."""
    return math.ceil(n / part_size)


def part_path(folder: Path, index: int) -> Path:
    """The file of one part."""
    return folder / f"part-{index:05}.safetensors"


def write_part(folder: Path, index: int, found: Eigendecomposition) -> None:
    """Writes the decomposition of the directions of one part."""
    write_tensors(part_path(folder, index), {field: getattr(found, field) for field in _FIELDS})


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    return {package: version(package) for package in ("bilinear-lm", "torch")}


def _layout(folder: Path) -> tuple[list[int], int]:
    """The leading axes and the size of a part."""
    header = read_json(folder / SETTINGS)
    axes, part_size = header.get("axes"), header.get("part_size")
    if not isinstance(axes, list) or not isinstance(part_size, int) or {type(n) for n in axes} > {int}:
        raise InputError(
            f"{folder / SETTINGS}: got axes {axes!r} and part_size {part_size!r}; expected whole numbers, as "
            "an eigendecomposition has them"
        )
    return axes, part_size


def _read_part(folder: Path, index: int, n: int) -> Eigendecomposition:
    path = part_path(folder, index)
    tensors = read_tensors(path)
    if sorted(tensors) != sorted(_FIELDS) or any(len(column) != n for column in tensors.values()):
        shapes = {name: list(column.shape) for name, column in tensors.items()}
        raise InputError(f"{path}: holds {shapes}; expected {', '.join(_FIELDS)} of {n} directions")
    return Eigendecomposition(**tensors)
