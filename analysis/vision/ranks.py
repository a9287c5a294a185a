"""Accuracy by rank: how many eigenvectors a class an image classifier needs for what it gets right.

Each class's matrix Q_c is put down to the span of its k largest eigenvectors by |λ|, P Q_c P; linear and
constant parts stay. The control are random orthonormal subspaces of the same rank within the span that the
classifier reads, one a class: outside of it every subspace is as good as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.spectra.eigen import eigendecompose
from analysis.vision.classifiers import Classifier, Reading, Space
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.parts import affine_part
from bilinear_lm.shown import first_numbers, shown


@shown
@dataclass(frozen=True)
class RankAccuracy:
    """Shares of images that are put into their class with k directions a class kept."""

    ks: tuple[int, ...]
    accuracy: Float[Tensor, " n_ks"]
    """With the k largest eigenvectors by |λ|."""
    random: Float[Tensor, "n_random n_ks"]
    """With k random directions of what the classifier reads."""
    whole: float
    """Accuracy of the classifier itself."""
    n_images: int

    def _first(self) -> dict[str, Any]:
        return {"ks": self.ks, "accuracy": first_numbers(self.accuracy, 6)}

    def needed(self, cost: float = 0.0001) -> int | None:
        """The first of the ks that costs at most so much accuracy; None where none does."""
        near = [
            k for k, each in zip(self.ks, self.accuracy.tolist(), strict=True) if each >= self.whole - cost
        ]
        return near[0] if near else None


@dataclass(frozen=True)
class _Cores:
    """Directions of every class, and the class's matrix on them; the first k are a subspace for every k."""

    images: Float[Tensor, "n_classes most n_pixels"]
    cores: Float[Tensor, "n_classes most most"]

    def logits(self, x: Tensor, k: int) -> Tensor:
        """The quadratic part on the first k directions at pixels x, [n, n_classes]."""
        parts = (x @ self.images[:, :k].flatten(0, 1).T).unflatten(-1, (-1, k))
        return torch.einsum("nck,ckl,ncl->nc", parts, self.cores[:, :k, :k], parts)


@checked
def accuracy_by_rank(
    classifier: Classifier,
    images: Float[Tensor, "n *image_axes"],
    labels: Int[Tensor, " n"],
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    *,
    n_random: int = 3,
    space: Space = "pixels",
    seed: int = 0,
) -> RankAccuracy:
    """Accuracy with the k largest eigenvectors of each class, beside k random directions that it reads.

    The eigenvectors are those of the logits themselves, not of differences. Images are taken in pieces that
    fit the memory. Raises InputError for a k above the rank that the classifier reads.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> accuracy_by_rank(classifier, torch.rand(50, 8, 8), torch.arange(50) % 10, ks=(1, 4)).random.shape
    torch.Size([3, 2])
    """
    reading = Reading.of(classifier, space)
    x = reading.pixels(images)
    labels = reading.labels(labels, len(x))
    require_seed(seed)
    require_count(n_random, f"n_random={n_random} random subspaces", "at least 0", least=0)
    basis = reading.span()
    if not len(x) or not len(ks):
        raise InputError(f"{len(x)} images and {len(ks)} ks; expected one or more of each")
    for k in ks:
        require_count(k, f"k={k} directions a class", f"1 to the {len(basis)} it reads", most=len(basis))
    ks = tuple(int(k) for k in ks)
    unit = torch.eye(reading.n_classes, dtype=x.dtype, device=x.device)
    eigen = eigendecompose(reading.quadratic, unit, max(ks))
    draws = torch.Generator().manual_seed(seed)
    kept = [_Cores(reading.images(eigen.vectors), torch.diag_embed(eigen.values))]
    kept += [_random(reading, basis, max(ks), draws) for _ in range(n_random)]
    linear, constants = affine_part(reading.tensor, unit)
    right, whole = x.new_zeros(len(kept), len(ks)), 0
    for rows in torch.arange(len(x)).split(_at_once(reading, max(ks))):
        piece, own = x[rows], labels[rows]
        rest = piece @ linear.T + constants
        whole += int((reading.tensor(piece).argmax(1) == own).sum())
        for i, cores in enumerate(kept):
            for j, k in enumerate(ks):
                right[i, j] += ((cores.logits(piece, k) + rest).argmax(1) == own).sum()
    shares = right / len(x)
    return RankAccuracy(ks, shares[0], shares[1:], whole / len(x), len(x))


def _random(reading: Reading, basis: Tensor, most: int, draws: torch.Generator) -> _Cores:
    """Random orthonormal directions of the span, other ones for every class."""
    shape = reading.n_classes, len(basis), most
    normal = torch.randn(shape, generator=draws, dtype=torch.float64)
    inside = torch.linalg.qr(normal)[0].mT.to(basis)  # [n_classes, most, r]
    rows = inside @ basis
    unit = torch.eye(reading.n_classes, dtype=basis.dtype, device=basis.device)
    cores = [reading.quadratic.pairwise(u, own) for u, own in zip(unit, rows, strict=True)]
    return _Cores(reading.images(rows), torch.stack(cores))


def _at_once(reading: Reading, k: int) -> int:
    return rows_at_once((2 * reading.n_classes * k + reading.n_pixels) * reading.tensor.dtype.itemsize)
