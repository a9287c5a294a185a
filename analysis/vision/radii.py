"""How far an image is from the nearest one that gets another label: certified, attacked, and at random.

For one bilinear layer the distance is known exactly (`analysis.guarantees.robustness`). An attack finds
images with another label, so no attack finds one nearer; how much farther its own lie is what the attack
leaves undone. Random directions are the control: how far one has to go that knows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from analysis.guarantees.robustness import certified_radius
from analysis.vision.classifiers import Classifier, Reading
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_finite_numbers, require_number, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.shown import Words, shown

HALVINGS = 30
"""Halvings of the way from an image to the one that an attack found, at its end."""


@shown
@dataclass(frozen=True)
class Attacked:
    """The nearest images with another label that an attack found."""

    distances: Float[Tensor, " n"]
    """In the 2-norm; ∞ where none was found, 0 for a label that the classifier does not give."""
    images: Float[Tensor, "n n_pixels"]
    """The image itself where none was found."""


@checked
def gradient_attack(
    classifier: Callable[[Tensor], Tensor],
    images: Float[Tensor, "n n_pixels"],
    labels: Int[Tensor, " n"],
    *,
    steps: int = 100,
    radius: float = 1.0,
    shrink: float = 0.05,
) -> Attacked:
    """The nearest images of another label that projected gradients find, for any classifier of pixels.

    At each step the change goes along the gradient of the margin (the largest other logit less the label's),
    scaled to length 1, by a step that falls from 1 to 0.01 along a cosine, and is projected to a sphere. The
    sphere's radius, `radius` at first, shrinks by the share `shrink` while the change turns the label and
    grows by it while it does not. The nearest image of all steps is then moved back towards the original by
    halving (decoupled direction and norm: Rony et al., arXiv 1811.09600, with the margin as loss).
    """
    require_count(steps, f"steps={steps} of an attack")
    require_number(radius, f"radius={radius} of an attack", "a number above 0", least=math.ulp(0))
    require_number(
        shrink, f"shrink={shrink} of an attack", "0 to 1, neither of them", least=1e-9, most=1 - 1e-9
    )
    require_finite_numbers(images, "images")
    if labels.shape != images.shape[:1] or images.ndim != 2:
        raise InputError(
            f"images {list(images.shape)}, labels {list(labels.shape)}; expected [n, n_pixels], [n]"
        )

    change, radii = torch.zeros_like(images), images.new_full((len(images), 1), radius)
    best, nearest = images.new_full((len(images),), torch.inf), images.clone()
    for step in range(steps):
        margins, gradient = _margins(classifier, images + change, labels)
        length = change.norm(dim=1)
        closer = (margins >= 0) & (length < best)
        best, nearest = (
            torch.where(closer, length, best),
            torch.where(closer[:, None], images + change, nearest),
        )
        size = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        radii = radii * torch.where(margins >= 0, 1 - shrink, 1 + shrink)[:, None]
        change = radii * F.normalize(change + size * F.normalize(gradient, dim=1), dim=1)
    low, high = torch.zeros_like(best), torch.ones_like(best)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        turns = _margins(classifier, images + middle[:, None] * (nearest - images), labels)[0] >= 0
        low, high = torch.where(turns, low, middle), torch.where(turns, middle, high)
    found = best.isfinite()
    nearest = torch.where(found[:, None], images + high[:, None] * (nearest - images), images)
    return Attacked(torch.where(found, (nearest - images).norm(dim=1), best), nearest)


def _margins(
    classifier: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n_pixels"]]:
    """The largest other logit less the label's, and its gradient."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = classifier(x)
        own = logits.gather(1, labels.unsqueeze(1))
        margins = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1) - own.squeeze(1)
        (gradient,) = torch.autograd.grad(margins.sum(), x)
    return margins.detach(), gradient


@shown
@dataclass(frozen=True)
class Radii:
    """Distances (2-norm) from each of n images to another label: 0 where the classifier is wrong already."""

    certified: Float[Tensor, " n"]
    """To the nearest such image, exactly: none is nearer."""
    attacked: Float[Tensor, " n"]
    """To the nearest that the attack finds; ∞ where it finds none."""
    random: Float[Tensor, " n"]
    """Along the best of some random directions and their opposites."""

    def _first(self) -> dict[str, Any]:
        right = self.certified > 0
        return {"median_certified": Words(f"{float(self.certified[right].nanmedian()):.4g}")}

    def accuracy(self, epsilon: float) -> tuple[float, float, float]:
        """Shares of images that keep their label up to ε: certified, attacked, along random directions."""
        kept = [(each > epsilon).double().mean() for each in (self.certified, self.attacked, self.random)]
        return float(kept[0]), float(kept[1]), float(kept[2])


@checked
def compare_radii(
    classifier: Classifier,
    images: Float[Tensor, "n *image_axes"],
    labels: Int[Tensor, " n"],
    *,
    steps: int = 100,
    n_random: int = 10,
    seed: int = 0,
) -> Radii:
    """Certified distances of images beside what `gradient_attack` finds and what random directions do.

    Computed in float64. Images with changes may leave the range of pixels: none is clipped.

    >>> classifier = ImageClassifier(ImageSettings(image_shape=(8, 8), d_model=32, d_mlp=32))
    >>> x, y = torch.rand(20, 8, 8), torch.arange(20) % 10
    >>> radii = compare_radii(classifier, x, y)
    >>> bool((radii.attacked >= radii.certified - 1e-6).all())
    True
    """
    reading = Reading.of(classifier)
    x = reading.pixels(images).double()
    labels = reading.labels(labels, len(x))
    require_count(n_random, f"n_random={n_random} directions")
    require_seed(seed)
    if not len(x):
        raise InputError("no images; expected one or more")
    tensor, dtype = reading.tensor.to(torch.float64), reading.tensor.dtype
    attacked = gradient_attack(tensor, x, labels, steps=steps)
    draws = torch.Generator().manual_seed(seed)
    distances = torch.full_like(attacked.distances, torch.inf)
    for _ in range(n_random):
        along = F.normalize(torch.randn(x.shape, generator=draws, dtype=x.dtype), dim=1).to(x.device)
        distances = torch.minimum(distances, _along(tensor, x, along, labels))
    certified = certified_radius(tensor, x, labels).radius
    return Radii(certified.to(dtype), attacked.distances.to(dtype), distances.to(dtype))


def _along(tensor: Callable[..., Tensor], x: Tensor, along: Tensor, labels: Tensor) -> Tensor:
    """The least |t| at which x + t · along has another label: roots of margins quadratic in t."""
    at_x, far, back = tensor(x), tensor(x + along), tensor(x - along)
    logits = (at_x, (far - back) / 2, (far + back) / 2 - at_x)  # of 1, t and t²
    c, b, a = (each.gather(1, labels.unsqueeze(1)) - each for each in logits)
    c, b, a = (each.scatter(1, labels.unsqueeze(1), 1.0) for each in (c, b, a))
    least = torch.full_like(c, torch.inf)
    discriminant = b.square() - 4 * a * c
    # The root of smaller magnitude is 2c / (−b ∓ √D), with the sign that adds up.
    root = discriminant.clamp(min=0).sqrt()
    crosses = (discriminant >= 0) & (b.abs() + root > 0)
    distance = 2 * c.abs() / (b.abs() + root).clamp(min=torch.finfo(c.dtype).tiny)
    least = torch.where(crosses, distance, least).scatter(1, labels.unsqueeze(1), torch.inf)
    wrong = at_x.argmax(1) != labels
    return torch.where(wrong, 0.0, least.amin(1))
