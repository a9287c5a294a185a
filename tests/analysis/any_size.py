"""Layers of any size, and what is right of them: a dense float64 oracle, or a refusal."""

import re

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from bilinear_lm import BilinearTensor, InputError

SINGLE = torch.finfo(torch.float32)


D, H, OUT, N = 40, 12, 5, 9


scales = st.floats(-25, 25).map(lambda power: 10.0**power)


any_scale = settings(max_examples=8, deadline=None)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(*scale, seed=0, d_in=D):
    """A float32 layer, its factors scaled; one scale for all three, or one for each."""
    scale = scale * 3 if len(scale) == 1 else scale
    shapes = (d_in, H), (d_in, H), (H, OUT)
    factors = [
        draw(*shape, seed=seed + i) * c for i, (shape, c) in enumerate(zip(shapes, scale, strict=True))
    ]
    return BilinearTensor(*(factor.float() for factor in factors))


def dense(tensor):
    """The dense tensor [out, in, in] in float64, by numpy."""
    gate, into, out = (factor.double().numpy() for factor in (tensor.W_gate, tensor.W_in, tensor.W_out))
    B = np.einsum("ih,jh,ho->oij", gate, into, out)
    return (B + B.transpose(0, 2, 1)) / 2


def assert_right_or_refused(compute, expected, tolerance=1e-5):
    """`compute()` is close to `expected`, relative to its largest; refused only beyond float32."""
    expected = np.asarray(expected)
    largest = np.abs(expected).max()
    got = refused(compute)
    if got is None:
        assert not 1e3 * SINGLE.tiny <= largest <= 1e-3 * SINGLE.max, largest
        return
    got = got.double().numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * largest


def refused(compute):
    """The result, or None where it was refused as too large or too small."""
    try:
        return compute()
    except InputError as error:
        if not re.search("(over|under)flow", str(error)):
            raise
        return None
