"""Polynomials on disk: polynomial.json says degree and versions, polynomial.safetensors holds the tensors."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.files import (
    new_folder,
    read_json,
    read_tensors,
    require_floating,
    versions,
    write_json,
    write_tensors,
)
from bilinear_lm.polynomials.polynomial import MOST_DEGREE, Polynomial
from bilinear_lm.polynomials.units import ProductUnits

SETTINGS, TENSORS = "polynomial.json", "polynomial.safetensors"

_UNITS = ("W", "V", "W_out", "powers", "mixed")


@checked
def save_polynomial(polynomial: Polynomial, folder: str | PathLike[str]) -> None:
    """Writes a polynomial as a new folder, whole or not at all."""
    parts = {"constant": polynomial.constant, "linear": polynomial.linear}
    if polynomial.center is not None:
        parts["center"] = polynomial.center
    if polynomial.units is not None:
        parts |= {f"units.{name}": value for name, value in polynomial.units.tensors.items()}
    with new_folder(Path(folder)) as draft:
        write_tensors(draft / TENSORS, parts)
        write_json(draft / SETTINGS, {"degree": polynomial.degree, "versions": versions()})


@checked
def load_polynomial(folder: str | PathLike[str]) -> Polynomial:
    """The polynomial in a folder, on the CPU, in the precision that it was saved in.

    `InputError` for a folder that is not one of `save_polynomial`, or whose tensors do not fit each other.
    """
    path = Path(folder)
    degree = read_json(path / SETTINGS).get("degree")
    if type(degree) is not int or not 0 <= degree <= MOST_DEGREE:
        raise InputError(f"{path / SETTINGS}: degree {degree!r}; expected 0 to {MOST_DEGREE}")
    tensors = read_tensors(path / TENSORS)
    require_floating(tensors, path / TENSORS)
    _require_fit(tensors, degree, path / TENSORS)
    units = None
    if degree >= 2:
        held = {name: tensors.get(f"units.{name}") for name in _UNITS}
        units = ProductUnits(**held)  # type: ignore[arg-type]
    return Polynomial(tensors["constant"], tensors["linear"], units, degree, tensors.get("center"))


def _require_fit(tensors: dict[str, Tensor], degree: int, path: Path) -> None:
    """Raises InputError unless these are the tensors of a polynomial of this degree, in one precision."""
    d_in, d_out = _two_axes(tensors.get("linear"))
    h = _two_axes(tensors.get("units.W_out"))[0]
    expected = {"constant": [d_out], "linear": [d_in, d_out], "center": [d_in]}
    if degree >= 2:
        expected |= {"units.W": [d_in, h], "units.V": [d_in, h], "units.W_out": [h, d_out]}
        expected |= {f"units.{name}": [degree - 1, h] for name in ("powers", "mixed")}
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    needed = expected.keys() - {"center", "units.V"}
    if not needed <= shapes.keys() <= expected.keys() or any(
        shapes[name] != expected[name] for name in shapes
    ):
        raise InputError(
            f"{path}: holds {shapes}; expected the tensors of a polynomial of degree {degree}, {expected}"
        )
    if len({value.dtype for value in tensors.values()}) > 1:
        kinds = ", ".join(f"{name} {value.dtype}" for name, value in tensors.items())
        raise InputError(f"{path}: holds {kinds}; expected one precision")


def _two_axes(matrix: Tensor | None) -> tuple[int, int]:
    """The shape of a matrix; zeros for what is none."""
    return (0, 0) if matrix is None or matrix.ndim != 2 else (matrix.shape[0], matrix.shape[1])
