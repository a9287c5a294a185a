"""Figures of image classifiers: eigenvectors as images, spectra, and what they are worth on images."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter
from torch import Tensor

from analysis.colours import NEGATIVE, POSITIVE
from analysis.plots import INK, Drawing, styled
from analysis.vision.eigenvectors import ClassEigenvectors
from analysis.vision.radii import Radii
from analysis.vision.ranks import RankAccuracy
from analysis.vision.strengths import MaskStudy

_STEPS = 120
"""Points of a curve over changes."""


@styled
def eigenvector_plot(
    eigen: ClassEigenvectors, n: int = 3, names: Sequence[str] | None = None, title: str = "eigenvectors"
) -> Figure:
    """The n strongest eigenvectors of each sign of every class as images, a class a row; positive ones left.

    Blue is positive, orange negative; an eigenvector's own sign means nothing. Over each is its eigenvalue.
    """
    names = [str(each) for each in eigen.classes] if names is None else names
    figure = Drawing(figsize=(1.02 * 2 * n + 0.8, 1.18 * len(eigen.classes) + 0.5), layout="constrained")
    panels = figure.subplots(len(eigen.classes), 2 * n, squeeze=False)
    colors = matplotlib.colors.LinearSegmentedColormap.from_list("signed", [NEGATIVE, "white", POSITIVE])
    values, images = strongest_of_both(eigen, n)
    for row, name, row_values, row_images in zip(panels, names, values, images, strict=True):
        for axes, value, image in zip(row, row_values.tolist(), row_images, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if value:
                most = float(image.abs().max()) or 1.0
                axes.imshow(image.cpu().numpy(), cmap=colors, vmin=-most, vmax=most)
                axes.set_title(f"{value:+.2g}".replace("-", "−"), fontsize=8, color=INK)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    figure.suptitle(title, fontsize=10)
    return figure


def strongest_of_both(
    eigen: ClassEigenvectors, n: int
) -> tuple[Float[Tensor, "classes n_both"], Float[Tensor, "classes n_both h w"]]:
    """The n largest positive eigenvalues, then the n most negative ones, and their images.

    Zeros where a class has fewer.
    """
    values, images = [], []
    for sign in (1, -1):
        order = (sign * eigen.values).topk(min(n, eigen.values.shape[1]), dim=1).indices
        chosen = eigen.values.gather(1, order)
        there = (sign * chosen) > 0
        rows = eigen.images.flatten(2).gather(1, order.unsqueeze(-1).expand(-1, -1, eigen.vectors.shape[-1]))
        values.append(torch.where(there, chosen, 0.0))
        images.append((rows * there.unsqueeze(-1)).unflatten(-1, eigen.image_shape[-2:]))
    return torch.cat(values, dim=1), torch.cat(images, dim=1)


@styled
def class_spectra_plot(
    values: Float[Tensor, "n k"],
    untrained: Float[Tensor, "n k"] | None = None,
    title: str = "eigenvalues of the classes",
) -> Figure:
    """Magnitudes of each class's eigenvalues by rank, as a share of the largest, a line a class.

    `untrained` are those of a classifier as it is drawn: its mean is the control.
    """
    figure = Drawing(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    ranks = range(1, values.shape[1] + 1)
    for number, row in enumerate(_shares(values)):
        label = "each class" if not number else None
        axes.plot(ranks, row.tolist(), color=POSITIVE, alpha=0.55, linewidth=1, label=label)
    if untrained is not None:
        mean = _shares(untrained).mean(0).tolist()
        axes.plot(range(1, len(mean) + 1), mean, color=INK, linestyle="--", label="untrained, mean")
    axes.set(xlabel="rank", ylabel="|λ| ÷ the largest", title=title, ylim=(0, 1.03))
    _powers(axes)
    axes.legend()
    return figure


def _shares(values: Tensor) -> Tensor:
    sizes = values.abs().sort(dim=1, descending=True).values
    return sizes / sizes[:, :1].clamp(min=torch.finfo(sizes.dtype).tiny)


@styled
def rank_plot(found: RankAccuracy, title: str = "accuracy by eigenvectors kept") -> Figure:
    """Accuracy with the largest eigenvectors of each class, and with random directions, their range shaded."""
    figure = Drawing(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(found.whole, color=INK, linewidth=0.8, linestyle=":", label="the classifier")
    axes.plot(found.ks, found.accuracy.tolist(), color=POSITIVE, marker=".", label="eigenvectors")
    if len(found.random):
        low, high = found.random.amin(0).tolist(), found.random.amax(0).tolist()
        axes.fill_between(found.ks, low, high, color=NEGATIVE, alpha=0.2, linewidth=0)
        mean = found.random.mean(0).tolist()
        axes.plot(found.ks, mean, color=NEGATIVE, marker=".", label="random directions")
    axes.set(xlabel="directions kept a class", ylabel="accuracy", title=title, ylim=(0, 1.03))
    _powers(axes)
    axes.legend()
    return figure


@styled
def mask_plot(study: MaskStudy, title: str = "images with a mask, mean of the masks") -> Figure:
    """Left, the share of images that turn into the mask's class; right, accuracy; by the mask's length."""
    figure = Drawing(figsize=(6.6, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    ways = {
        "mask": (study.masks, POSITIVE, "-"),
        "plain eigenvector": (study.eigenvectors, POSITIVE, ":"),
        "mask, pixels permuted": (study.permuted, NEGATIVE, "-"),
    }
    for name, (effect, color, style) in ways.items():
        for axes, shares in ((left, effect.turned), (right, effect.accuracy)):
            axes.plot(
                study.strengths, shares.mean(0).tolist(), style, color=color, marker=".", label=name
            )
    right.axhline(study.accuracy, color=INK, linewidth=0.8, linestyle=":")
    left.set(xlabel="length of the mask", ylabel="share of images", title="turned into its class")
    right.set(xlabel="length of the mask", title="still right", ylim=(0, 1.03))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


@styled
def radii_plot(radii: Radii, title: str = "images that keep their class") -> Figure:
    """The share of images that are right under every change of a length: certified, attacked, at random."""
    figure = Drawing(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    most = _reach(radii)
    lengths = torch.linspace(0, most, _STEPS).tolist()
    shares = [radii.accuracy(length) for length in lengths]
    for place, (name, color, style) in enumerate(
        [("certified", POSITIVE, "-"), ("attacked", NEGATIVE, "--"), ("random directions", INK, ":")]
    ):
        axes.plot(lengths, [each[place] for each in shares], style, color=color, label=name)
    axes.set(xlabel="length of the change", ylabel="share of images", title=title, ylim=(0, 1.03))
    axes.legend()
    return figure


def _reach(radii: Radii) -> float:
    """A length that shows all certified radii, and where random directions begin to change labels."""
    finite = radii.certified[radii.certified.isfinite()]
    return 1.6 * float(finite.max()) if finite.numel() and finite.max() > 0 else 1.0


def _powers(axes: matplotlib.axes.Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
