"""Kinds of values whose libraries take long to load, told without loading these.

Where a library has not been loaded there are no values of its kinds. So the modules that every command
begins with do without torch, which takes longer to load than most of them run.
"""

from __future__ import annotations

import sys
from typing import Any


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    return isinstance(value, _class_of("torch", "Tensor"))


def is_module(value: Any) -> bool:
    """Whether a value is a torch module, such as a model."""
    return isinstance(value, _class_of("torch.nn", "Module"))


def is_array(value: Any) -> bool:
    """Whether a value is a numpy array."""
    return isinstance(value, _class_of("numpy", "ndarray"))


def is_bool(value: Any) -> bool:
    """Whether a value is True or False, of Python or numpy."""
    return isinstance(value, (bool, _class_of("numpy", "bool_")))


def _class_of(module: str, name: str) -> Any:
    """A class of a module; where the module is not loaded, or not to its end, a tuple of no classes."""
    return getattr(sys.modules.get(module), name, ())
