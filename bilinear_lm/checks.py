"""Checks of single arguments: whole numbers, choices, tensors. Each raises InputError."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from bilinear_lm.errors import InputError
from bilinear_lm.loaded import is_tensor

FLOATING = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
"""Precisions that weights and vectors may have."""


def require_index(index: Any, n: int, what: str) -> None:
    """Raises InputError unless there is an `index` among n things that are counted from 0."""
    if is_index(index, n):
        return
    if not n:
        raise InputError(f"{what} {index} does not exist; there are none")
    raise InputError(f"{what} {index} does not exist; expected 0 to {n - 1}")


def require_seed(seed: Any) -> None:
    """Raises InputError unless every random generator takes the seed: numpy's have 32 bits."""
    require_count(seed, f"seed {seed}", f"0 to {2**32 - 1}", least=0, most=2**32 - 1)


def require_count(
    count: Any, got: str, expected: str = "at least 1", *, least: int = 1, most: int | None = None
) -> None:
    """Raises InputError, "{got}; expected {expected}", unless `count` is a whole number in the range."""
    if not _is_whole(count):
        raise InputError(f"{got}; expected a whole number, {expected}")
    if count < least or (most is not None and count > most):
        raise InputError(f"{got}; expected {expected}")


def require_number(
    value: Any, got: str, expected: str, *, least: int | float = -math.inf, most: int | float = math.inf
) -> None:
    """Raises InputError, "{got}; expected {expected}", unless `value` is a finite number in the range."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not least <= value <= most:
        raise InputError(f"{got}; expected {expected}")


def require_choice(choice: Any, choices: Iterable[str], what: str) -> None:
    """Raises InputError unless `choice` is one of the names there are."""
    names = tuple(choices)
    if not isinstance(choice, str) or choice not in names:
        raise InputError(f"{what} {choice!r}; expected one of {', '.join(names)}")


def require_floating(numbers: Any, name: str) -> None:
    """Raises InputError unless `numbers` is a tensor of real floating-point numbers."""
    if not is_tensor(numbers):
        raise InputError(f"{name} is a {type(numbers).__name__}; expected a torch tensor of floating point")
    if numbers.is_complex():
        raise InputError(
            f"{name} is in {numbers.dtype}; expected real numbers: take its real part if that is all there is"
        )
    if str(numbers.dtype) not in FLOATING:
        raise InputError(
            f"{name} is in {numbers.dtype}; expected floating point, convert with .to(torch.float32)"
        )


def require_finite_numbers(numbers: Any, name: str) -> None:
    """Raises InputError unless `numbers` is floating point and holds neither NaN nor infinity."""
    require_floating(numbers, name)
    if not numbers.isfinite().all():
        raise InputError(f"{name} holds NaN or infinity; expected finite numbers")


def require_labels(labels: Any, n: int, n_classes: int, what: str = "inputs") -> None:
    """Raises InputError unless `labels` is a tensor of a class, 0 to n_classes − 1, for each of n inputs."""
    if not is_tensor(labels):
        raise InputError(f"labels in a {type(labels).__name__}; expected a torch tensor of whole numbers")
    whole = not (labels.is_floating_point() or labels.is_complex()) and str(labels.dtype) != "torch.bool"
    if not whole or labels.shape != (n,) or not bool(((labels >= 0) & (labels < n_classes)).all()):
        raise InputError(
            f"labels {list(labels.shape)} in {labels.dtype} for {n} {what}; expected whole numbers "
            f"[{n}], 0 to {n_classes - 1}"
        )


def is_index(index: Any, n: int) -> bool:
    """Whether `index` is a whole number from 0 to n − 1, of Python, numpy or a tensor."""
    if is_tensor(index):
        index = index.item() if index.numel() == 1 else None  # of one bool a bool, which is no index
    return _is_whole(index) and 0 <= int(index) < n


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)
