"""Attention in float32 where heads share keys and values.

On a GPU, the kernels of `torch.nn.functional.scaled_dot_product_attention` that do without all patterns at
once take keys and values which heads share in half precision alone. In float32 torch makes the patterns
instead, n_heads · pos² numbers several times over: 9 GB in a layer of TinyLlama's at 4,096 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

SHARED_IN = (torch.float16, torch.bfloat16)
"""Precisions in which shared keys and values are taken as they are."""

SHARED_ON = ("cpu",)
"""Devices that take them in any precision."""


def keys_of_each_head(device: torch.device) -> AbstractContextManager[object]:
    """While open, attention of float32 and float64 is given keys and values of each head, equal where shared.

    It holds in the thread that opened it: a backward pass that computes anew has to open it again. For
    models on a CPU it does nothing.
    """
    return nullcontext() if device.type in SHARED_ON else KeysOfEachHead()


class KeysOfEachHead(TorchFunctionMode):
    """The mode that `keys_of_each_head` opens: all functions of torch pass through it, which costs time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and kwargs.get("enable_gqa"):
            query, key, value, *rest = args
            if query.dtype not in SHARED_IN:
                args = (query, *(_of_each(part, query.shape[-3]) for part in (key, value)), *rest)
                kwargs = kwargs | {"enable_gqa": False}
        return func(*args, **kwargs)


def _of_each(shared: Tensor, n_heads: int) -> Tensor:
    return shared.repeat_interleave(n_heads // shared.shape[-3], dim=-3)
