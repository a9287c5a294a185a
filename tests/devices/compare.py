"""Results of any shape, to be compared number by number."""

from dataclasses import fields, is_dataclass

import pytest
import torch


def numbers(value):
    """What a result holds, in order: tensors on the CPU, numbers and texts."""
    if isinstance(value, torch.Tensor):
        return [value.detach().cpu()]
    if is_dataclass(value) and not isinstance(value, type):
        return numbers([getattr(value, field.name) for field in fields(value)])
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, (bool, int, float, str)) else []


def same(found, expected):
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(ours, str):
            assert ours == theirs
        elif isinstance(ours, torch.Tensor):
            assert ours.shape == theirs.shape
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True)
        else:
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4, nan_ok=True)
