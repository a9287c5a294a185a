"""Figures of adversarial masks: the masks as images, and what they do to a classifier by their length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.colours import NEGATIVE, POSITIVE
from analysis.plots import INK, Drawing, styled
from analysis.vision.figures import as_images, class_name, signed_image
from analysis.vision.masks import AdversarialMasks
from analysis.vision.strengths import MaskEffect, MaskStudy

_COLORS = (POSITIVE, NEGATIVE, "#4a9d5b", "#8a5bc4")
"""Colours of up to four classifiers."""


@styled
def masks_plot(
    masks: AdversarialMasks | Mapping[str, AdversarialMasks],
    studies: MaskStudy | Mapping[str, MaskStudy],
    *,
    image_shape: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    title: str = "adversarial masks from the weights",
) -> Figure:
    """On top the masks as images; below, what they do, as `mask_effects_plot` draws it.

    Masks and studies of several classifiers, up to four, go by their names.
    """
    rows = {"": masks} if isinstance(masks, AdversarialMasks) else dict(masks)
    n = max(len(each.labels) for each in rows.values())
    figure = Drawing(figsize=(max(6.8, 0.7 * n), 3.4 + 0.9 * len(rows)), layout="constrained")
    heights = 0.9 * len(rows), 3.1
    (top,), (bottom,) = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)
    for tiles, (name, each) in zip(top.subplots(len(rows), n, squeeze=False), rows.items(), strict=True):
        images = as_images(each.masks, each.image_shape, image_shape)
        for axes in tiles[len(images) :]:
            axes.axis("off")
        for axes, image, label in zip(tiles, images, each.labels, strict=False):
            signed_image(axes, image, class_name(label, names))
        tiles[0].set_ylabel(name, fontsize=8)
    _effects(bottom, studies)
    figure.suptitle(title, fontsize=10)
    return figure


@styled
def mask_effects_plot(studies: MaskStudy | Mapping[str, MaskStudy], title: str | None = None) -> Figure:
    """Accuracy, and images of other classes turned into a mask's class, by the length of what is added.

    Solid are the masks, dashed the plain eigenvectors, dotted the masks with their pixels permuted: means
    over masks, the range shaded for the masks. At length 0 accuracy is the classifier's own. Studies of
    several classifiers, up to four, go by their names.
    """
    figure = Drawing(figsize=(6.8, 3.1), layout="constrained")
    _effects(figure, studies)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def _effects(figure: FigureBase, studies: MaskStudy | Mapping[str, MaskStudy]) -> None:
    named = {"mask": studies} if isinstance(studies, MaskStudy) else dict(studies)
    left, right = figure.subplots(1, 2)
    for (name, study), color in zip(named.items(), _COLORS, strict=False):
        _curves(left, study, "accuracy", color, name)
        _curves(right, study, "turned", color, None)
    for axes, said in ((left, "accuracy"), (right, "other images in the mask's class")):
        axes.set(xlabel="length of what is added", ylabel=said)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    for style, name in (("--", "plain eigenvector"), (":", "mask, pixels permuted")):
        left.plot([], [], style, color=INK, label=name)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=len(named) + 2
    )


def _curves(axes: Axes, study: MaskStudy, measure: str, color: str, name: str | None) -> None:
    effects: tuple[tuple[MaskEffect, str], ...] = (
        (study.masks, "-"),
        (study.eigenvectors, "--"),
        (study.permuted, ":"),
    )
    order = sorted(range(len(study.strengths)), key=study.strengths.__getitem__)
    lengths = [study.strengths[i] for i in order]
    for effect, style in effects:
        shares = getattr(effect, measure)[:, order]
        label = name if style == "-" else None
        axes.plot(lengths, shares.mean(0).tolist(), style, color=color, linewidth=1.4, label=label)
        if style == "-":
            low, high = shares.min(0).values.tolist(), shares.max(0).values.tolist()
            axes.fill_between(lengths, low, high, color=color, alpha=0.12, linewidth=0)
    if measure == "accuracy":
        axes.plot(0, study.accuracy, ".", color=color, clip_on=False)
