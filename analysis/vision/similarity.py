"""Similarity of image classifiers by their eigenvectors: whether other seeds and sizes learn the same images.

Pixels are a basis that all classifiers of the same images share, so eigenvectors can be compared as they are
(arXiv 2410.08417, section 4.2). Each is compared with the nearest of the first few of the other classifier,
since neighbouring eigenvalues change places. The nearest of a few random directions is nearer than one: the
control is drawn and matched in the same way, within what each classifier reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from analysis.spectra.similarity import pairwise_cosine
from analysis.vision.classifiers import Classifier, Reading, Space
from analysis.vision.eigenvectors import class_eigenvectors
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class EigenvectorSimilarity:
    """|Cosines| of the top eigenvectors of n classifiers, each with the nearest of another's first few."""

    cosines: Float[Tensor, "n n n_classes k"]
    """[i, j, c, r]: eigenvector r of class c of classifier i with its nearest of j; 1 for i = j."""
    random: Float[Tensor, "n n n_classes k"]
    """The same for random directions of what each classifier reads, in place of eigenvectors."""
    tensors: Float[Tensor, "n n"]
    """Cosines of the quadratic parts, as whole tensors from pixels to logits."""

    def _first(self) -> dict[str, Any]:
        return {"mean": self.mean(), "random_mean": float(self._pairs(self.random).mean())}

    def mean(self, rank: int = 0) -> float:
        """The mean over classes and pairs of classifiers, of eigenvectors of one rank (0: the largest)."""
        k = self.cosines.shape[-1]
        require_count(rank, f"rank={rank}", f"0 to {k - 1}", least=0, most=k - 1)
        return float(self._pairs(self.cosines)[..., rank].mean())

    def by_class(self, rank: int = 0) -> Float[Tensor, " n_classes"]:
        """The mean over pairs of classifiers, class by class."""
        return self._pairs(self.cosines)[..., rank].mean(0)

    def _pairs(self, of: Tensor) -> Tensor:
        return of[~torch.eye(len(of), dtype=torch.bool, device=of.device)]


@checked
def eigenvector_similarity(
    classifiers: Sequence[Classifier],
    k: int = 1,
    *,
    among: int = 3,
    sign: Literal["positive", "negative"] = "positive",
    versus: int | Literal["others"] | None = None,
    space: Space = "pixels",
    seed: int = 0,
) -> EigenvectorSimilarity:
    """Cosines of the top k eigenvectors of one sign, across classifiers of the same images and classes.

    Each with the nearest of the first `among` of every other classifier, without regard to sign. The
    classifiers may have any sizes. What untrained ones give, too, is `eigenvector_similarity(untrained)`.

    >>> classifiers = [ImageClassifier(ImageSettings((8, 8), d_model=32, d_mlp=32)) for _ in range(3)]
    >>> eigenvector_similarity(classifiers, k=2).cosines.shape
    torch.Size([3, 3, 10, 2])
    """
    if len(classifiers) < 2:
        raise InputError(f"similarity of {len(classifiers)} classifiers; expected two or more")
    readings = [Reading.of(each, space) for each in classifiers]
    sizes = sorted({(each.n_pixels, each.n_classes) for each in readings})
    if len(sizes) > 1 or len({(each.tensor.dtype, each.tensor.device) for each in readings}) > 1:
        told = ", ".join(f"{n_pixels} to {n_classes}" for n_pixels, n_classes in sizes)
        raise InputError(
            f"classifiers of {told}; expected one number of pixels and of classes, one precision and device"
        )
    require_count(k, f"k={k} eigenvectors a class")
    require_count(among, f"among={among} eigenvectors")
    require_seed(seed)
    draws, most = torch.Generator().manual_seed(seed), max(k, among)
    top, random = [], []
    for classifier, reading in zip(classifiers, readings, strict=True):
        vectors = class_eigenvectors(classifier, versus=versus, space=space).strongest(most, sign)[1]
        top.append(F.normalize(vectors, dim=-1))
        basis = reading.span()
        normal = torch.randn(*vectors.shape[:2], len(basis), generator=draws, dtype=torch.float64)
        random.append(F.normalize(reading.images(normal.to(basis) @ basis), dim=-1))
    tensors = pairwise_cosine([Reading.of(each).quadratic for each in classifiers])
    return EigenvectorSimilarity(_nearest(top, k, among), _nearest(random, k, among), tensors)


def _nearest(vectors: Sequence[Tensor], k: int, among: int) -> Tensor:
    """The largest |cosine| of the first k with the first `among` of every other, [n, n, n_classes, k]."""
    rows = torch.stack(list(vectors))
    cosines = torch.einsum("ickp,jcmp->ijckm", rows[:, :, :k], rows[:, :, :among]).abs().amax(-1)
    one = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return cosines.clamp(max=1).masked_fill(one[:, :, None, None], 1)
