"""Everything that the page of an image classifier shows, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from analysis.spectra.eigen import effective_rank
from analysis.vision.classifiers import Reading
from analysis.vision.eigenvectors import ClassEigenvectors, class_eigenvectors
from analysis.vision.explained import Explanation, explain_prediction
from analysis.vision.masks import AdversarialMasks, adversarial_masks
from analysis.vision.radii import Radii, compare_radii
from analysis.vision.ranks import RankAccuracy, accuracy_by_rank
from analysis.vision.strengths import MaskStudy, mask_study
from bilinear_lm.errors import InputError
from bilinear_lm.images.data import ImageData
from bilinear_lm.networks.image import ImageClassifier
from bilinear_lm.shown import shown

KS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128)
"""Numbers of eigenvectors a class that accuracy is measured with, as far as the classifier has them."""

TERMS = 8
"""Terms of a prediction that are shown."""

MOST_MASKED = 10
"""Eigenvectors a class that a mask is to leave alone, at most."""

STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Lengths of masks."""

_DRAWS = 20


@dataclass(frozen=True)
class Explained:
    """One prediction: its image, its terms, and the control."""

    index: int
    """Which of the test images."""
    image: Float[Tensor, "h w"]
    label: int
    """The class that the image is of."""
    explanation: Explanation
    random: float
    """The part of the margin in as many random directions that the classifier reads: mean of 20 draws."""


@shown
@dataclass(frozen=True)
class ClassifierReading:
    """An image classifier of one layer, read from its weights and measured on test images."""

    data: ImageData
    classifier: ImageClassifier
    accuracy: float
    """On all test images."""
    chance: float
    """The share of the commonest class in the test images."""
    eigen: ClassEigenvectors
    """All eigenvectors of the classes, in pixels."""
    untrained: ClassEigenvectors
    """The same of a classifier of the same shape with weights as they are drawn."""
    ranks: RankAccuracy
    explained: tuple[Explained, ...]
    """A prediction that is right, and one that is wrong where there are any."""
    masks: AdversarialMasks | None
    """None where classes have too few positive eigenvalues for masks."""
    masked: MaskStudy | None
    k_masks: int
    """Eigenvectors a class that a mask leaves alone."""
    radii: Radii
    """Distances of the first test images."""

    def record(self) -> dict[str, Any]:
        """The numbers of the page, for JSON."""
        positive = self.radii.certified > 0
        return {
            "accuracy": self.accuracy,
            "chance": self.chance,
            "n_test": len(self.data.test_labels),
            "effective_rank": _numbers(effective_rank(self.eigen.values)),
            "effective_rank_untrained": _numbers(effective_rank(self.untrained.values)),
            "eigenvalues": [_numbers(row) for row in self.eigen.values],
            "by_rank": {
                "kept": list(self.ranks.ks),
                "eigenvectors": _numbers(self.ranks.accuracy),
                "random": [_numbers(row) for row in self.ranks.random],
            },
            "predictions": [
                {
                    "test_image": each.index,
                    "label": each.label,
                    "predicted": each.explanation.label,
                    "versus": each.explanation.versus,
                    "margin": each.explanation.total,
                    "terms": _numbers(each.explanation.terms),
                    "rest": each.explanation.rest,
                    "linear": each.explanation.linear,
                    "constant": each.explanation.constant,
                    "random": each.random,
                }
                for each in self.explained
            ],
            "masks": None if self.masked is None else _masks(self.masked, self.k_masks),
            "radii": {
                "n_images": len(positive),
                "right": int(positive.sum()),
                **{name: _median(getattr(self.radii, name)[positive]) for name in _RADII},
            },
        }


_RADII = ("certified", "attacked", "random")


def collect_classifier(
    classifier: ImageClassifier,
    data: ImageData,
    *,
    certified: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> ClassifierReading:
    """Everything that the page shows of a classifier of one layer, measured on the test images of the data.

    InputError for a classifier of several layers or of another kind than bilinear and square, or of other
    images than the data's.
    """
    reading = Reading.of(classifier)
    images, labels = data.test()
    x = images.to(reading.tensor.device, reading.tensor.dtype)
    labels = labels.to(x.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = ImageClassifier(classifier.settings).to(x.device, x.dtype)
    with tqdm(total=6, desc="read", disable=not progress) as bar:
        eigen, drawn = class_eigenvectors(classifier), class_eigenvectors(untrained)
        bar.update(2)
        ks = [k for k in KS if k <= len(reading.span())]
        ranks = accuracy_by_rank(classifier, x, labels, ks, n_random=5, seed=seed)
        bar.update()
        explained = _explained(classifier, reading, x, labels, seed)
        bar.update()
        masks, k = _masks_that_fit(classifier, reading)
        masked = None if masks is None else mask_study(classifier, x, labels, masks, STRENGTHS, seed=seed)
        bar.update()
        radii = compare_radii(classifier, x[:certified], labels[:certified], seed=seed)
        bar.update()
    return ClassifierReading(
        data=data,
        classifier=classifier,
        accuracy=ranks.whole,
        chance=float(labels.bincount().max()) / len(labels),
        eigen=eigen,
        untrained=drawn,
        ranks=ranks,
        explained=explained,
        masks=masks,
        masked=masked,
        k_masks=k,
        radii=radii,
    )


def _explained(
    classifier: ImageClassifier, reading: Reading, x: Tensor, labels: Int[Tensor, " n"], seed: int
) -> tuple[Explained, ...]:
    """The first test image that is put into its class, and the first that is not."""
    pixels = reading.pixels(x)
    right = reading.tensor(pixels).argmax(1) == labels
    k = min(TERMS, reading.n_pixels)
    explained = []
    for wanted in (True, False):
        there = (right == wanted).nonzero().flatten()
        if len(there):
            index = int(there[0])
            explanation = explain_prediction(classifier, x[index], k)
            random = _random_part(reading, pixels[index], explanation, seed)
            explained.append(Explained(index, x[index], int(labels[index]), explanation, random))
    return tuple(explained)


def _random_part(reading: Reading, x: Tensor, explanation: Explanation, seed: int) -> float:
    """The part x P Q P x of a margin that k random orthonormal directions hold, mean of draws."""
    versus = explanation.versus
    u = torch.zeros(reading.n_classes, dtype=x.dtype, device=x.device)
    u[explanation.label] = 1
    if isinstance(versus, int):
        u[versus] = -1
    basis = reading.span()
    k = min(len(explanation.terms), len(basis))
    draws = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(_DRAWS):
        normal = torch.randn(len(basis), k, generator=draws, dtype=torch.float64)
        rows = torch.linalg.qr(normal)[0].mT.to(basis) @ basis  # [k, n_pixels]
        along = rows @ x
        parts.append(float(along @ reading.quadratic.pairwise(u, rows) @ along))
    return sum(parts) / len(parts)


def _masks_that_fit(classifier: ImageClassifier, reading: Reading) -> tuple[AdversarialMasks | None, int]:
    """Masks that single out one of as many eigenvectors a class as are independent, at most ten."""
    for k in range(min(MOST_MASKED, reading.quadratic.d_in), 0, -1):
        try:
            return adversarial_masks(classifier, k), k
        except InputError:  # too few positive eigenvalues, or dependent eigenvectors
            continue
    return None, 0


def _masks(study: MaskStudy, k: int) -> dict[str, Any]:
    ways = {"masks": study.masks, "eigenvectors": study.eigenvectors, "permuted": study.permuted}
    return {
        "k": k,
        "lengths": list(study.strengths),
        **{
            name: {"turned": _numbers(effect.turned.mean(0)), "accuracy": _numbers(effect.accuracy.mean(0))}
            for name, effect in ways.items()
        },
    }


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


def _median(values: Tensor) -> float | None:
    """The median; None of nothing, and where most are infinite."""
    middle = float(values.median()) if values.numel() else float("inf")
    return middle if middle < float("inf") else None
