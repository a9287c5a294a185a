"""The decoder of sparsify (`eai-sparsify`) on the device that its tensors are on.

Where triton can be imported, sparsify decodes with a Triton kernel, whatever the device. That kernel runs on
a GPU alone, and its backward pass takes eight features at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

KERNEL_ROWS = 8
"""Divisor that the number of features must have in the Triton kernel's backward pass."""


@contextmanager
def decoder_by_device() -> Iterator[None]:
    """A context in which sparsify decodes with its Triton kernel where that can run, else with torch.

    On the GPU the choice that sparsify made at import holds (`SPARSIFY_DISABLE_TRITON`, or triton missing).
    """
    from sparsify import sparse_coder
    from sparsify.utils import eager_decode

    chosen = sparse_coder.decoder_impl

    def decode(indices: Tensor, activations: Tensor, W_dec: Tensor) -> Tensor:
        n_feat = W_dec.shape[-1]
        kernel = chosen if W_dec.is_cuda and n_feat % KERNEL_ROWS == 0 else eager_decode
        return kernel(indices, activations, W_dec)

    sparse_coder.decoder_impl = decode
    try:
        yield
    finally:
        sparse_coder.decoder_impl = chosen
