"""How objects show themselves: a `repr` of a few lines, and in a notebook what says more.

A dataclass of tensors is told by its class, and the shapes and precisions of its fields. A class with a
method `_first` has what that returns in front, one with `_told` has that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from bilinear_lm.loaded import is_array, is_module, is_tensor

if TYPE_CHECKING:
    from torch import Tensor

Class = TypeVar("Class", bound=type)

_WIDTH = 100
_LISTED = 6
"""The most numbers or texts that are listed; of longer rows the length is told."""
_PLAIN = (bool, int, float, str, type(None))


def shown(cls: Class) -> Class:
    """Decorates a dataclass: `repr` is a few lines, whatever its fields hold.

    >>> @shown
    ... @dataclass(frozen=True)
    ... class Spectrum:
    ...     values: Float[Tensor, " k"]
    >>> Spectrum(torch.ones(300))
    Spectrum(values=float32[300])
    """
    cls.__repr__ = _repr  # type: ignore[assignment, method-assign]
    return cls


def shown_by(module: str, function: str) -> Any:
    """A `_repr_html_` for a class: what a function of a module makes of it, loaded when a notebook asks."""

    def _repr_html_(self: Any) -> str | None:
        return getattr(import_module(module), function)(self)

    return _repr_html_


class Words(str):
    """A text that is told as it is, without quotation marks."""


def first_numbers(values: Tensor, n: int = 3) -> Words:
    """The first numbers of a row, and whether there are more."""
    listed = ", ".join(f"{value:.4g}" for value in values[:n].tolist())
    return Words(f"[{listed}{', …' if len(values) > n else ''}]")


def _repr(self: Any) -> str:
    if hasattr(self, "_told"):
        return in_a_few_lines(type(self).__name__, self._told())
    parts = dict(self._first()) if hasattr(self, "_first") else {}
    for field in fields(self):
        value = getattr(self, field.name)
        if field.repr and field.name not in parts and value is not None:
            parts[field.name] = value
    return in_a_few_lines(type(self).__name__, parts)


def in_a_few_lines(name: str, parts: Mapping[str, Any]) -> str:
    """A class and what is told of it, on one line or on lines of some hundred characters."""
    told = [f"{key}={brief(value)}" for key, value in parts.items()]
    if len(name) + 2 + sum(len(part) + 2 for part in told) <= _WIDTH:
        return f"{name}({', '.join(told)})"
    lines = [""]
    for part in told:
        if lines[-1] and len(lines[-1]) + len(part) > _WIDTH:
            lines.append("")
        lines[-1] += f"{part}, "
    return "\n".join([f"{name}(", *(f"    {line.strip()}" for line in lines), ")"])


def brief(value: Any) -> str:
    """A value in a few words: a tensor by precision and shape, few numbers as they are, many by how many."""
    if is_tensor(value):
        return _brief_tensor(value)
    if is_array(value):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, bool | int | None):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Words):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, Mapping):
        return _brief_mapping(value)
    if isinstance(value, tuple | list):
        return _brief_sequence(value)
    if is_dataclass(value) and not isinstance(value, type):
        short = str(value) if type(value).__str__ is not object.__str__ else ""
        return short if 0 < len(short) <= 60 and "\n" not in short else type(value).__name__
    if is_module(value) or callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return type(value).__name__ if len(repr(value)) > 60 else repr(value)


def _brief_tensor(value: Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    place = "" if value.device.type == "cpu" else f" on {value.device}"
    if value.ndim == 0 and value.device.type == "cpu":
        return f"{value.item():.4g}" if value.dtype.is_floating_point else str(value.item())
    return f"{dtype}{list(value.shape)}{place}"


def _brief_mapping(value: Mapping[Any, Any]) -> str:
    if len(value) <= 3 and all(
        isinstance(entry, bool | int | float | str | None) for entry in value.values()
    ):
        return "{" + ", ".join(f"{key}: {brief(entry)}" for key, entry in value.items()) + "}"
    return f"{len(value)} by {type(next(iter(value))).__name__}" if value else "{}"


def _brief_sequence(value: tuple[Any, ...] | list[Any]) -> str:
    if len(value) <= _LISTED and all(isinstance(entry, _PLAIN) for entry in value):
        inside = ", ".join(map(brief, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    return f"{len(value)} {type(value[0]).__name__}" if value else "()"
