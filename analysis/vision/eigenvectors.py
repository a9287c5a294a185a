"""Eigenvectors of classes as images: what a class of an image classifier responds to, from the weights.

The quadratic part of a class's logit, or of its difference to another class or to the mean of the others, is
Σ_i λ_i (w_i · x)² (arXiv 2410.08417, section 4). Positive eigenvectors speak for the class, whatever their
sign, negative ones against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.spectra.eigen import eigendecompose, fix_signs
from analysis.vision.classifiers import Classifier, Reading, Space, class_directions
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.parts import affine_part
from bilinear_lm.shown import Words, shown

NEGLIGIBLE = 100
"""Eigenvalues below so many roundings of the largest are 0: of pixels there are many more than are read."""


@shown
@dataclass(frozen=True)
class ClassEigenvectors:
    """Eigenvalues and eigenvectors of classes, sorted by |λ| descending, and what is not quadratic.

    Logit (or difference of logits) of class c at pixels x: Σ_i values[c, i] (vectors[c, i] · x)²
    + linear[c] · x + constants[c], exactly where all eigenvectors are there.
    """

    classes: tuple[int, ...]
    """The class of each row."""
    versus: int | str | None
    """The logit that is taken off: another class's, the mean of the "others", or None."""
    space: Space
    """In which space the eigenvalues are; see `analysis.vision.classifiers`."""
    image_shape: tuple[int, ...]
    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k n_pixels"]
    """As images: of length 1 and orthogonal in the space of pixels, E v of such v in that of the embedding.
    The sign is such that the entry of largest magnitude is positive."""
    linear: Float[Tensor, "n n_pixels"]
    constants: Float[Tensor, " n"]

    def _first(self) -> dict[str, Any]:
        return {"classes": Words(f"{len(self.classes)}"), "largest": float(self.values[:, 0].abs().max())}

    @property
    def images(self) -> Float[Tensor, "n k *image_shape"]:
        """The eigenvectors in the shape of images."""
        return self.vectors.unflatten(-1, self.image_shape)

    def strongest(
        self, n: int, sign: Literal["positive", "negative"] = "positive"
    ) -> tuple[Float[Tensor, "n_rows n"], Float[Tensor, "n_rows n n_pixels"]]:
        """The n eigenvalues of one sign that are largest in magnitude, of each class, and their eigenvectors.

        InputError where a class has fewer of them here; eigenvalues that are 0 to rounding have no sign.
        """
        require_choice(sign, ("positive", "negative"), "sign")
        signed = self.values if sign == "positive" else -self.values
        most = int((signed > self._least).sum(1).min())
        require_count(
            n, f"n={n} {sign} eigenvectors", f"1 to the {most} that every class has here", most=most
        )
        return self._chosen(signed.topk(n, dim=1).indices)

    def both_signs(
        self, n: int
    ) -> tuple[Float[Tensor, "n_rows two_n"], Float[Tensor, "n_rows two_n n_pixels"]]:
        """The n largest positive eigenvalues of each class, then the n most negative, and their eigenvectors.

        Zeros where a class has fewer. InputError for more eigenvectors than there are of both signs.
        """
        most = self.values.shape[1]
        require_count(n, f"n={n} eigenvectors of each sign", f"1 to the {most} that there are", most=most)
        halves = []
        for sign in (1, -1):
            values, vectors = self._chosen((sign * self.values).topk(n, dim=1).indices)
            there = sign * values > self._least
            halves.append((values * there, vectors * there.unsqueeze(-1)))
        values, vectors = (torch.cat(each, dim=1) for each in zip(*halves, strict=True))
        return values, vectors

    @property
    def _least(self) -> Float[Tensor, "n 1"]:
        """Magnitudes up to this are 0 to rounding."""
        return NEGLIGIBLE * torch.finfo(self.values.dtype).eps * self.values.abs().amax(1, keepdim=True)

    def _chosen(
        self, order: Int[Tensor, "n m"]
    ) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m n_pixels"]]:
        vectors = self.vectors.gather(1, order.unsqueeze(-1).expand(-1, -1, self.vectors.shape[-1]))
        return self.values.gather(1, order), vectors

    def activations(self, x: Float[Tensor, "*points n_pixels"]) -> Float[Tensor, "*points n k"]:
        """λ_i (w_i · x)² of every class at pixels x."""
        if not x.ndim or x.shape[-1] != self.vectors.shape[-1]:
            raise InputError(
                f"pixels {list(x.shape)}; expected a last axis of {self.vectors.shape[-1]}, one image a row"
            )
        return self.values * (x @ self.vectors.flatten(0, 1).T).unflatten(-1, self.values.shape).square()


@checked
def class_eigenvectors(
    classifier: Classifier,
    k: int | None = None,
    versus: int | Literal["others"] | None = None,
    *,
    classes: Sequence[int] | None = None,
    space: Space = "pixels",
) -> ClassEigenvectors:
    """Eigenvalues [n, k] and eigenvectors [n, k, n_pixels] of the classes of a one-layer classifier.

    They are those of the quadratic part of each class's logit; with `versus`, of the logit less that of class
    `versus`, or less the mean of the others. A form that is added to all logits changes no decision, and is
    gone from the differences only. `classes` are by default all, in order, but for `versus`.

    k=None gives all, else the k largest by magnitude, from both ends of the spectrum. Biases and a residual
    connection make a linear and a constant part: these are kept apart, and no eigenvector has a constant
    coordinate. With `space="embedding"` eigenvalues are those of the literature, taken behind the embedding;
    `effective_rank(class_eigenvectors(classifier, space="embedding").values)` is the effective rank of
    arXiv 2410.08417.

    Raises InputError for a classifier of several layers or of another kind than bilinear or square, and for a
    class that does not exist.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> eigen = class_eigenvectors(classifier, k=4)
    >>> eigen.values.shape, eigen.images.shape
    (torch.Size([10, 4]), torch.Size([10, 4, 8, 8]))
    """
    reading = Reading.of(classifier, space)
    rows, u = class_directions(reading, classes, versus)
    eigen = eigendecompose(reading.quadratic, u, k)
    linear, constants = affine_part(reading.tensor, u)
    vectors = fix_signs(reading.images(eigen.vectors))
    versus = versus if versus is None or isinstance(versus, str) else int(versus)
    return ClassEigenvectors(
        rows, versus, space, reading.image_shape, eigen.values, vectors, linear, constants
    )
