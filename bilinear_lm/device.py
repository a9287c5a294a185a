"""The choice of a device."""

from __future__ import annotations

from typing import Literal

import torch

from bilinear_lm.errors import InputError

DeviceName = Literal["auto", "cpu", "cuda"]


def find_device(name: DeviceName) -> torch.device:
    """The device of that name; auto: a GPU where there is one."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError(
            "no CUDA device is available to torch here; expected one for --device cuda, use --device cpu"
        )
    return torch.device("cuda" if there and name != "cpu" else "cpu")
