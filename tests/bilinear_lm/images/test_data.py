"""Labelled images: what is accepted, what is refused, and the digits."""

import sys
from importlib.machinery import PathFinder

import pytest
import torch

from bilinear_lm.errors import InputError
from bilinear_lm.images.data import ImageData, to_floats
from bilinear_lm.images.digits import read_digits


def data(**changed):
    parts = {
        "train_images": torch.rand(6, 3, 2),
        "train_labels": torch.arange(6) % 3,
        "test_images": torch.rand(3, 3, 2),
        "test_labels": torch.arange(3),
        "class_names": ("a", "b", "c"),
    }
    return ImageData(**(parts | changed))


def test_bytes_and_numbers():
    made = data(train_images=torch.randint(256, (6, 3, 2), dtype=torch.uint8))
    images, labels = made.train()
    torch.testing.assert_close(images, made.train_images.float() / 255)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (made.image_shape, made.n_classes) == ((3, 2), 3)
    assert to_floats(made.test_images) is made.test_images


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": torch.rand(6, 6)}, r"training images \[6, 6\]; expected a tensor \[n, height"),
        ({"train_images": torch.rand(6, 3, 2) * 255}, "expected bytes, or numbers from 0 to 1"),
        ({"train_images": torch.full((6, 3, 2), torch.nan)}, "training images holds NaN"),
        ({"train_images": torch.ones(6, 3, 2, dtype=torch.int64)}, "training images is in torch.int64"),
        ({"test_images": torch.rand(0, 3, 2), "test_labels": torch.arange(0)}, "at least one image"),
        ({"test_images": torch.rand(3, 2, 3)}, "training images of 3 × 2 pixels, test images of 2 × 3"),
        ({"test_labels": torch.tensor([0, 1, 3])}, "test labels from 0 to 3; expected 0 to 2"),
        ({"test_labels": torch.tensor([0, -1, 2])}, "test labels from -1 to 2"),
        ({"test_labels": torch.arange(4)}, r"test labels \[4\] for 3 images"),
        ({"train_labels": torch.zeros(6, dtype=torch.int64)}, "no training image of class b"),
        ({"class_names": ("a",)}, "1 classes; expected at least 2"),
    ],
)
def test_refusals(changed, message):
    with pytest.raises(InputError, match=message):
        data(**changed)


def test_the_digits():
    digits = read_digits()
    assert digits.train_images.shape == (1437, 8, 8)
    assert digits.test_images.shape == (360, 8, 8)
    assert digits.train_images.max() == 1
    assert torch.equal(digits.train_images * 16, (digits.train_images * 16).round())
    assert digits.class_names == tuple("0123456789")


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    find = PathFinder.find_spec

    def hidden(name, *rest):
        return None if name == "sklearn" else find(name, *rest)

    monkeypatch.setattr(PathFinder, "find_spec", hidden)
    with pytest.raises(InputError, match=r"pip install \"bilinear-lm\[images\]\""):
        read_digits()
