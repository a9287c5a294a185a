"""Adversarial masks read off the weights of an image classifier, without a training step or a forward pass.

    python examples/masks.py [FIGURE]

Trains a classifier of one bilinear layer on drawn shapes, takes a mask for each shape from its eigenvectors,
and adds it to images: how many turn into that shape, beside the same mask with its pixels permuted. Then how
much the masks use the outer edge, which is empty in all images, and what decides about one of them.
"""

import sys

import torch
from torch.nn import functional as F

import bilinear_lm as bl
from analysis import (
    accuracy_by_rank,
    adversarial_masks,
    edge_energy,
    explain_prediction,
    mask_study,
    masks_plot,
    save_figure,
)

SHAPES, SIDE, MARGIN = ("bar", "cross", "ring", "corner"), 12, 2
STEPS, NOISE, NORMS = 150, 0.3, (0.5, 1.0, 2.0, 3.0)


def drawn(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes of 6 × 6 pixels, moved by a pixel at most, on an empty ground, of any brightness."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.arange(6)
    row, column = rows[:, None], rows[None]
    bar = (row // 2 == 1).expand(6, 6)
    cross = (row == column) | (row == 5 - column)
    ring = (row % 5 == 0) | (column % 5 == 0)
    corner = (row == 0) | (column == 0)
    shapes = torch.stack([bar, cross, ring, corner]).float()
    labels = torch.randint(len(SHAPES), (n,), generator=draws)
    images = torch.zeros(n, SIDE, SIDE)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = (MARGIN + torch.randint(3, (2,), generator=draws)).tolist()
        image[top : top + 6, left : left + 6] = shapes[label] * (0.6 + 0.4 * torch.rand(1, generator=draws))
    return images, labels


def trained(images: torch.Tensor, labels: torch.Tensor) -> bl.networks.ImageClassifier:
    """A classifier after a few steps of AdamW, with noise on the pixels."""
    torch.manual_seed(0)
    classifier = bl.networks.ImageClassifier(
        bl.networks.ImageSettings((SIDE, SIDE), n_classes=len(SHAPES), d_model=32, d_mlp=32)
    )
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.01, weight_decay=0.5)
    for _ in range(STEPS):
        loss = F.cross_entropy(classifier(images + NOISE * torch.randn_like(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier


def main(figure: str | None = None) -> None:
    """Prints what masks do by their norm; draws it."""
    classifier = trained(*drawn(500, seed=0))
    images, labels = drawn(300, seed=1)
    ranks = accuracy_by_rank(classifier, images, labels, (2, 4, 8))
    print(f"accuracy on {len(images)} new images: {ranks.whole:.1%}")
    for k, own, random in zip(ranks.ks, ranks.accuracy, ranks.random.mean(0), strict=True):
        print(f"  with {k} eigenvectors a shape {own:.1%}, with {k} random directions {random:.1%}")

    masks = adversarial_masks(classifier, k=4)
    study = mask_study(classifier, images, labels, masks, NORMS)
    turned, permuted = (effect.turned.mean(0) for effect in (study.masks, study.permuted))
    for norm, own, control in zip(study.strengths, turned, permuted, strict=True):
        print(f"masks of norm {norm}: {own:.1%} of other shapes turn, permuted {control:.1%}")
    energy = edge_energy(masks.images, MARGIN)
    print(f"energy at the edge: {energy.shares.mean():.1%} of the masks', {energy.pixels:.1%} of the pixels")

    explanation = explain_prediction(classifier, images[0], k=3)
    label, versus = SHAPES[explanation.label], SHAPES[explanation.versus]
    terms = " ".join(f"{term:+.2f}" for term in explanation.terms.tolist())
    print(f"{label} over {versus} by {explanation.total:.2f} = {terms} {explanation.rest:+.2f} (the rest)")
    if figure is not None:
        save_figure(masks_plot(masks, study, names=SHAPES), figure)
        print(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
