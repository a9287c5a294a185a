"""Right arguments and wrong ones."""

import math

import pytest
import torch

from analysis import (
    FeatureLayer,
    strongest_interactions,
)
from bilinear_lm import BilinearTensor, InputError

D, H, OUT = 6, 9, 5


NAN, INF = math.nan, math.inf


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W_GATE, W_IN, W_OUT = draw(D, H), draw(D, H, seed=1), draw(H, OUT, seed=2)


T = BilinearTensor(W_GATE, W_IN, W_OUT)


U, X = draw(3, OUT, seed=3), draw(4, D, seed=4)


F = FeatureLayer(T, draw(8, D, seed=5), draw(7, OUT, seed=6))


SOME = strongest_interactions(F, None, 5)


LAYER = W_GATE, W_IN, W_OUT


# What each argument must refuse.
COUNTS = (0, -1, 1.0, 2.5, True, "2", torch.tensor(2), NAN)


WHOLE = (-1, 0.0, 2.5, True, "2", torch.tensor(2))


NAMES = ("evil", "", None, 3, ["dense"])


SEEDS = (-1, 2**64, 1.5, "0", True, None)


def said(call, *arguments):
    """The one line with which a call refuses its arguments."""
    with pytest.raises(InputError) as refusal:
        call(*arguments)
    text = str(refusal.value)
    assert "\n" not in text
    assert (
        text.startswith(("no ", "means and spreads", "pairwise_cosine"))
        or "expected" in text
        or "one layer" in text
    )
    return text


TENSORS = {
    "ints": lambda x: (x * 10).long(),
    "bools": lambda x: x > 0,
    "complex": lambda x: x + 1j,
    "an array": lambda x: x.numpy(),
    "NaN": lambda x: x * NAN,
    "infinite": lambda x: x / 0,
}
