"""Training of image classifiers: AdamW with weight decay, a cosine, and Gaussian noise on the pixels.

Pearce, Dooms et al. (arXiv 2410.08417, section 4) train with AdamW at 1e-3, weight decay 1.0, batches of
2048 for 20 to 100 epochs; noise on the input makes eigenvectors smooth, and weight decay makes them few. The
defaults of `ImageTraining` get as far in fewer epochs by smaller batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.files import versions
from bilinear_lm.images.data import ImageData, to_floats
from bilinear_lm.networks.image import ImageClassifier, ImageSettings
from bilinear_lm.shown import shown
from finetune.networks.images_config import ImageTraining

_AT_ONCE = 4096
"""Images that are classified at once."""


@shown
@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with the record of its training."""

    classifier: ImageClassifier
    training: ImageTraining
    losses: tuple[float, ...]
    """Mean cross-entropy of the noisy training images in each epoch, in nats."""
    accuracies: tuple[float, ...]
    """Share of test images that are classified right, after each epoch."""
    seconds: float
    """How long the training took."""
    versions: dict[str, str]
    """Versions of the packages that compute."""

    @property
    def accuracy(self) -> float:
        """Share of test images that are classified right at the end."""
        return self.accuracies[-1]


@checked
def train_classifier(
    data: ImageData,
    settings: ImageSettings | None = None,
    training: ImageTraining | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TrainedClassifier:
    """A classifier trained on labelled images, with its record; equal seeds give equal ones on a machine.

    The loss is the cross-entropy of logits at x + σ ε, with ε standard Gaussian (`ImageTraining`). Without
    settings the classifier is a bilinear layer for images and classes of the data. InputError where the
    settings are for other images or classes, and for a training that diverges.

    >>> trained = train_classifier(read_digits(), training=ImageTraining(epochs=5))  # doctest: +SKIP
    >>> trained.classifier(torch.rand(1, 8, 8)).shape  # doctest: +SKIP
    torch.Size([1, 10])
    """
    training = training or ImageTraining()
    settings = settings or ImageSettings(image_shape=data.image_shape, n_classes=data.n_classes)
    require_for(settings, data)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        classifier = ImageClassifier(settings).to(device)
    images, labels = data.train_images.to(device), data.train_labels.long().to(device)
    test_images, test_labels = data.test_images.to(device), data.test_labels.long().to(device)
    n_epochs = training.n_epochs(len(images))
    n_steps = n_epochs * math.ceil(len(images) / training.batch_size)
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    losses, accuracies = [], []
    bar = tqdm(total=n_steps, desc="train", disable=not progress)
    with bar:
        for epoch in range(n_epochs):
            summed = torch.zeros((), device=labels.device)
            for x, y in _batches(images, labels, training, epoch):
                loss = F.cross_entropy(classifier(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                falling.step()
                summed += loss.detach() * len(y)
                bar.update()
            losses.append(float(summed) / len(images))
            _require_finite_loss(losses[-1], epoch)
            accuracies.append(accuracy(classifier, test_images, test_labels))
            bar.set_postfix(loss=f"{losses[-1]:.3f}", accuracy=f"{accuracies[-1]:.4f}")
    seconds = time.perf_counter() - began
    return TrainedClassifier(classifier, training, tuple(losses), tuple(accuracies), seconds, versions())


@torch.no_grad()
def accuracy(
    classifier: ImageClassifier, images: Shaped[Tensor, "n h w"], labels: Int[Tensor, " n"]
) -> float:
    """The share of images that a classifier classifies right; images are bytes, or from 0 to 1."""
    dtype = classifier.W_embed.dtype
    right = sum(
        (classifier(to_floats(x).to(dtype)).argmax(-1) == y).sum()
        for x, y in zip(images.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True)
    )
    return float(right) / len(labels)


def _batches(
    images: Tensor, labels: Tensor, training: ImageTraining, epoch: int
) -> Iterator[tuple[Float[Tensor, "batch h w"], Int[Tensor, " batch"]]]:
    """The images of an epoch in an order of its own, with noise."""
    seed = (training.seed << 20) + epoch
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
    draws = torch.Generator(images.device).manual_seed(seed)
    deviation = training.deviation(images[0].numel())
    for rows in order.split(training.batch_size):
        x = to_floats(images[rows])
        if deviation:
            noise = torch.randn(x.shape, generator=draws, device=x.device, dtype=x.dtype)
            x = x + deviation * noise
        yield x, labels[rows]


def require_for(settings: ImageSettings, data: ImageData) -> None:
    """Raises InputError unless a classifier of these settings is for images and classes of the data."""
    if settings.image_shape != data.image_shape or settings.n_classes != data.n_classes:
        raise InputError(
            f"a classifier of images {list(settings.image_shape)} in {settings.n_classes} classes for "
            f"{data.name}, images {list(data.image_shape)} in {data.n_classes}; expected equal ones"
        )


def _require_finite_loss(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise InputError(
            f"the training diverged in epoch {epoch + 1} (loss {loss}); expected a finite loss, lower the "
            "learning rate or raise the weight decay"
        )
