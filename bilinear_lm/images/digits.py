"""scikit-learn's handwritten digits: 1,797 images of 8 × 8 pixels that need no download."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.images.data import ImageData

DIGITS = "digits"
"""The name of the data where a source of images is named."""

MOST = 16
"""The darkest pixel."""

N_TEST = 360
"""Images of the test split: the last ones, which other people wrote than most of the first."""


@checked
def read_digits() -> ImageData:
    """The digits, the last 360 for testing; pixels are whole multiples of 1/16 in float32.

    InputError where scikit-learn is not installed.

    >>> read_digits().train_images.shape  # doctest: +SKIP
    torch.Size([1437, 8, 8])
    """
    if find_spec("sklearn") is None:
        raise InputError(
            "the digits come with scikit-learn, which is not installed; install it by "
            'pip install "bilinear-lm[images]", or give a folder of idx files'
        )
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.from_numpy(loaded.images).float() / MOST
    labels = torch.from_numpy(loaded.target).long()
    names = tuple(str(name) for name in loaded.target_names)
    return ImageData(
        images[:-N_TEST], labels[:-N_TEST], images[-N_TEST:], labels[-N_TEST:], names, name=DIGITS
    )
