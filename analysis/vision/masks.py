"""Adversarial masks from the weights: what to add to any image so that one eigenvector of a class answers.

With W the top k positive eigenvectors of every class as images, [n_classes · k, n_pixels], row by row, the
column δ_i of the pseudo-inverse W⁺ is the shortest image with w_i · δ_i = 1 and w_j · δ_i = 0 for all others.
Added to an image it moves one term λ_i (w_i · x)² of one logit and no other top term. Neither a training step
nor a forward pass is needed (arXiv 2410.08417, appendix on adversarial masks).

The pseudo-inverse is for selectivity: the eigenvector itself, of equal norm, is the stronger push along w_i,
but it moves all eigenvectors that overlap with it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from analysis.spectra.eigen import fix_signs
from analysis.vision.classifiers import Classifier, Reading, Space
from analysis.vision.eigenvectors import class_eigenvectors
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_finite_numbers, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

MARGIN = 4
"""Pixels at each side that MNIST's digits leave empty."""


@shown
@dataclass(frozen=True)
class AdversarialMasks:
    """Masks of length 1, one a class, and the eigenvectors that they single out, of length 1 too.

    The sign of each is such that its entry of largest magnitude is positive; an eigenvector answers to both.
    """

    labels: tuple[int, ...]
    """The class that each is to turn images into."""
    image_shape: tuple[int, ...]
    masks: Float[Tensor, "n n_pixels"]
    eigenvectors: Float[Tensor, "n n_pixels"]
    """The plain eigenvector of each, to compare with at equal norm."""

    @property
    def images(self) -> Float[Tensor, "n *image_shape"]:
        """The masks in the shape of images."""
        return self.masks.unflatten(-1, self.image_shape)

    def restricted(self, pixels: Bool[Tensor, "*image_shape"]) -> AdversarialMasks:
        """The masks, and eigenvectors, on some pixels alone, of length 1 again.

        With `edge_pixels` they show what a classifier makes of pixels that no image uses.
        """
        if pixels.dtype != torch.bool or pixels.numel() != self.masks.shape[1]:
            raise InputError(
                f"pixels {list(pixels.shape)} in {pixels.dtype}; expected True or False for each of "
                f"{list(self.image_shape)}"
            )
        kept = [rows * pixels.flatten().to(rows) for rows in (self.masks, self.eigenvectors)]
        if any(bool((rows.norm(dim=1) == 0).any()) for rows in kept):
            raise InputError("a mask is 0 on all of the pixels it is restricted to; expected others")
        masks, eigenvectors = (F.normalize(rows, dim=1) for rows in kept)
        return replace(self, masks=masks, eigenvectors=eigenvectors)


@checked
def adversarial_masks(
    classifier: Classifier,
    k: int = 10,
    *,
    labels: Sequence[int] | None = None,
    space: Space = "embedding",
) -> AdversarialMasks:
    """Masks of length 1, each for the top positive eigenvector of a label and no other top k of any class.

    `space` is that of the eigenvectors: as in the literature the embedding's, where the classifier has one;
    a tensor of pixels has none, and there it is the pixels'. All n_classes · k eigenvectors have to be
    linearly independent: InputError for a k that is larger than that allows, or than a class has positive
    eigenvalues.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> adversarial_masks(classifier, k=2).images.shape
    torch.Size([10, 8, 8])
    """
    reading = Reading.of(classifier)
    labels = range(reading.n_classes) if labels is None else labels
    if not len(labels):
        raise InputError("no labels of masks; expected one or more")
    for label in labels:
        require_index(label, reading.n_classes, "class")
    vectors = _top_positive(classifier, reading, k, space)
    W = vectors.flatten(0, 1).double()
    inverse = torch.linalg.pinv(W).T.unflatten(0, (reading.n_classes, k))
    rows = [int(label) for label in labels]
    masks, plain = (F.normalize(each[rows, 0], dim=1) for each in (inverse, vectors))
    return AdversarialMasks(
        tuple(rows), reading.image_shape, fix_signs(masks.to(reading.tensor.dtype)), fix_signs(plain)
    )


@checked
def adversarial_mask(
    classifier: Classifier, label: int, k: int = 10, *, space: Space = "embedding"
) -> Float[Tensor, "*image_shape"]:
    """The adversarial mask of one class, an image of length 1; see `adversarial_masks`.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> adversarial_mask(classifier, label=3, k=2).shape
    torch.Size([8, 8])
    """
    return adversarial_masks(classifier, k, labels=[label], space=space).images[0]


def _top_positive(
    classifier: Classifier, reading: Reading, k: int, space: Space
) -> Float[Tensor, "n_classes k n_pixels"]:
    """The top k positive eigenvectors of all classes as images, checked to be linearly independent."""
    width = reading.quadratic.d_in
    require_count(k, f"k={k} eigenvectors a class", f"1 to {width}", most=width)
    if not hasattr(classifier, "W_embed"):
        space = "pixels"
    vectors = class_eigenvectors(classifier, space=space).strongest(k)[1]
    W = vectors.flatten(0, 1).double()
    rank = int(torch.linalg.matrix_rank(F.normalize(W, dim=1), rtol=10 * torch.finfo(vectors.dtype).eps))
    if rank < len(W):
        raise InputError(
            f"k={k}: the top eigenvectors of {reading.n_classes} classes are {len(W)} images of rank {rank}; "
            f"expected k up to {max(1, rank // reading.n_classes)}, so that each can be singled out"
        )
    return vectors


@shown
@dataclass(frozen=True)
class EdgeEnergy:
    """The share of the squares of images that lies on the pixels of the outer edge."""

    shares: Float[Tensor, "*n"]
    pixels: float
    """The share of the pixels that are at the edge: what an image of noise has."""
    width: int


@checked
def edge_energy(masks: Float[Tensor, "*n height width"], width: int = MARGIN) -> EdgeEnergy:
    """The share of each mask's squares on the `width` outermost pixels at each side, and that of the pixels.

    Images leave them empty, so a classifier has nothing to learn there: masks that use them are made of what
    training left alone, and tell that it was not regularised (arXiv 2410.08417, section 4.3).

    >>> edge_energy(torch.ones(3, 28, 28), width=4)
    EdgeEnergy(shares=float32[3], pixels=0.4898, width=4)
    """
    require_finite_numbers(masks, "masks")
    if masks.ndim < 2:
        raise InputError(f"masks {list(masks.shape)}; expected images [..., height, width]")
    edge = edge_pixels((masks.shape[-2], masks.shape[-1]), width).to(masks.device)
    squares = masks.square()
    total = squares.sum((-2, -1)).clamp(min=torch.finfo(masks.dtype).tiny)
    return EdgeEnergy((squares * edge).sum((-2, -1)) / total, float(edge.double().mean()), width)


@checked
def edge_pixels(image_shape: Sequence[int], width: int = MARGIN) -> Bool[Tensor, "*image_shape"]:
    """Whether each pixel of an image [..., height, width] is one of the `width` outermost at a side."""
    if len(image_shape) < 2:
        raise InputError(f"image_shape {tuple(image_shape)}; expected height and width, the last two axes")
    height, across = (int(size) for size in image_shape[-2:])
    most = (min(height, across) - 1) // 2
    require_count(
        width, f"width={width} of an edge", f"1 to {most} for {height} × {across} pixels", most=most
    )
    edge = torch.ones(tuple(image_shape), dtype=torch.bool)
    edge[..., width : height - width, width : across - width] = False
    return edge
