"""Adversarial examples of a classifier, read off a polynomial that approximates it.

A polynomial's logits P(x) have a linear and a quadratic part whose strongest directions are known: the
singular vectors of the one, the eigenvectors of the other. An attack moves an image x by δ, ‖δ‖ = ε, within a
few of them, as far as it can towards another class t of the polynomial: it raises the margin
(P_t − P_y)(x + δ), y the label. Neither looks at the network that the polynomial approximates; how many of
its decisions change is the transfer. (After Belrose and Rigg, arXiv 2502.01032.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.spectra.eigen import eigendecompose
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_floating, require_number, require_seed
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.polynomial import Polynomial
from bilinear_lm.shown import shown

_HALVINGS = 100


@shown
@dataclass(frozen=True)
class Attack:
    """Images moved so that a polynomial puts them into another class."""

    images: Float[Tensor, "n d_in"]
    """The moved images."""
    targets: Int[Tensor, " n"]
    """The classes they are moved towards."""
    norm: float
    """‖δ‖ of every one."""


@checked
def svd_attack(
    polynomial: Polynomial,
    images: Float[Tensor, "n d_in"],
    labels: Int[Tensor, " n"],
    *,
    norm: float,
    k: int = 10,
) -> Attack:
    """Images moved along the top k singular vectors of a polynomial's linear part less its mean over classes.

    Towards class t the step is the linear part of its margin, projected to these vectors, of length `norm`.
    The class with the largest margin of the whole polynomial at the moved image is taken. The linear part is
    the one about `polynomial.center`; write the polynomial around the mean image for steps from there.
    """
    _require_images(polynomial, images, labels, norm)
    linear = polynomial.linear - polynomial.linear.mean(1, keepdim=True)
    most = min(linear.shape)
    require_count(k, f"k={k} singular vectors", f"1 to {most}", most=most)
    U = torch.linalg.svd(linear, full_matrices=False).U[:, :k]
    within = U @ (U.T @ linear)  # [d_in, d_out]

    def step(label: int, target: int, x: Tensor) -> Tensor:
        return (within[:, target] - within[:, label]).expand_as(x)

    return _best_targets(polynomial, images, labels, norm, step)


@checked
def eigen_attack(
    polynomial: Polynomial,
    images: Float[Tensor, "n d_in"],
    labels: Int[Tensor, " n"],
    *,
    norm: float,
    k: int = 10,
) -> Attack:
    """Images moved along the top k eigenvectors of the quadratic part of a polynomial's margin.

    Towards class t the step is within the k eigenvectors with the largest |λ| of the interaction matrix of
    P_t − P_y, and there the best of length `norm` for linear and quadratic part together. The class with the
    largest margin of the whole polynomial at the moved image is taken.
    """
    _require_images(polynomial, images, labels, norm)
    d_in, d_out = polynomial.linear.shape
    require_count(k, f"k={k} eigenvectors", f"1 to {d_in}", most=d_in)
    quadratic, origin = polynomial.quadratic, polynomial.center
    outputs = torch.eye(d_out).to(polynomial.linear)

    def step(label: int, target: int, x: Tensor) -> Tensor:
        u = outputs[target] - outputs[label]
        eigen = eigendecompose(quadratic, u, k)
        offset = x if origin is None else x - origin
        slopes = (polynomial.linear @ u + 2 * quadratic.matvec(u, offset)) @ eigen.vectors.T  # [n, k]
        return _best_on_sphere(eigen.values, slopes, norm) @ eigen.vectors

    return _best_targets(polynomial, images, labels, norm, step)


@shown
@dataclass(frozen=True)
class AttackSuccess:
    """Shares of images, among those that a network puts into their class, that it no longer does."""

    network: float
    """At the moved images."""
    polynomial: float
    """The polynomial's own, among images that it puts into their class."""
    random: float
    """At images moved by random directions of the same norm, one an image."""
    n_images: int
    """Images that the network puts into their class."""


@checked
def attack_success(
    attack: Attack,
    polynomial: Polynomial,
    network: Callable[[Tensor], Tensor],
    images: Float[Tensor, "n d_in"],
    labels: Int[Tensor, " n"],
    seed: int = 0,
) -> AttackSuccess:
    """How often an attack succeeds on the polynomial that it was made for, and on the network behind it.

    `network` maps images to logits. The control are random directions of the same norm.
    """
    require_seed(seed)
    if attack.images.shape != images.shape or labels.shape != images.shape[:1]:
        raise InputError(
            f"images {list(images.shape)} with {list(labels.shape)} labels, attacked "
            f"{list(attack.images.shape)}; expected the images of the attack"
        )
    directions = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=1).to(images)

    def right(classifier: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.no_grad():
            return classifier(x).argmax(1) == labels

    def changed(classifier: Callable[[Tensor], Tensor], moved: Tensor) -> float:
        before = right(classifier, images)
        if not before.any():
            raise InputError("no image is put into its class; expected a classifier of these images")
        return float((~right(classifier, moved))[before].double().mean())

    return AttackSuccess(
        network=changed(network, attack.images),
        polynomial=changed(polynomial, attack.images),
        random=changed(network, images + attack.norm * directions),
        n_images=int(right(network, images).sum()),
    )


def _best_targets(
    polynomial: Polynomial,
    images: Tensor,
    labels: Tensor,
    norm: float,
    step: Callable[[int, int, Tensor], Tensor],
) -> Attack:
    """Every image moved by `norm` along step(label, target, images) for the target of the largest margin."""
    moved, targets = images.clone(), labels.clone()
    best = torch.full_like(images[:, 0], -torch.inf)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        for target in range(len(polynomial.constant)):
            if target == label:
                continue
            direction = torch.nn.functional.normalize(step(label, target, images[rows]), dim=1)
            there = images[rows] + norm * direction
            logits = polynomial(there)
            margin = logits[:, target] - logits[:, label]
            better = margin > best[rows]
            chosen = rows[better]
            moved[chosen], targets[chosen], best[chosen] = there[better], target, margin[better]
    return Attack(moved, targets, norm)


def _best_on_sphere(
    values: Float[Tensor, " k"], slopes: Float[Tensor, "n k"], radius: float
) -> Float[Tensor, "n k"]:
    """The a with ‖a‖ = radius that maximises Σ values a² + slopes a, one for each row of slopes.

    a = slopes / 2(μ − values) with the μ above all values at which the length is right; that μ lies within
    ‖slopes‖ / 2 radius of the largest value.
    """
    info, size = torch.finfo(slopes.dtype), slopes.norm(dim=1, keepdim=True)
    tiny = info.eps * (size / radius + values.abs().max() + info.tiny)
    low, high = values.max() + tiny, values.max() + tiny + size / (2 * radius)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        long = (slopes / (2 * (middle - values))).norm(dim=1, keepdim=True) > radius
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    a = slopes / (2 * (high - values))
    # What is missing of the length, where no slope is along the largest value, is made up along that.
    top = torch.nn.functional.one_hot(values.argmax(), len(values)).to(slopes)
    missing = (radius**2 - a.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    signs = torch.where(a[:, values.argmax()] < 0, -1.0, 1.0).unsqueeze(1)
    return a + top * signs * torch.where(missing > 1e-3 * radius, missing, 0.0)


def _require_images(polynomial: Polynomial, images: Tensor, labels: Tensor, norm: float) -> None:
    require_floating(images, "images")
    require_number(norm, f"norm={norm} of an attack", "a number above 0", least=1e-30)
    d_in, d_out = polynomial.linear.shape
    if images.ndim != 2 or images.shape[1] != d_in or labels.shape != images.shape[:1]:
        raise InputError(
            f"images {list(images.shape)} with labels {list(labels.shape)}; expected [n, {d_in}] with [n]"
        )
    if polynomial.degree < 1 or d_out < 2:
        raise InputError(
            f"a polynomial of degree {polynomial.degree} with {d_out} outputs; expected degree 1 or more and "
            "logits of two classes or more"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < d_out:
        raise InputError(f"labels {int(labels.min())} to {int(labels.max())}; expected 0 to {d_out - 1}")
