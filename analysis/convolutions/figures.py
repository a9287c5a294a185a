"""Figures of eigenfilters: the filters themselves, what they respond to in an image, and dropped terms."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analysis.colours import NEGATIVE, POSITIVE
from analysis.convolutions.filters import Eigenfilters, activation_maps
from analysis.convolutions.probes import TermCurve
from analysis.plots import INK, Drawing, styled
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError

MOST_CHANNELS = 16
"""Channels of a filter that are drawn, at most."""

MOST_COLUMNS = 8
"""Filters with one channel in a row, at most."""


@checked
@styled
def filter_plot(
    filters: Float[Tensor, "n c kh kw"],
    labels: Sequence[str] | None = None,
    title: str = "eigenfilters",
) -> Figure:
    """Filters as rows of images, one a channel, blue positive and orange negative.

    Filters of one channel stand side by side. The scale is one for each filter. Labels are by default their
    numbers; of `Eigenfilters` the eigenvalues say more.

    >>> filter_plot(torch.randn(4, 3, 3, 3)).get_suptitle()
    'eigenfilters, by input channel'
    """
    _require_axes(filters, "filters", 4, "[n, c, kh, kw]")
    names = _labels(labels, len(filters), "filters")
    if filters.shape[1] == 1:
        return _one_channel(filters.cpu().squeeze(1), names, title)
    channels = min(MOST_CHANNELS, filters.shape[1])
    figure = Drawing(figsize=(1.6 + 0.62 * channels, 0.55 + 0.62 * len(filters)), layout="constrained")
    grid = figure.subplots(len(filters), channels, squeeze=False)
    for row, filter_, name in zip(grid, filters.cpu(), names, strict=True):
        for axes, image in zip(row, filter_[:channels], strict=True):
            _signed(axes, image, _limit(filter_))
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for channel, axes in enumerate(grid[0]):
        axes.set_title(str(channel), fontsize=8)
    n = filters.shape[1]
    title += f", the first {channels} of {n} input channels" if n > channels else ", by input channel"
    figure.suptitle(title, fontsize=10)
    return figure


def _one_channel(filters: Float[Tensor, "n kh kw"], names: Sequence[str], title: str) -> Figure:
    """Filters of one channel side by side, in as many rows as they need."""
    columns = min(MOST_COLUMNS, len(filters))
    rows = -(-len(filters) // columns)
    figure = Drawing(figsize=(max(3.2, 1.0 * columns), 0.5 + 1.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, image, name in zip(grid[: len(filters)], filters, names, strict=True):
        _signed(axes, image, _limit(image))
        axes.set_title(name, fontsize=8)
    for axes in grid[len(filters) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure


@checked
@styled
def activation_plot(
    eigen: Eigenfilters,
    images: Float[Tensor, "n c h w"],
    *,
    k: int = 4,
    title: str = "activation maps λ (f ∗ x)²",
) -> Figure:
    """A few images, and beside each the activation maps of the first k eigenfilters of one direction.

    Blue adds to the direction, orange takes away; the last column is the layer's output along the direction.
    Maps and outputs of one image have one scale.
    """
    _require_axes(images, "images", 4, "[n, c, h, w]")
    _require_axes(eigen.values, "eigenvalues of one direction", 1, "[k]")
    require_count(k, f"k={k} maps", f"1 to {len(eigen.values)}", most=len(eigen.values))
    with torch.no_grad():
        maps, outputs = activation_maps(eigen, images)[:, :k].cpu(), eigen(images).cpu()
    columns = k + 2
    figure = Drawing(figsize=(0.3 + 1.15 * columns, 0.6 + 1.15 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), columns, squeeze=False)
    for row, image, map_, output in zip(grid, images.cpu(), maps, outputs, strict=True):
        _image(row[0], image)
        limit = _limit(torch.cat([map_.flatten(), output.flatten()]))
        for axes, values in zip(row[1:], (*map_, output), strict=True):
            _signed(axes, values, limit)
    headings = ["image", *(f"λ {value:+.3g}" for value in eigen.values[:k].tolist()), "output"]
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


@checked
@styled
def term_curve_plot(curves: dict[str, TermCurve], title: str = "terms of a probe") -> Figure:
    """AUC against the number of terms dropped or kept, a panel a curve: the terms, and control terms.

    Control terms are drawn as their mean and range. Dashed lines: all terms, and what is direct alone.
    """
    if not curves:
        raise InputError("no curves; expected one or more")
    figure = Drawing(figsize=(0.6 + 3.0 * len(curves), 2.9), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        places = range(len(curve.counts))
        axes.plot(places, curve.auc.tolist(), color=POSITIVE, marker=".", label="terms")
        if len(curve.control):
            low, mean, high = curve.control.amin(0), curve.control.mean(0), curve.control.amax(0)
            axes.fill_between(places, low.tolist(), high.tolist(), color=INK, alpha=0.2, linewidth=0)
            label = f"random terms ({len(curve.control)} seeds)"
            axes.plot(places, mean.tolist(), color=INK, marker=".", label=label)
        for level, word in ((curve.whole, "all"), (curve.direct, "direct")):
            axes.axhline(level, color=INK, linewidth=0.7, linestyle="--")
            axes.text(len(places) - 1, level, word, fontsize=7, color=INK, ha="right", va="bottom")
        axes.set_xticks(places, [str(count) for count in curve.counts.tolist()])
        axes.set(xlabel=f"terms {'kept' if curve.kept else 'dropped'}", title=name)
    panels[0].set_ylabel("AUC")
    panels[0].legend(fontsize=7, loc="lower left" if not next(iter(curves.values())).kept else "lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def _signed(axes: Axes, image: Tensor, limit: float) -> None:
    colors = matplotlib.colors.LinearSegmentedColormap.from_list("signed", [NEGATIVE, "white", POSITIVE])
    axes.imshow(image.numpy(), cmap=colors, vmin=-limit, vmax=limit)
    _frame(axes)


def _image(axes: Axes, image: Tensor) -> None:
    """An image: as it is where it has three channels from 0 to 1, else the mean of its channels in grey."""
    coloured = len(image) == 3 and float(image.min()) >= 0 and float(image.max()) <= 1
    axes.imshow(image.movedim(0, -1).numpy() if coloured else image.mean(0).numpy(), cmap="gray")
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_linewidth(0.5)


def _limit(values: Tensor) -> float:
    return float(values.abs().max()) or 1.0


def _labels(labels: Sequence[str] | None, n: int, what: str) -> list[str]:
    names = [str(index) for index in range(n)] if labels is None else list(labels)
    if len(names) != n:
        raise InputError(f"{len(names)} labels for {n} {what}; expected one each")
    return names


def _require_axes(values: Tensor, name: str, n_axes: int, expected: str) -> None:
    if values.ndim != n_axes or not values.numel():
        raise InputError(f"{name} {list(values.shape)}; expected {expected}, at least one")
