"""Labelled images to train a classifier on, and others to test it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class ImageData:
    """Grey images with their classes, in two splits.

    InputError for an empty split, splits of different image sizes, pixels that are neither bytes nor numbers
    from 0 to 1, labels that are not one class number an image, and classes without a training image.

    >>> images, labels = torch.rand(4, 8, 8), torch.tensor([0, 1, 0, 1])
    >>> ImageData(images, labels, images, labels, ("even", "odd")).image_shape
    (8, 8)
    """

    train_images: Shaped[Tensor, "*train_axes"]
    """[n, height, width], bytes or floating point from 0 to 1."""
    train_labels: Shaped[Tensor, "*train_label_axes"]
    """[n], classes by number, from 0."""
    test_images: Shaped[Tensor, "*test_axes"]
    """[n_test, height, width]."""
    test_labels: Shaped[Tensor, "*test_label_axes"]
    """[n_test]."""
    class_names: tuple[str, ...]
    """The names of the classes."""
    name: str = field(default="images", kw_only=True)
    """The name of the data."""

    def __post_init__(self):
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        n_classes = len(self.class_names)
        require_count(n_classes, f"{self.name}: {n_classes} classes", "at least 2", least=2)
        for split, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            _require_images(images, f"{self.name}: {split} images")
            _require_labels(labels, len(images), n_classes, f"{self.name}: {split} labels")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise InputError(
                f"{self.name}: training images of {_by(self.train_images)} pixels, test images of "
                f"{_by(self.test_images)}; expected one size"
            )
        without = (torch.bincount(self.train_labels.long(), minlength=n_classes) == 0).nonzero().flatten()
        if len(without):
            raise InputError(
                f"{self.name}: no training image of class {self.class_names[int(without[0])]}; expected some "
                "of each class"
            )

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.train_images.shape
        return height, width

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def train(self) -> tuple[Float[Tensor, "n h w"], Int[Tensor, " n"]]:
        """Training images in 0 to 1, and their labels."""
        return to_floats(self.train_images), self.train_labels.long()

    def test(self) -> tuple[Float[Tensor, "n_test h w"], Int[Tensor, " n_test"]]:
        """Test images in 0 to 1, and their labels."""
        return to_floats(self.test_images), self.test_labels.long()


@checked
def to_floats(images: Shaped[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Pixels in 0 to 1, in float32 where they are bytes.

    >>> to_floats(torch.tensor([[0, 255]], dtype=torch.uint8))
    tensor([[0., 1.]])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images


def numbered(labels: Sequence[Tensor]) -> tuple[str, ...]:
    """Names of the classes of labels without names: their numbers, from 0 to the largest."""
    most = max((int(each.max()) for each in labels if each.numel()), default=-1)
    return tuple(str(number) for number in range(most + 1))


def _by(images: Tensor) -> str:
    return " × ".join(map(str, images.shape[1:]))


def _require_images(images: Tensor, what: str) -> None:
    if not isinstance(images, Tensor) or images.ndim != 3:
        shape = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"{what} {shape}; expected a tensor [n, height, width]")
    if not images.numel():
        raise InputError(f"{what} {list(images.shape)}; expected at least one image of at least one pixel")
    if images.dtype == torch.uint8:
        return
    require_finite_numbers(images, what)
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise InputError(
            f"{what} from {float(low):.3g} to {float(high):.3g}; expected bytes, or numbers from 0 to 1"
        )


def _require_labels(labels: Tensor, n: int, n_classes: int, what: str) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"{what} in {kind}; expected whole numbers, the classes by number")
    if labels.shape != (n,):
        raise InputError(f"{what} {list(labels.shape)} for {n} images; expected one for each")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise InputError(f"{what} from {low} to {high}; expected 0 to {n_classes - 1}")
