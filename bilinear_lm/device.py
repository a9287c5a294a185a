"""The choice of a device."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Literal

from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]


def find_device(name: DeviceName) -> torch.device:
    """The device of that name; auto: a GPU where there is one."""
    there = _torch().cuda.is_available()
    if name == "cuda" and not there:
        raise InputError(
            "no CUDA device is available to torch here; expected one for --device cuda, use --device cpu"
        )
    return _torch().device("cuda" if there and name != "cpu" else "cpu")


def _torch() -> ModuleType:
    """torch, loaded on first use."""
    import torch

    return torch
