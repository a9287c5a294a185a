"""Directions of a classifier that no class was asked for: its strongest mixtures of classes, as images.

The tensor from pixels to logits, unfolded along its outputs, has singular values σ_r and directions u_r over
classes: B = Σ_r σ_r u_r ⊗ q_r (`analysis.spectra.hosvd`; arXiv 2410.08417, appendix on HOSVD). What a u_r
weighs against what is its entries; what it looks at are the eigenvectors of q_r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from analysis.spectra.eigen import fix_signs
from analysis.spectra.hosvd import hosvd, singular_eigenvectors
from analysis.vision.classifiers import Classifier, Reading, Space
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.shown import first_numbers, shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class ImageDirections:
    """Singular directions over classes, and the eigenvectors of each as images."""

    spectrum: Float[Tensor, " n_classes"]
    """All singular values, descending."""
    directions: Float[Tensor, "n n_classes"]
    """u_r, rows of length 1: how much each class has of it."""
    values: Float[Tensor, "n k"]
    """Eigenvalues of q_r, which has norm 1, by |λ| descending."""
    vectors: Float[Tensor, "n k n_pixels"]
    """Their eigenvectors as images."""
    image_shape: tuple[int, ...]

    def _first(self) -> dict[str, Any]:
        return {"spectrum": first_numbers(self.spectrum)}

    @property
    def images(self) -> Float[Tensor, "n k *image_shape"]:
        """The eigenvectors in the shape of images."""
        return self.vectors.unflatten(-1, self.image_shape)


@checked
def image_directions(
    classifier: Classifier, n: int = 4, k: int = 4, *, centred: bool = True, space: Space = "pixels"
) -> ImageDirections:
    """The n strongest singular directions of a classifier's quadratic part, with k eigenvectors each.

    With `centred` the mean of all logits is taken off first: it decides nothing, and would else be the first
    direction wherever classes have much in common; the last singular value is 0 then.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> directions = image_directions(classifier, n=3, k=2)
    >>> directions.directions.shape, directions.images.shape
    (torch.Size([3, 10]), torch.Size([3, 2, 8, 8]))
    """
    reading = Reading.of(classifier, space)
    most = reading.n_classes - centred
    require_count(n, f"n={n} singular directions of {reading.n_classes} classes", f"1 to {most}", most=most)
    tensor = reading.quadratic
    if centred:
        outputs = tensor.W_out - tensor.W_out.mean(1, keepdim=True)
        tensor = BilinearTensor(tensor.W_gate, tensor.W_in, outputs)
    svd = hosvd(tensor, n)
    eigen = singular_eigenvectors(tensor, svd, k)
    images = fix_signs(reading.images(eigen.vectors))
    return ImageDirections(svd.spectrum, svd.output_directions, eigen.values, images, reading.image_shape)
