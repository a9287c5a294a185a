"""Checks of settings before any work: kinds by their annotations, numbers by bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bilinear_lm.errors import InputError


@dataclass(frozen=True)
class Bounds:
    """The range of a number: from `low` to `high`, or strictly `above` and `below` them."""

    low: float | int = -math.inf
    high: float | int = math.inf
    above: bool = False
    """Whether `low` itself is left out."""
    below: bool = False
    """Whether `high` itself is left out."""

    def admit(self, value: float | int) -> bool:
        """Whether a number is within the bounds; NaN and infinity never are."""
        if not math.isfinite(value):
            return False
        high_enough = value > self.low if self.above else value >= self.low
        return high_enough and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:,}"
        high = f"{'below' if self.below else 'at most'} {self.high:,}"
        ends = [low] * math.isfinite(self.low) + [high] * math.isfinite(self.high)
        return " and ".join(ends) or "a finite number"


LARGEST = 10**15
"""The largest count of tokens, windows or steps."""
COUNT = Bounds(1, LARGEST)
FROM_ZERO = Bounds(0)
COUNT_FROM_ZERO = Bounds(0, LARGEST)
POSITIVE = Bounds(0, above=True)
SHARE = Bounds(0, 1, below=True)
PASSES = Bounds(0, 1_000_000, above=True)
"""Passes over a text; the windows of every pass are counted before training."""

RATE = Bounds(1e-30)
"""Learning rates; smaller ones cannot be divided by."""
RATES = {"learning_rate": RATE, "weight_decay": FROM_ZERO, "warmup": SHARE}
RATES_SAY = "above 0, at least 0, and a share of the steps below 1"


def require_bounds(
    settings: Any, bounds: Mapping[str, Bounds], expected: str | None = None, is_: str = ""
) -> None:
    """Raises InputError unless each named setting, and each number of a tuple, is within its bounds.

    The error lists all that are named; None is within all bounds. `expected` describes the bounds where they
    are not to describe themselves; `is_` stands between a name and its value.
    """
    values = {name: getattr(settings, name) for name in bounds}
    wrong = [
        name
        for name, value in values.items()
        for each in (value if isinstance(value, tuple) else (value,))
        if each is not None and not bounds[name].admit(each)
    ]
    if wrong:
        listed = ", ".join(f"{name} {is_}{value}" for name, value in values.items())
        says = expected or ", ".join(dict.fromkeys(str(bounds[name]) for name in wrong))
        raise InputError(f"{listed}; expected {says}")


def require_kinds(settings: Any) -> None:
    """Raises InputError for a field of a settings dataclass whose value its annotation does not allow.

    A name must be one of its choices, a whole number whole, and a number finite.
    """
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if says := _refusal(value, kind):
            raise InputError(f"{name} {value}; expected {says}")


def _refusal(value: Any, kind: Any) -> str | None:
    """The expected kind, where a value is of another; kinds other than choices and numbers pass."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        refusals = [_refusal(value, each) for each in arguments]
        return None if None in refusals else " or ".join(filter(None, refusals))
    if origin is Literal:
        return None if value in arguments else f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        if not isinstance(value, tuple | list):  # a text would pass as one name a letter
            return "a tuple"
        return next(filter(None, (_refusal(each, arguments[0]) for each in value)), None)
    if kind is type(None):
        return None if value is None else "None"
    if kind is int:
        return None if isinstance(value, Integral) and not isinstance(value, bool) else "a whole number"
    if kind is float:
        finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return None if finite else "a finite number"
    return None
