"""Eigendecompositions on disk: settings.json, and parts that each hold a fixed range of directions.

Part i, `part-0000i.safetensors`, holds directions i · part_size to (i + 1) · part_size, with one tensor for
each field of `Eigendecomposition`. Parts are written in order and whole, so a folder whose run was killed
holds the first directions; several processes take them in turn, and may leave one missing between others.
"""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from analysis.spectra.eigen import Eigendecomposition
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_floating
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, read_json, read_tensors, versions, write_json, write_tensors

SETTINGS = "settings.json"

_FIELDS = [field.name for field in fields(Eigendecomposition)]


@checked
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
        header = {"axes": list(axes), "part_size": max(1, math.prod(axes)), **shape_of(flat)}
        write_json(draft / SETTINGS, header | {"versions": versions(), "settings": settings or {}})


@checked
def load_decomposition(folder: Path, *, partial: bool = False) -> Eigendecomposition:
    """The decomposition in a folder, with its leading axes.

    A run that has not finished raises InputError, or with `partial` gives the directions done so far,
    [n_done, ...]. Every part must be what settings.json says.
    """
    axes, part_size, shape = _layout(folder)
    n = math.prod(axes)
    parts: list[Eigendecomposition] = []
    for index in _written(folder, n_parts(n, part_size)):
        part = read_part(folder, index, min(part_size, n - index * part_size), shape)
        shape = shape | shape_of(part)
        parts.append(part)
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


def n_parts(n: int, part_size: int) -> int:
    """How many parts hold n directions; an empty one where there are none."""
    return max(1, -(-n // part_size))


def shape_of(found: Eigendecomposition) -> dict[str, Any]:
    """Numbers and precision of the eigenpairs of each direction, as settings.json has them."""
    k, d_in = found.vectors.shape[-2:]
    return {"k": k, "d_in": d_in, "dtype": str(found.values.dtype).removeprefix("torch.")}


def part_path(folder: Path, index: int) -> Path:
    """The file of one part."""
    return folder / f"part-{index:05}.safetensors"


def write_part(folder: Path, index: int, found: Eigendecomposition) -> None:
    """Writes the decomposition of the directions of one part."""
    write_tensors(part_path(folder, index), {field: getattr(found, field) for field in _FIELDS})


def read_part(folder: Path, index: int, n: int, shape: dict[str, Any]) -> Eigendecomposition:
    """The decomposition of the n directions of one part.

    Raises InputError where it is not one of the k, d_in and dtype that `shape` names, or not sorted.
    """
    path = part_path(folder, index)
    tensors = read_tensors(path)
    shapes = {name: list(column.shape) for name, column in tensors.items()}
    if sorted(tensors) != sorted(_FIELDS) or any(column[:1] != [n] for column in shapes.values()):
        raise InputError(f"{path}: holds {shapes}; expected {', '.join(_FIELDS)} of {n} directions")
    for name, column in tensors.items():
        require_floating(column, f"{path}: {name}")
    k, d_in = (shapes["vectors"] + [0, 0])[1:3]
    expected = {"values": [n, k], "vectors": [n, k, d_in], "residuals": [n, k], "gap": [n]}
    one_dtype = len({column.dtype for column in tensors.values()}) == 1
    if shapes != expected or not one_dtype or not k:
        kinds = ", ".join(f"{name} {shapes[name]} {tensors[name].dtype}" for name in _FIELDS)
        raise InputError(f"{path}: holds {kinds}; expected values of one decomposition, {expected}")
    part = Eigendecomposition(**tensors)
    differing = {name: value for name, value in shape.items() if shape_of(part)[name] != value}
    if differing:
        got = ", ".join(f"{name} {shape_of(part)[name]}" for name in differing)
        wanted = ", ".join(f"{name} {value}" for name, value in differing.items())
        raise InputError(
            f"{path}: has {got}; expected {wanted} as in {SETTINGS} and the other parts: it belongs to "
            "another run, delete it and resume, or fetch the folder again"
        )
    sizes = part.values.abs()
    if (sizes[:, 1:] > sizes[:, :-1]).any():
        raise InputError(
            f"{path}: eigenvalues are not sorted by magnitude; it is damaged, delete it and resume"
        )
    return part


def _layout(folder: Path) -> tuple[list[int], int, dict[str, Any]]:
    """The leading axes, the size of a part, and what is known of the shape of the parts."""
    header = read_json(folder / SETTINGS)
    axes, part_size = header.get("axes"), header.get("part_size")
    if not isinstance(axes, list) or type(part_size) is not int or any(type(n) is not int for n in axes):
        raise InputError(
            f"{folder / SETTINGS}: got axes {axes!r} and part_size {part_size!r}; expected whole numbers, as "
            "an eigendecomposition has them"
        )
    if part_size < 1 or any(n < 0 for n in axes):
        raise InputError(
            f"{folder / SETTINGS}: got axes {axes} and part_size {part_size}; expected axes of 0 or more and "
            "parts of 1 or more directions"
        )
    return axes, part_size, {name: header[name] for name in ("k", "d_in", "dtype") if name in header}


def _written(folder: Path, n: int) -> range:
    """The numbers of the parts that are there: the first ones of n, none missing between them."""
    numbers = {}
    for path in folder.glob("part-*.safetensors"):
        digits = path.stem.removeprefix("part-")
        number = int(digits) if digits.isdecimal() else n
        if number >= n or path != part_path(folder, number):
            raise InputError(
                f"{folder}: has {path.name}, but {SETTINGS} tells of {n} parts; they are of different runs, "
                "fetch the folder again"
            )
        numbers[number] = path.name
    for missing in range(len(numbers)):
        if missing not in numbers:
            raise InputError(
                f"{folder}: has {numbers[max(numbers)]} but not {part_path(folder, missing).name}; finish "
                "the run by resuming it, which computes what is missing"
            )
    return range(len(numbers))
