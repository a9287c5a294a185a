"""Effects of adversarial masks by strength: accuracy, and how many images turn into the mask's class.

Along a mask δ the logits are a quadratic polynomial of the strength s, B(x + sδ, x + sδ) = B(x, x) +
2s B(x, δ) + s² B(δ, δ), so all strengths cost one product with the images. A mask may be added or subtracted:
of both signs the one that turns more images counts, for the controls as well. These are the mask's own values
at permuted pixels, and the plain eigenvector at the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from analysis.vision.classifiers import Classifier, Reading
from analysis.vision.masks import AdversarialMasks
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_number, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class MaskEffect:
    """The effect of masks at each strength, with the better of their two signs."""

    accuracy: Float[Tensor, "n_masks n_strengths"]
    """The share of all images that are still put into their class."""
    turned: Float[Tensor, "n_masks n_strengths"]
    """The share of images of other classes that are put into the mask's class."""


@shown
@dataclass(frozen=True)
class MaskStudy:
    """Masks beside their controls, all of the same length."""

    labels: tuple[int, ...]
    """The class of each mask."""
    strengths: tuple[float, ...]
    """Lengths of what is added to an image."""
    masks: MaskEffect
    permuted: MaskEffect
    """The masks with their values permuted over the pixels that they use, mean of the permutations."""
    eigenvectors: MaskEffect
    """The plain eigenvectors."""
    accuracy: float
    """Accuracy on the images as they are."""
    n_images: int

    def _first(self) -> dict[str, Any]:
        return {"n_masks": len(self.labels), "strengths": self.strengths, "accuracy": self.accuracy}


@checked
def mask_study(
    classifier: Classifier,
    images: Float[Tensor, "n *image_axes"],
    labels: Int[Tensor, " n"],
    masks: AdversarialMasks,
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 3.0, 4.0),
    *,
    n_permutations: int = 3,
    seed: int = 0,
) -> MaskStudy:
    """Accuracy under masks of growing length, and the share of images that turn into each mask's class.

    The controls, at each length: the masks' values permuted over pixels, `n_permutations` times, and the
    plain eigenvectors. Images with a mask may leave the range of pixels; none is clipped.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> x, y = torch.rand(50, 8, 8), torch.arange(50) % 10
    >>> mask_study(classifier, x, y, adversarial_masks(classifier, k=2), [1.0, 2.0]).masks.turned.shape
    torch.Size([10, 2])
    """
    reading = Reading.of(classifier)
    x = reading.pixels(images)
    labels = reading.labels(labels, len(x))
    require_seed(seed)
    require_count(n_permutations, f"n_permutations={n_permutations}")
    if not len(x) or not len(strengths):
        raise InputError(f"{len(x)} images and {len(strengths)} strengths; expected one or more of each")
    for strength in strengths:
        require_number(strength, f"strength {strength!r} of a mask", "a length of at least 0", least=0)
    _require_of(reading, masks)
    draws = torch.Generator().manual_seed(seed)
    permuted = torch.cat([_permuted(masks.masks, draws) for _ in range(n_permutations)])
    added = torch.cat([masks.masks, masks.eigenvectors, permuted])
    targets = torch.tensor(masks.labels * (2 + n_permutations), device=x.device)
    lengths = [float(strength) for strength in strengths]
    right, turned, whole = _counts(reading, x, labels, added, targets, lengths)
    others = (labels.unsqueeze(0) != targets.unsqueeze(1)).sum(1)
    accuracy, share = right / len(x), turned / others.clamp(min=1)[:, None, None]
    better = (share[..., 1:] > share[..., :1]).long()  # of the two signs; of equal ones the mask as it is
    accuracy, share = (each.gather(2, better).squeeze(2) for each in (accuracy, share))
    n = len(masks.labels)
    parts = [slice(0, n), slice(n, 2 * n), slice(2 * n, None)]
    effects = [
        MaskEffect(*(each[part].unflatten(0, (-1, n)).mean(0) for each in (accuracy, share)))
        for part in parts
    ]
    return MaskStudy(masks.labels, tuple(lengths), effects[0], effects[2], effects[1], whole / len(x), len(x))


def _counts(
    reading: Reading, x: Tensor, labels: Tensor, added: Tensor, targets: Tensor, strengths: Sequence[float]
) -> tuple[Tensor, Tensor, int]:
    """Images put into their class, and of others into the target: [n_masks, n_strengths, 2], both signs."""
    tensor = reading.tensor
    unit = torch.eye(reading.n_classes, dtype=x.dtype, device=x.device)
    steps = F.pad(added, (0, int(tensor.constant)))  # a change has nothing at the constant coordinate
    slopes = 2 * tensor.matvec(unit.unsqueeze(1), steps)  # [n_classes, m, d_in]
    slopes = slopes.permute(1, 2, 0)
    slopes, offsets = slopes[:, : x.shape[1]], slopes[:, x.shape[1] :].sum(1)
    bends = tensor(steps)
    shape = len(added), len(strengths), 2
    right, turned = x.new_zeros(shape), x.new_zeros(shape)
    whole = 0
    for rows in torch.arange(len(x)).split(_at_once(reading)):
        own = labels[rows]
        at_x = tensor(x[rows])
        whole += int((at_x.argmax(1) == own).sum())
        for m, target in enumerate(targets.tolist()):
            along = x[rows] @ slopes[m] + offsets[m]
            for s, strength in enumerate(strengths):
                for sign in (0, 1):
                    step = -strength if sign else strength
                    given = (at_x + step * along + step**2 * bends[m]).argmax(1)
                    right[m, s, sign] += (given == own).sum()
                    turned[m, s, sign] += ((given == target) & (own != target)).sum()
    return right, turned, whole


def _at_once(reading: Reading) -> int:
    width = reading.n_pixels + 2 * reading.tensor.d_mlp + 4 * reading.n_classes
    return rows_at_once(width * reading.tensor.dtype.itemsize)


def _permuted(masks: Tensor, draws: torch.Generator) -> Tensor:
    """Each mask with its values in another order, over the pixels that it uses."""
    moved = masks.clone()
    for row in moved:
        used = row.nonzero().flatten()
        row[used] = row[used[torch.randperm(len(used), generator=draws).to(used.device)]]
    return moved


def _require_of(reading: Reading, masks: AdversarialMasks) -> None:
    reading.tensor.require_alike(masks.masks, "masks")
    fits = masks.masks.shape == masks.eigenvectors.shape == (len(masks.labels), reading.n_pixels)
    if not fits or any(not 0 <= label < reading.n_classes for label in masks.labels):
        raise InputError(
            f"masks {list(masks.masks.shape)} for classes {masks.labels}; expected [n, {reading.n_pixels}] "
            f"for classes 0 to {reading.n_classes - 1}, as adversarial_masks makes them of such a classifier"
        )
