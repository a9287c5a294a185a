"""Figures of image classifiers: eigenvectors as images, spectra, ranks, distances and explained predictions.

As those of `analysis.plots`: a `matplotlib.figure.Figure` each, which `save_figure` writes. Images are blue
where they are positive and orange where negative, on limits that are symmetric about 0. Figures of masks are
in `analysis.vision.mask_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter
from torch import Tensor

from analysis.colours import NEGATIVE, POSITIVE
from analysis.plots import INK, Drawing, styled
from analysis.vision.directions import ImageDirections
from analysis.vision.eigenvectors import ClassEigenvectors
from analysis.vision.explained import Explanation
from analysis.vision.radii import Radii
from analysis.vision.ranks import RankAccuracy
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError

_SIGNED = matplotlib.colors.LinearSegmentedColormap.from_list("signed", [NEGATIVE, "white", POSITIVE])
_TILE = 0.85
"""Side of a small image, in inches."""


@styled
def eigenvector_grid(
    eigen: ClassEigenvectors,
    k: int = 3,
    *,
    image_shape: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """A row a class: its k largest positive eigenvectors, then its k largest negative ones, with eigenvalues.

    Limits are those of each image; places stay empty where a class has fewer. `image_shape` is for
    eigenvectors of a tensor of pixels, `names` are the names of all classes.
    """
    require_count(k, f"k={k} eigenvectors of each sign")
    k = min(k, eigen.values.shape[1])
    values, vectors = eigen.both_signs(k)
    images = as_images(vectors, eigen.image_shape, image_shape)
    figure, grid = _tiles(len(values), 2 * k, gap_after=k)
    for row, c in enumerate(eigen.classes):
        for column, (value, image) in enumerate(zip(values[row].tolist(), images[row], strict=True)):
            if value:
                signed_image(grid[row][column], image, _signed(value, 3))
            else:
                _bare(grid[row][column])
        _row_name(grid[row][0], class_name(c, names))
    for column, title in ((0, "positive"), (k, "negative")):
        axes = grid[0][column]
        axes.text(0, 1.45, title, transform=axes.transAxes, color=INK, fontsize=9)
    return figure


@styled
def directions_grid(
    directions: ImageDirections,
    *,
    image_shape: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """A row a singular direction: how much each class has of it, and the eigenvectors of its matrix."""
    n, k = directions.values.shape
    images = as_images(directions.vectors, directions.image_shape, image_shape)
    figure = Drawing(figsize=(2.6 + _TILE * k, 0.3 + 1.1 * n), layout="constrained")
    grid = figure.subplots(n, k + 1, squeeze=False, width_ratios=[2.4, *[1] * k])
    limit = 1.1 * float(directions.directions.abs().max())
    classes = range(directions.directions.shape[1])
    for row in range(n):
        bars, weights = grid[row, 0], directions.directions[row].tolist()
        bars.bar(classes, weights, color=[POSITIVE if weight > 0 else NEGATIVE for weight in weights])
        bars.axhline(0, color=INK, linewidth=0.8)
        bars.set_ylim(-limit, limit)
        bars.set_xticks(classes, [class_name(c, names) for c in classes], fontsize=7)
        bars.set_yticks([])
        bars.set_ylabel(f"σ = {float(directions.spectrum[row]):.3g}")
        for axes, value, image in zip(
            grid[row, 1:], directions.values[row].tolist(), images[row], strict=True
        ):
            signed_image(axes, image, _signed(value))
    return figure


@styled
def class_spectra_plot(
    eigen: ClassEigenvectors,
    control: ClassEigenvectors | None = None,
    title: str = "eigenvalues of the classes",
) -> Figure:
    """Eigenvalues of all classes by rank among their sign: a thin line each and their mean.

    The control, such as an untrained classifier, is scaled to the same norm and drawn dashed.
    """
    figure = Drawing(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.add_subplot()
    size = float(eigen.values.norm(dim=1).mean())
    for sign, color, name in ((1, POSITIVE, "positive"), (-1, NEGATIVE, "negative")):
        sizes = _one_sign(eigen.values, sign)
        ranks = range(1, sizes.shape[1] + 1)
        for row in sizes.tolist():
            axes.plot(ranks, [sign * each for each in row], color=color, linewidth=0.5, alpha=0.35)
        axes.plot(ranks, (sign * sizes.mean(0)).tolist(), color=color, linewidth=1.6, label=name)
        if control is not None:
            scale = size / float(control.values.norm(dim=1).mean().clamp(min=1e-30))
            mean = sign * scale * _one_sign(control.values, sign).mean(0)
            label = "control, same norm" if sign == 1 else None
            axes.plot(range(1, len(mean) + 1), mean.tolist(), "--", color=INK, linewidth=1, label=label)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="rank among its sign", ylabel="eigenvalue λ", title=title)
    _logarithmic(axes)
    axes.legend(fontsize=8)
    return figure


@styled
def rank_plot(ranks: RankAccuracy, title: str = "accuracy by eigenvectors kept a class") -> Figure:
    """Accuracy against the number of eigenvectors, beside random directions of what the classifier reads."""
    figure = Drawing(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(ranks.whole, color=INK, linewidth=0.8, linestyle=":", label="classifier")
    axes.plot(ranks.ks, ranks.accuracy.tolist(), color=POSITIVE, marker=".", label="eigenvectors")
    if len(ranks.random):
        low, high = (each.values.tolist() for each in (ranks.random.min(0), ranks.random.max(0)))
        axes.fill_between(ranks.ks, low, high, color=INK, alpha=0.2, linewidth=0)
        mean = ranks.random.mean(0).tolist()
        axes.plot(ranks.ks, mean, color=INK, marker=".", linewidth=1, label="random")
    axes.set(xlabel="directions kept a class", ylabel="accuracy", title=title, xscale="log")
    axes.set_ylim(0, 1.02)
    axes.set_xticks(ranks.ks, [str(k) for k in ranks.ks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.93))
    return figure


@styled
def explanation_plot(
    explanation: Explanation,
    image: Float[Tensor, "height width"],
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """One image, the eigenvectors that decide about it, and the parts of the logit or margin as bars."""
    if image.ndim != 2 or image.numel() != explanation.vectors.shape[1]:
        raise InputError(
            f"an image {list(image.shape)}; expected height and width, {explanation.vectors.shape[1]} pixels"
        )
    vectors = explanation.vectors.unflatten(-1, image.shape)
    figure = Drawing(figsize=(6.8, 1.0 + 0.22 * (len(vectors) + 3)), layout="constrained")
    ((left, right),) = figure.subfigures(1, 2, width_ratios=(1.15, 1), squeeze=False)
    first, *tiles = left.subplots(3, 3).flat
    first.imshow(image.cpu().numpy(), cmap="Greys")
    first.set_title("image", fontsize=8, pad=2)
    first.set_xticks([])
    first.set_yticks([])
    values, terms = explanation.values.tolist(), explanation.terms.tolist()
    for i, axes in enumerate(tiles):
        axes.axis("off")
        if i < len(vectors):
            signed_image(axes, vectors[i], f"{i + 1}: λ {_signed(values[i])}")
    axes = right.add_subplot()
    parts = {
        f"{i}: λ {_signed(value)}": term for i, (value, term) in enumerate(zip(values, terms, strict=True), 1)
    }
    parts |= {"other eigenvectors": explanation.rest}
    if explanation.linear or explanation.constant:
        parts |= {"linear": explanation.linear, "constant": explanation.constant}
    sizes = list(parts.values())
    axes.barh(range(len(parts)), sizes, color=[POSITIVE if size > 0 else NEGATIVE for size in sizes])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(parts)), list(parts), fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=f"part of {explanation.total:.3g}", title=_of_what(explanation, names))
    return figure


@styled
def radii_plot(radii: Radii, title: str = "how far an image keeps its label") -> Figure:
    """The share of images that keep their label, by distance: certified, under the attack, at random."""
    figure = Drawing(figsize=(4.5, 2.8), layout="constrained")
    axes = figure.add_subplot()
    shares = torch.arange(len(radii.certified), 0, -1) / len(radii.certified)
    heights = [1.0, *shares.tolist()]  # from 0 on
    curves = {
        "certified": (radii.certified, POSITIVE, "-"),
        "attacked": (radii.attacked, NEGATIVE, "--"),
        "random directions": (radii.random, INK, ":"),
    }
    for name, (distances, color, style) in curves.items():
        axes.step([0.0, *distances.sort().values.tolist()], heights, style, color=color, label=name)
    finite = radii.random[radii.random.isfinite() & (radii.random > 0)]
    least = radii.certified[radii.certified > 0]
    if len(least) and len(finite):
        axes.set_xlim(float(least.quantile(0.02)) / 1.2, float(finite.quantile(0.98)) * 1.2)
        _logarithmic(axes)
    axes.set(xlabel="distance (2-norm)", ylabel="keep their label", title=title)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=8)
    return figure


def _one_sign(values: Float[Tensor, "n k"], sign: int) -> Float[Tensor, "n m"]:
    """The sizes of the eigenvalues of one sign, descending; 0 where a class has fewer than another."""
    sizes = (sign * values).clamp(min=0).sort(dim=1, descending=True).values
    return sizes[:, (sizes > 1e-3 * sizes.amax()).any(0)]


def as_images(
    vectors: Float[Tensor, "*axes n_pixels"], own: tuple[int, ...], given: tuple[int, int] | None
) -> Float[Tensor, "*axes height width"]:
    """Vectors as images: in the shape that is given, else their own; InputError where it is no such shape."""
    shape = own if given is None else tuple(given)
    if len(shape) != 2 or shape[0] * shape[1] != vectors.shape[-1]:
        raise InputError(
            f"images of {list(shape)} for {vectors.shape[-1]} pixels; expected height and width: give "
            "image_shape=(28, 28), say"
        )
    return vectors.unflatten(-1, shape)


def _tiles(rows: int, columns: int, gap_after: int) -> tuple[Figure, list[list[Axes]]]:
    """A grid of small axes with a gap after some columns."""
    widths = [1.0] * gap_after + [0.25] + [1.0] * (columns - gap_after)
    size = 0.4 + _TILE * (columns + 0.25), 0.3 + 1.02 * rows
    figure = Drawing(figsize=size, layout="constrained")
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for row in axes:
        row[gap_after].axis("off")
    return figure, [[*row[:gap_after], *row[gap_after + 1 :]] for row in axes]


def signed_image(axes: Axes, image: Float[Tensor, "height width"], title: str) -> None:
    """Draws an image blue where it is positive and orange where negative, on limits symmetric about 0."""
    limit = float(image.abs().max()) or 1.0
    axes.imshow(image.cpu().numpy(), cmap=_SIGNED, vmin=-limit, vmax=limit)
    axes.axis("on")
    _bare(axes)
    for spine in axes.spines.values():
        spine.set(visible=True, color=INK, linewidth=0.4)
    axes.set_title(title, fontsize=8, pad=2)


def _bare(axes: Axes) -> None:
    """Axes without ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}g}".replace("-", "−")


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis with ticks as numbers, not as powers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _row_name(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)


def class_name(label: int, names: Sequence[str] | None) -> str:
    """The name of a class, by default its number."""
    return str(label) if names is None else str(names[label])


def _of_what(explanation: Explanation, names: Sequence[str] | None) -> str:
    label, versus = class_name(explanation.label, names), explanation.versus
    if versus is None:
        return f"logit of {label}"
    return f"margin of {label} over {'the others' if versus == 'others' else class_name(int(versus), names)}"
