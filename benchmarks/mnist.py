"""MNIST, and image classifiers trained on it, for the studies of networks of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bilinear_lm.images import read_idx_folder
from bilinear_lm.networks.image import ImageClassifier, ImageSettings

DATA = Path(__file__).parents[2] / "shared" / "data"
MNIST, FASHION = DATA / "mnist", DATA / "fashion-mnist"
LEARNING_RATE, WEIGHT_DECAY, BATCH, NOISE = 1e-3, 1.0, 256, 0.3


@dataclass(frozen=True)
class Images:
    x: Tensor
    """Pixels [n, n_pixels] or [n, 1, height, width], 0 to 1."""
    labels: Tensor

    def first(self, n: int) -> Images:
        return Images(self.x[:n], self.labels[:n])


def read_images(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Images, Images]:
    """Training and test images [n, 1, height, width] of a folder of idx files."""
    data = read_idx_folder(folder)
    splits = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    train, test = (Images(images.unsqueeze(1).to(dtype) / 255, labels) for images, labels in splits)
    return train, test


def read_mnist(side: int = 28, dtype: torch.dtype = torch.float32) -> tuple[Images, Images]:
    """Training and test images of side × side pixels in a row: means of four at 14."""
    train, test = (
        Images(F.avg_pool2d(split.x, 28 // side).flatten(1), split.labels)
        for split in read_images(MNIST, dtype)
    )
    return train, test


def trained(settings: ImageSettings, images: Images, seed: int, epochs: int = 8) -> ImageClassifier:
    """A classifier after AdamW with a decaying step size, with Gaussian noise on the pixels."""
    torch.manual_seed(seed)
    classifier = ImageClassifier(settings)
    with torch.no_grad():
        classifier.W_embed *= 3  # about 1 a coordinate at the root mean square of MNIST's pixels
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * len(images.x) // BATCH
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(images.x), (BATCH,))
        x = images.x[rows] + NOISE * torch.randn(BATCH, images.x.shape[1])
        loss = F.cross_entropy(classifier(x), images.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        falling.step()
    return classifier.requires_grad_(False)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of images whose largest logit is that of their label."""
    return float((logits.argmax(-1) == labels).double().mean())
