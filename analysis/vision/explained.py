"""A prediction of an image classifier as the exact sum of what its eigenvectors say about one image.

The logit of class c, or its margin to another class, at pixels x is Σ_i λ_i (w_i · x)² + l · x + d: the
strongest terms are listed, the others are summed, and all of it adds up to what the classifier computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.vision.classifiers import Classifier, Reading, Space
from analysis.vision.eigenvectors import class_eigenvectors
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_index
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class Explanation:
    """The logit of one class at one image, or its margin to others, as a sum of terms."""

    label: int
    versus: int | str | None
    """The logit that is taken off: another class's, the mean of the "others", or None."""
    total: float
    """The logit or margin as the classifier computes it."""
    terms: Float[Tensor, " k"]
    """λ_i (w_i · x)² of the eigenvectors with the largest of them at this image, descending by magnitude."""
    values: Float[Tensor, " k"]
    """Their eigenvalues λ_i."""
    vectors: Float[Tensor, "k n_pixels"]
    """Their eigenvectors w_i as images."""
    rest: float
    """The sum over all other eigenvectors."""
    linear: float
    constant: float
    image_shape: tuple[int, ...]

    def _first(self) -> dict[str, Any]:
        return {"label": self.label, "versus": self.versus, "total": self.total}

    @property
    def sum(self) -> float:
        """All parts together; `total`, to rounding."""
        return float(self.terms.double().sum()) + self.rest + self.linear + self.constant


@checked
def explain_prediction(
    classifier: Classifier,
    image: Float[Tensor, "*image_axes"],
    k: int = 8,
    *,
    label: int | None = None,
    versus: int | Literal["runner-up", "others"] | None = "runner-up",
    space: Space = "pixels",
) -> Explanation:
    """One prediction as its k strongest eigenvector terms, plus the rest, the linear part and the constant.

    `label` is by default the class that the classifier gives. Explained is its margin to the runner-up (the
    largest of the other logits), to a class given by number, or to the mean of the "others"; with
    `versus=None` the logit itself. Terms are chosen by their size at this image, not by |λ|.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> explanation = explain_prediction(classifier, torch.rand(8, 8), k=5)
    >>> abs(explanation.sum - explanation.total) < 1e-4
    True
    """
    reading = Reading.of(classifier, space)
    x = reading.pixels(image.unsqueeze(0), "image")
    logits = reading.tensor(x)[0].double()
    label = int(logits.argmax()) if label is None else label
    require_index(label, reading.n_classes, "class")
    label = int(label)
    if isinstance(versus, str):
        require_choice(versus, ("runner-up", "others"), "versus")
        if versus == "runner-up":
            versus = int(logits.index_fill(0, torch.tensor(label, device=x.device), -torch.inf).argmax())
    eigen = class_eigenvectors(classifier, versus=versus, classes=[label], space=space)
    n = eigen.values.shape[1]
    require_count(k, f"k={k} eigenvectors of a prediction", f"1 to {n}", most=n)
    terms = eigen.activations(x[0])[0]
    order = terms.abs().argsort(descending=True)
    total = logits[label]
    if versus == "others":
        total = total - (logits.sum() - logits[label]) / (len(logits) - 1)
    elif versus is not None:
        total = total - logits[int(versus)]
    return Explanation(
        label=label,
        versus=eigen.versus,
        total=float(total),
        terms=terms[order[:k]],
        values=eigen.values[0, order[:k]],
        vectors=eigen.vectors[0, order[:k]],
        rest=float(terms[order[k:]].double().sum()),
        linear=float(eigen.linear[0].double() @ x[0].double()),
        constant=float(eigen.constants[0]),
        image_shape=eigen.image_shape,
    )
