"""Adversarial masks from the weights: what to add to any image so that one eigenvector of a class answers.

With W some eigenvectors as images, row by row, [n, n_pixels], the column δ_i of the pseudo-inverse W⁺ is the
shortest image with w_i · δ_i = 1 and w_j · δ_i = 0 for all others. Added to an image it moves the term
λ_i (w_i · x)² and no other of W. Neither a training step nor a forward pass is needed (arXiv 2410.08417,
appendix on adversarial masks). W are the top k positive eigenvectors of the class, or of every class: the
more of them, the less the mask touches, and the less of it lies along w_i.

So the pseudo-inverse is for selectivity, not for strength: the eigenvector itself, of equal norm, is the
strongest push along w_i, and moves all eigenvectors that overlap with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from analysis.spectra.eigen import fix_signs
from analysis.vision.classifiers import Classifier, Reading, Space
from analysis.vision.eigenvectors import class_eigenvectors
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_finite_numbers, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor

Among = Literal["class", "all"]

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
    among: Among = "class",
    space: Space | None = None,
) -> AdversarialMasks:
    """Masks of length 1 that single out the top positive eigenvector of each label among top positive ones.

    These are the k largest of the label itself, or with `among="all"` the k largest of every class. `space`
    is that of the eigenvectors, by default the embedding's, as in the literature; a tensor of pixels has
    none. In the pixels' space eigenvectors of one class are orthonormal, so among them the mask is the
    eigenvector. InputError for more eigenvectors than are positive, or than can be told apart.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> adversarial_masks(classifier, k=2, among="all").images.shape
    torch.Size([10, 8, 8])
    """
    space = space or ("pixels" if isinstance(classifier, BilinearTensor) else "embedding")
    require_choice(among, get_args(Among), "among")
    reading = Reading.of(classifier)
    n = reading.n_classes
    rows = list(range(n) if labels is None else labels)
    if not rows:
        raise InputError("no labels of masks; expected one or more")
    for label in rows:
        require_index(label, n, "class")
    rows = [int(label) for label in rows]
    require_count(k, f"k={k} eigenvectors a class")
    eigen = class_eigenvectors(classifier, classes=range(n) if among == "all" else rows, space=space)
    vectors = eigen.strongest(k)[1]
    if among == "all":
        inverse = _pseudo_inverse(vectors.flatten(0, 1), k).unflatten(0, (n, k))
        masks, plain = inverse[rows, 0], vectors[rows, 0]
    else:
        masks, plain = torch.stack([_pseudo_inverse(each, k)[0] for each in vectors]), vectors[:, 0]
    masks, plain = (fix_signs(F.normalize(each.to(vectors.dtype), dim=1)) for each in (masks, plain))
    return AdversarialMasks(tuple(rows), reading.image_shape, masks, plain)


@checked
def adversarial_mask(
    classifier: Classifier, label: int, k: int = 10, *, among: Among = "class", space: Space | None = None
) -> Float[Tensor, "*image_shape"]:
    """The adversarial mask of one class, an image of length 1; see `adversarial_masks`.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> adversarial_mask(classifier, label=3, k=2).shape
    torch.Size([8, 8])
    """
    return adversarial_masks(classifier, k, labels=[label], among=among, space=space).images[0]


def _pseudo_inverse(W: Float[Tensor, "n n_pixels"], k: int) -> Float[Tensor, "n n_pixels"]:
    """The columns of W⁺ as rows, in float64; InputError where the rows of W are not independent."""
    sizes = W.double().norm(dim=1, keepdim=True)
    rows = W.double() / sizes
    rank = int(torch.linalg.matrix_rank(rows, rtol=10 * torch.finfo(W.dtype).eps))
    if rank < len(W):
        raise InputError(
            f"k={k}: {len(W)} eigenvectors, but images of rank {rank}; expected a smaller k, so that each "
            "can be singled out"
        )
    return torch.linalg.pinv(rows).T / sizes


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
    """The share of each mask's squares on the `width` outermost pixels at each side, and of the pixels.

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
