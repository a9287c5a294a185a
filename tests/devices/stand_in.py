"""A device besides the CPU: the GPU, or where there is none a stand-in for one.

Tensors of the stand-in hold their numbers in ordinary memory, but mix with tensors of the CPU as little as
those of a GPU do. What runs there keeps its tensors together; how exact or fast a GPU is, it cannot tell.

To torch a stand-in tensor is one without memory ("meta"), whose operations Python carries out on the tensor
that it holds. To Python code its device is `STAND_IN`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import bilinear_lm.device

STAND_IN = torch.device("xla", 0)
"""A kind of device that torch knows by name and asks nothing of."""

if not hasattr(torch, STAND_IN.type):
    # What recomputes for the backward pass looks a device's module up; it asks nothing of it here.
    torch._register_device_module(STAND_IN.type, ModuleType(f"torch.{STAND_IN.type}"))

AROUND_NORMS = pytest.mark.filterwarnings("ignore:at..frobenius_norm:UserWarning")
"""For tests on it: devices that torch has no norm of its own for go a long way round, and warn."""

CPU = torch.device("cpu")
aten = torch.ops.aten
RESHAPING = {aten.squeeze_.dim, aten.squeeze_.default, aten.unsqueeze_.default, aten.t_.default}
BETWEEN_DEVICES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


@contextmanager
def other_device() -> Iterator[torch.device]:
    """The GPU, or the stand-in, which then is what `--device cuda` gives."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    named = mock.Mock(cuda=mock.Mock(is_available=lambda: True), device=lambda name: STAND_IN)
    with (
        mock.patch.object(bilinear_lm.device, "_torch", return_value=named),
        mock.patch.object(torch, "inference_mode", torch.no_grad),  # which views of wrapped tensors refuse
        _Operations() as operations,
        _Functions(operations),
    ):
        yield STAND_IN


class Elsewhere(Tensor):
    """A tensor on the stand-in."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:
        return STAND_IN

    def tolist(self) -> list:
        return self.held.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("a tensor that is not on the CPU has no numpy array")

    __array__ = numpy

    def __repr__(self) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of `other_device`")


class _Operations(TorchDispatchMode):
    """Carries out operations on what stand-in tensors hold, and refuses those of tensors on two devices."""

    meta_is_meant = False
    """Else a tensor that is to be made on "meta" is one that torch makes beside a tensor of the stand-in."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:
            return STAND_IN
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        device = self._device(kwargs.get("device"), there)
        if device == STAND_IN and "device" in kwargs:
            kwargs["device"] = CPU
        if there:
            _require_together(func, args, tensors)
        if kwargs.get("generator") is not None and device == STAND_IN:
            raise RuntimeError(f"{func}: the generator is of the CPU, the tensor elsewhere")
        holders = {id(tensor.held): tensor for tensor in there}
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func in RESHAPING and there:
            with no_dispatch():
                func(*args, **kwargs)
        if device == STAND_IN:
            return tree_map(lambda x: holders[id(x)] if id(x) in holders else _elsewhere(x), result)
        # On the way back to the CPU numbers are copied, as from any device.
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, result) if there else result

    def _device(self, asked, there) -> torch.device:
        if asked is None:
            return STAND_IN if there else CPU
        asked = torch.device(asked)
        return STAND_IN if asked.type == "meta" and not self.meta_is_meant else asked


def _require_together(func, args, tensors) -> None:
    here = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere)]
    if any(tensor.is_meta for tensor in here):
        raise RuntimeError(f"{func}: torch made a tensor without numbers")
    if func in BETWEEN_DEVICES or (func in INDEXING and isinstance(args[0], Elsewhere)):
        return
    if any(tensor.ndim for tensor in here):
        shapes = [f"{type(tensor).__name__} {list(tensor.shape)}" for tensor in tensors]
        raise RuntimeError(f"{func}: expected all tensors on one device, got {', '.join(shapes)}")


def _held(x):
    return x.held if isinstance(x, Elsewhere) else x


def _elsewhere(x):
    return Elsewhere(x) if isinstance(x, Tensor) else x


class _Functions(TorchFunctionMode):
    """Makes tensors from Python's numbers where torch would make them out of reach of `_Operations`."""

    def __init__(self, operations: _Operations):
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and device == STAND_IN:
            return func(*args, **kwargs | {"device": CPU}).to(STAND_IN)
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(STAND_IN)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Elsewhere):
            args = (args[0], _index(args[1]), *args[2:])
        if device is None or torch.device(device).type != "meta":
            return func(*args, **kwargs)
        before, self.operations.meta_is_meant = self.operations.meta_is_meant, True
        try:
            return func(*args, **kwargs)
        finally:
            self.operations.meta_is_meant = before


def _index(index):
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    if not isinstance(index, (list, range)):
        return index
    return torch.tensor(list(index), dtype=None if len(index) else torch.long)
