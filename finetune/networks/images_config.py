"""Settings of training an image classifier, and of `bilinear-lm images`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bilinear_lm.checks import require_seed
from bilinear_lm.device import DeviceName
from bilinear_lm.errors import InputError
from finetune.bounds import COUNT, FROM_ZERO, RATE, Bounds, require_bounds, require_kinds
from finetune.choices import ImageSelection

EPOCHS, STEPS = 20, 1_000
"""Where epochs are not chosen: so many, or as many more as make so many steps."""


@dataclass(frozen=True, kw_only=True)
class ImageTraining:
    """Settings of training an image classifier."""

    epochs: int | None = None
    """Passes over the training images; by default 20, or so many more that there are 1,000 steps."""
    batch_size: int = 256
    """Images of a step."""
    learning_rate: float = 1e-3
    """Step size of AdamW at the start; it falls to 0 along a cosine."""
    weight_decay: float = 1.0
    """Decay of all weights, by learning rate × this a step; it makes the classifier low in rank."""
    noise: float = 0.3
    """Standard deviation of the Gaussian noise that is added to each pixel, which are from 0 to 1."""
    noise_norm: float | None = None
    """The same by the length of an image's noise, √pixels × standard deviation; in the place of noise."""
    seed: int = 0
    """Seeds weights, order and noise."""

    def __post_init__(self):
        require_kinds(self)
        rates = {"learning_rate": RATE, "weight_decay": FROM_ZERO, "noise": FROM_ZERO, "noise_norm": FROM_ZERO}
        for name, bounds in ({"epochs": COUNT, "batch_size": COUNT} | rates).items():
            require_bounds(self, {name: bounds})
        if self.learning_rate * self.weight_decay >= 1:
            raise InputError(
                f"learning_rate {self.learning_rate} × weight_decay {self.weight_decay} is 1 or more, a step "
                "that takes all weights; expected less"
            )
        require_seed(self.seed)

    def n_epochs(self, n_images: int) -> int:
        """Passes over so many training images."""
        if self.epochs is not None:
            return self.epochs
        return max(EPOCHS, math.ceil(STEPS / math.ceil(n_images / self.batch_size)))

    def deviation(self, n_pixels: int) -> float:
        """Standard deviation of the noise of a pixel."""
        return self.noise if self.noise_norm is None else self.noise_norm / n_pixels**0.5


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(ImageSelection, ImageTraining):
    """Settings of `bilinear-lm images`."""

    data: tyro.conf.Positional[str]
    """Folder of the four idx files of MNIST and its like, folder or hub name of a dataset of grey images, or
    digits: those of scikit-learn, 8 × 8 pixels."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder: images.html, images.json, figures, and the classifier."""
    classifier: Path | None = None
    """Folder of a classifier that was saved, to be read instead of training one."""
    kind: Literal["bilinear", "square"] = "bilinear"
    """Layer: bilinear, (x W_gate ∘ x W_in) W_out; or without a gate, (x W_gate)² W_out."""
    d_model: int = 256
    """Width of the embedding."""
    d_mlp: int = 256
    """Hidden units."""
    residual: bool = False
    """Whether the layer adds to what it reads."""
    bias: bool = False
    """Whether layer and head have biases."""
    eigenvectors: int = 4
    """Eigenvectors of each sign to show for a class."""
    certified: int = 100
    """Test images whose certified radius is measured."""
    device: DeviceName = "auto"
    """Where to compute."""

    def check(self) -> None:
        """Raises InputError where the settings do not fit together."""
        counts = ("d_model", "d_mlp", "certified")
        require_bounds(self, dict.fromkeys(counts, Bounds(1, 10**6)))
        require_bounds(self, {"eigenvectors": Bounds(1, 20)})
        if self.classifier is not None and (changed := self._of_training()):
            raise InputError(
                f"--classifier {self.classifier} is trained already; leave {', '.join(changed)} out"
            )

    @property
    def training(self) -> ImageTraining:
        """The settings of the training alone."""
        return ImageTraining(**{field.name: getattr(self, field.name) for field in fields(ImageTraining)})

    @property
    def selection(self) -> ImageSelection:
        """The part of a dataset alone."""
        return ImageSelection(**{field.name: getattr(self, field.name) for field in fields(ImageSelection)})

    def _of_training(self) -> list[str]:
        """Options that shape or train a classifier and are not as by default; the seed has other uses too."""
        names = {field.name for field in fields(ImageTraining)} - {"seed"}
        names |= {"kind", "d_model", "d_mlp", "residual", "bias"}
        return [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if field.name in names and getattr(self, field.name) != field.default
        ]
