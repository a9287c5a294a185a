"""MNIST, and image classifiers trained on it, for the studies of networks of images."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bilinear_lm.networks.image import ImageClassifier, ImageSettings

IMAGES = Path(__file__).parents[2] / "shared" / "data" / "mnist"
LEARNING_RATE, WEIGHT_DECAY, BATCH, NOISE = 1e-3, 1.0, 256, 0.3


@dataclass(frozen=True)
class Images:
    x: Tensor
    """Pixels [n, 784], 0 to 1."""
    labels: Tensor

    @classmethod
    def read(cls, part: str) -> Images:
        pixels = _read(IMAGES / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 784).float() / 255
        return cls(pixels, _read(IMAGES / f"{part}-labels-idx1-ubyte.gz", 8).long())


def _read(path: Path, header: int) -> Tensor:
    with gzip.open(path) as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)[header:]


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
