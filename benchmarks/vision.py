"""Image classifiers read from their weights: ranks, seeds, adversarial masks and distances, beside controls.

    python benchmarks/images.py train --classifiers CLASSIFIERS
    OMP_NUM_THREADS=1 python benchmarks/vision.py CLASSIFIERS [--figure masks.png]

CLASSIFIERS holds folders ARM-SEED of one-layer classifiers of MNIST, as `save_network` writes them. All is
measured on test images. Cells are means over seeds (and, for masks, over the ten digits), with the range of
the seeds. Controls: random subspaces of what the classifier reads; random directions of the same, and the
eigenvectors of untrained classifiers; masks with permuted pixels, and the plain eigenvector of equal norm;
the share of the pixels that are at the edge; random directions beside the attack.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from mnist import Images, read_mnist

from analysis import (
    accuracy_by_rank,
    adversarial_masks,
    class_eigenvectors,
    compare_radii,
    edge_energy,
    effective_rank,
    eigenvector_similarity,
    mask_study,
    masks_plot,
    save_figure,
)
from analysis.vision import AdversarialMasks, edge_pixels
from bilinear_lm.networks import ImageClassifier, load_network

ARMS = ("regularised", "unregularised", "no-noise", "no-decay", "literature", "square")
KS, STRENGTHS = (1, 2, 5, 10, 20, 50), (1.0, 2.0, 3.0, 4.0)
MASKS = {
    "10 eigenvectors of the class": {"k": 10},
    "the first of each class": {"k": 1, "among": "all"},
    "10 of each class": {"k": 10, "among": "all"},
}
"""The eigenvectors among which a mask singles out one."""

PARTS = ("ranks", "similarity", "masks", "edges", "radii")
KINDS = ("certified", "attacked", "random")

Classifiers = Mapping[str, list[ImageClassifier]]


def read(folder: Path, arms: Iterable[str], most: int) -> dict[str, list[ImageClassifier]]:
    """Trained classifiers by arm, and untrained ones of the first arm's sizes."""
    classifiers: dict[str, list[ImageClassifier]] = {}
    for arm in arms:
        for path in sorted(folder.glob(f"{arm}-[0-9]*"))[:most]:
            classifiers.setdefault(arm, []).append(load_network(path))
    if not classifiers:
        raise SystemExit(f"{folder} has no classifiers of {', '.join(arms)}; expected folders ARM-SEED")
    first = next(iter(classifiers.values()))
    classifiers["untrained"] = []
    for seed, each in enumerate(first):
        torch.manual_seed(seed)
        classifiers["untrained"].append(ImageClassifier(each.settings))
    return classifiers


def cell(values: Iterable[float]) -> str:
    listed = [float(value) for value in values]
    mean, low, high = sum(listed) / len(listed), min(listed), max(listed)
    return f"{mean:.3g}" if len(listed) == 1 else f"{mean:.3g} ({low:.3g} to {high:.3g})"


def show(title: str, header: Iterable[str], rows: Mapping[str, Iterable[str]]) -> None:
    names = ["", *header]
    print(f"\n{title}\n\n| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def columns(rows: Iterable[Iterable[float]]) -> list[str]:
    """Cells of a row of the table, from a row of numbers a seed."""
    return [cell(column) for column in zip(*rows, strict=True)]


def ranks(classifiers: Classifiers, images: Images) -> None:
    rows = {}
    for arm, group in classifiers.items():
        for space in ("pixels", "embedding"):
            runs = [accuracy_by_rank(each, images.x, images.labels, KS, space=space) for each in group]
            sizes = [effective_rank(class_eigenvectors(each, space=space).values).mean() for each in group]
            name = f"{arm} ({len(group)}), {space}"
            rows[name] = [cell(sizes), *columns([*run.accuracy.tolist(), run.whole] for run in runs)]
            control = [[*run.random.mean(0).tolist(), run.whole] for run in runs]
            rows[f"{name}, random subspaces"] = ["", *columns(control)]
    header = ["effective rank", *(f"k = {k}" for k in KS), "all"]
    show("Accuracy by eigenvectors kept a class", header, rows)


def similarity(classifiers: Classifiers) -> None:
    rows = {}
    for arm, group in classifiers.items():
        if len(group) < 2:
            continue
        for space in ("pixels", "embedding"):
            found = eigenvector_similarity(group, 2, space=space)
            apart = ~torch.eye(len(group), dtype=torch.bool)
            tops, random = found.cosines[apart], found.random[apart]
            digits = found.by_class()
            rows[f"{arm} ({len(group)}), {space}"] = [
                f"{float(tops[..., 0].mean()):.3f} ({float(digits.min()):.2f} to {float(digits.max()):.2f})",
                f"{float(tops[..., 1].mean()):.3f}",
                f"{float(random.mean()):.3f}",
                f"{float(found.tensors[apart].mean()):.3f}",
            ]
    header = ["first (range of digits)", "second", "random directions", "whole tensors"]
    show("Cosines of positive eigenvectors across seeds, nearest of 3", header, rows)


def masks(classifiers: Classifiers, images: Images, figure: Path | None) -> None:
    rows, drawn, shown = {}, {}, {}
    header = [f"norm {s:g}" for s in STRENGTHS]
    for arm, group in classifiers.items():
        for name, chosen in MASKS.items():
            made = [adversarial_masks(each, **chosen) for each in group]
            studies = [
                mask_study(each, images.x, images.labels, mask, STRENGTHS)
                for each, mask in zip(group, made, strict=True)
            ]
            effects = {
                f"{arm} ({len(group)}), {name}": [study.masks for study in studies],
                f"{arm}, {name}, pixels permuted": [study.permuted for study in studies],
            }
            if name == next(iter(MASKS)):
                effects[f"{arm}, plain eigenvector"] = [study.eigenvectors for study in studies]
            for row, each in effects.items():
                turned = columns(effect.turned.mean(0).tolist() for effect in each)
                rows[row] = [*turned, *columns(effect.accuracy.mean(0).tolist() for effect in each)]
        if figure is not None and arm in ("regularised", "unregularised"):
            first = adversarial_masks(group[0])
            strengths = (0.0, 0.5, *STRENGTHS, 6.0)
            drawn[arm], shown[arm] = first, mask_study(group[0], images.x, images.labels, first, strengths)
    header = [*(f"turned, {name}" for name in header), *(f"accuracy, {name}" for name in header)]
    show("Images of other digits turned into the mask's digit, and accuracy", header, rows)
    if figure is not None and drawn:
        save_figure(masks_plot(drawn, shown, title="adversarial masks from the weights, MNIST"), figure)


def edges(classifiers: Classifiers, images: Images) -> None:
    """How much of a mask is on the four outermost pixels, and what that part does alone."""
    rows, share = {}, 0.0
    for arm, group in classifiers.items():
        for name, chosen in MASKS.items():
            made = [adversarial_masks(each, **chosen) for each in group]
            found = [edge_energy(each.images) for each in made]
            share = found[0].pixels
            alone = [turned_at_edge(each, mask, images) for each, mask in zip(group, made, strict=True)]
            rows[f"{arm} ({len(group)}), {name}"] = [
                cell(each.shares.mean() for each in found),
                *columns(alone),
            ]
    header = [
        f"energy at the edge (pixels: {share:.3f})",
        *(f"turned by norm {s:g} at the edge" for s in (4, 8)),
    ]
    show("The outer edge of masks", [*header, "the same, permuted, 8"], rows)


def turned_at_edge(classifier: ImageClassifier, mask: AdversarialMasks, images: Images) -> list[float]:
    at_edge = mask.restricted(edge_pixels(mask.image_shape))
    study = mask_study(classifier, images.x, images.labels, at_edge, (4.0, 8.0))
    return [*study.masks.turned.mean(0).tolist(), float(study.permuted.turned[:, 1].mean())]


def radii(classifiers: Classifiers, images: Images, most: int) -> None:
    rows = {}
    for arm, group in classifiers.items():
        if arm == "untrained":
            continue
        group = group[:most]
        found = [compare_radii(each, images.x, images.labels) for each in group]
        right = [each.certified > 0 for each in found]
        pairs = list(zip(found, right, strict=True))
        ratios = [(each.attacked / each.certified)[ok].double() for each, ok in pairs]
        rows[f"{arm} ({len(group)})"] = [
            *(cell(getattr(each, name)[ok].median() for each, ok in pairs) for name in KINDS),
            cell(ratio.median() for ratio in ratios),
            cell(ratio.max() for ratio in ratios),
            str(sum(int((ratio < 1 - 1e-6).sum()) for ratio in ratios)),
        ]
    header = [*(f"median, {name}" for name in KINDS)]
    header += ["attacked / certified, median", "largest", "attacks nearer than certified"]
    show(f"Distances to another label, of {len(images.x)} images those that are right", header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("classifiers", type=Path)
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("--seeds", type=int, default=5, help="of an arm, at most")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--radii", type=int, default=100, help="images whose distances are measured")
    parser.add_argument("--radii-seeds", type=int, default=3, help="of an arm, at most, for distances")
    parser.add_argument("--figure", type=Path, default=None)
    options = parser.parse_args()
    images = read_mnist()[1].first(options.images)
    classifiers = read(options.classifiers, options.arms, options.seeds)
    parts: dict[str, Callable[[], None]] = {
        "ranks": lambda: ranks(classifiers, images),
        "similarity": lambda: similarity(classifiers),
        "masks": lambda: masks(classifiers, images, options.figure),
        "edges": lambda: edges(classifiers, images),
        "radii": lambda: radii(classifiers, images.first(options.radii), options.radii_seeds),
    }
    for part in options.parts:
        start = time.perf_counter()
        parts[part]()
        print(f"\n{time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
