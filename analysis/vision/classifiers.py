"""`Reading`: a classifier of one bilinear layer as forms of the pixels, and the space of its eigenvectors.

The logit of class c at pixels x is x Q_c x + l_c · x + d_c; the linear part l_c and the constant d_c are 0
for a classifier without biases and residual connection. Q_c has eigenvectors in two spaces:

    pixels      Q_c itself, [n_pixels, n_pixels]: eigenvectors are orthonormal images, and they depend on
                nothing but the function that the classifier computes
    embedding   M_c with Q_c = E M_c Eᵀ, E = W_embed: an eigenvector v_i of M_c is seen as the image E v_i.
                These images are neither of length 1 nor orthogonal, and another basis of the embedding that
                is no rotation gives others. This is what arXiv 2410.08417 (section 4) decomposes, and where
                its effective ranks are taken

In both, x Q_c x = Σ_i λ_i (w_i · x)² exactly, w_i the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.checks import require_choice, require_finite_numbers, require_index, require_labels
from bilinear_lm.errors import InputError
from bilinear_lm.networks.image import ImageClassifier
from bilinear_lm.numerics.parts import quadratic_part
from bilinear_lm.tensor import BilinearTensor

Space = Literal["pixels", "embedding"]

Classifier = ImageClassifier | BilinearTensor
"""A classifier of one layer, or its tensor from pixels to logits."""


@dataclass(frozen=True)
class Reading:
    """A classifier's tensor of the pixels, and its quadratic part in the space of its eigenvectors."""

    tensor: BilinearTensor
    """Pixels to logits, with the constant coordinate where there are linear or constant parts."""
    quadratic: BilinearTensor
    """The quadratic part alone, in the coordinates of the space."""
    embed: Float[Tensor, "n_pixels d"] | None
    """E, for the space of the embedding."""
    image_shape: tuple[int, ...]

    @classmethod
    def of(cls, classifier: Classifier, space: Space = "pixels") -> Reading:
        """The reading of a classifier; InputError unless it is one bilinear layer and has such a space."""
        require_choice(space, get_args(Space), "space")
        if isinstance(classifier, BilinearTensor):
            if classifier.batch_shape or classifier.d_out < 2:
                raise InputError(
                    f"a classifier of {classifier.d_out} classes with batch axes "
                    f"{list(classifier.batch_shape)}; expected one layer with two classes or more"
                )
            if space == "embedding":
                raise InputError(
                    "space 'embedding' of a tensor of pixels; expected 'pixels', or give the "
                    "ImageClassifier, which has an embedding"
                )
            return cls(
                classifier, quadratic_part(classifier), None, (classifier.d_in - bool(classifier.constant),)
            )
        tensor, shape = classifier.pixel_tensor(), classifier.settings.image_shape
        if space == "pixels":
            return cls(tensor, quadratic_part(tensor), None, shape)
        embed, head = classifier.W_embed.detach(), classifier.W_head.detach()
        layer = quadratic_part(classifier.tensor()).change_basis(outputs=head.T.contiguous())
        return cls(tensor, layer, embed, shape)

    @property
    def n_pixels(self) -> int:
        """Numbers of an image."""
        return self.tensor.d_in - self.tensor.constant

    @property
    def n_classes(self) -> int:
        """Classes, each a logit."""
        return self.tensor.d_out

    def images(self, rows: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes n_pixels"]:
        """Directions of the space as images: w with w · x = v · (x E)."""
        return rows if self.embed is None else rows @ self.embed.T

    def pixels(self, images: Tensor, what: str = "images") -> Float[Tensor, "n n_pixels"]:
        """Images [n, *image_shape], or [n, n_pixels], as rows; checked to be the classifier's."""
        self.tensor.require_alike(images, what)
        require_finite_numbers(images, what)
        own, shape = self.image_shape, tuple(images.shape[1:])
        # A tensor of pixels has no shape of its own: whatever has as many numbers an image will do.
        fits = shape == own or (len(own) == 1 and math.prod(shape) == self.n_pixels)
        if images.ndim > 1 and (fits or shape == (self.n_pixels,)):
            return images.reshape(len(images), self.n_pixels)
        raise InputError(
            f"{what} {list(images.shape)}; expected [n, {', '.join(map(str, self.image_shape))}] or "
            f"[n, {self.n_pixels}]"
        )

    def labels(self, labels: Tensor, n: int) -> Int[Tensor, " n"]:
        """Labels of n images, checked."""
        require_labels(labels, n, self.n_classes, "images")
        return labels.to(self.tensor.device).long()

    def span(self) -> Float[Tensor, "r d"]:
        """An orthonormal basis, in rows, of the directions of the space that the quadratic part reads."""
        factors = torch.cat([self.quadratic.W_gate, self.quadratic.W_in], dim=1).double()
        columns, sizes, _ = torch.linalg.svd(factors, full_matrices=False)
        least = max(factors.shape) * torch.finfo(self.tensor.dtype).eps * sizes[0]
        return columns[:, sizes > least].T.to(self.tensor.dtype)


def class_directions(
    reading: Reading, classes: Sequence[int] | None, versus: int | str | None
) -> tuple[tuple[int, ...], Float[Tensor, "n n_classes"]]:
    """Classes, and the output directions along which each is read.

    e_c for versus None; e_c − e_j for another class j; e_c less the mean of all others for "others".
    """
    n = reading.n_classes
    if isinstance(versus, str):
        require_choice(versus, ("others",), "versus")
    elif versus is not None:
        require_index(versus, n, "class")
    if classes is None:
        classes = [c for c in range(n) if c != versus]
    for c in classes:
        require_index(c, n, "class")
        if c == versus:
            raise InputError(f"class {c} versus itself is 0 everywhere; expected another class")
    if not len(classes):
        raise InputError("no classes; expected one or more")
    unit = torch.eye(n, dtype=reading.tensor.dtype, device=reading.tensor.device)
    rows = unit[[int(c) for c in classes]]
    if versus == "others":
        rows = (rows * n - 1) / (n - 1)
    elif versus is not None:
        rows = rows - unit[int(versus)]
    return tuple(int(c) for c in classes), rows
