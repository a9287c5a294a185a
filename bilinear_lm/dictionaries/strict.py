"""Reading a dictionary's tensors and settings with nothing missing, left over or of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bilinear_lm.errors import InputError

Shape = tuple[int, ...]


def require_tensors(
    tensors: dict[str, Tensor], expected: dict[str, Shape], where: Path, optional: Mapping[str, Shape] = {}
) -> None:
    """Raises InputError unless there are the expected tensors, at most the optional ones beside them, all
    of the shapes given."""
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    for name, value in tensors.items():
        shape = {**optional, **expected}.get(name)
        if shape is None:
            problems.append(f"{name} is left over")
        elif tuple(value.shape) != shape:
            problems.append(f"{name} has shape {list(value.shape)}, expected {list(shape)}")
    if problems:
        raise InputError(f"{where}: the weights are not those of one dictionary: {'; '.join(problems)}")


def setting(config: dict[str, Any], name: str, kind: type, where: Path, default: Any = None) -> Any:
    """One value of a configuration; `default` where it is absent or null, unless that is None."""
    value = config.get(name)
    value = default if value is None else value
    # A bool is an int to Python, but no number of features.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        got = "is missing" if value is None else f"is {value!r}"
        raise InputError(f"{where}: {name} {got}; expected a value of type {kind.__name__}")
    return value


def require_value(name: str, value: Any, expected: Any, where: Path) -> None:
    """Raises InputError unless a setting has the one value that is understood."""
    if value != expected:
        raise InputError(f"{where}: {name} is {value!r}, which is not read here; expected {expected!r}")
