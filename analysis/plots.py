"""Matplotlib figures of the results of analyses, for papers and files.

Every function returns a `matplotlib.figure.Figure` of its own, without pyplot and its global state, so that
figures can be made anywhere and are freed when they are let go. `save_figure` writes one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from torch import Tensor

from analysis.circuits.agreement import CausalCheck
from analysis.colours import NEGATIVE, POSITIVE
from analysis.features.explained import Explained
from analysis.features.submatrix import Submatrix
from analysis.interventions.interactions import AblationControl
from analysis.interventions.mlp import TruncationCosts
from analysis.text.tokens import TokenReading
from bilinear_lm.errors import InputError
from bilinear_lm.files import write_bytes

INK = "#606060"

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    # Labels are tokens and features' names: a dollar sign in them is no mathematics.
    "text.parse_math": False,
}


class Drawing(Figure):
    """A figure that a notebook shows as it is, without pyplot and its magic line."""

    def _repr_png_(self) -> bytes:
        return drawn(self, "png")


styled = matplotlib.rc_context(_STYLE)
"""Decorates a function that draws: the look of all figures."""


@styled
def spectrum_plot(values: Float[Tensor, " k"], title: str = "eigenvalues") -> Figure:
    """Eigenvalues by their rank among those of their sign: positive ones upwards, negative ones downwards."""
    figure, axes = _new(4.5, 2.8)
    for sign, color, name in ((1, POSITIVE, "positive"), (-1, NEGATIVE, "negative")):
        sizes = (values * sign).sort(descending=True).values
        heights = (sizes[sizes > 0] * sign).tolist()
        ranks = range(1, len(heights) + 1)
        axes.fill_between(ranks, heights, color=color, alpha=0.2, linewidth=0)
        axes.plot(ranks, heights, color=color, marker=".", markersize=4, linewidth=1, label=name)
    axes.axhline(0, color=INK, linewidth=0.8)
    if not values.any():  # without a point a logarithmic axis has no range
        axes.set_xlim(1, 10)
    axes.set(xscale="log", xlabel="rank among its sign", ylabel="eigenvalue λ", title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    _plain_ticks(axes)
    axes.legend()
    return figure


@styled
def reach_plot(
    possible: Float[Tensor, " n"],
    reached: Float[Tensor, " n"],
    title: str = "features: what is possible and what a text reaches",
) -> Figure:
    """The largest value that each feature can have, in descending order, and the largest it has on a text.

    `possible` is `certify_features(…).high`.
    """
    order = possible.argsort(descending=True)
    figure, axes = _new(4.5, 2.8)
    places = range(1, len(order) + 1)
    axes.plot(places, possible[order].tolist(), color=INK, linewidth=1.2, label="possible, from the weights")
    axes.plot(places, reached[order].tolist(), ".", color=POSITIVE, markersize=3, label="reached on the text")
    axes.set(xlabel="features, in order", ylabel="pre-activation", title=title)
    axes.set_ylim(bottom=min(0.0, float(reached.min())))
    axes.legend()
    return figure


@styled
def token_plot(reading: TokenReading, labels: Sequence[str], title: str = "eigenvector in tokens") -> Figure:
    """One direction in tokens: the highest scores as bars on top, the lowest at the bottom.

    `labels` are the texts of all tokens, by their ids.
    """
    if reading.top.ndim != 1:
        raise InputError(f"a reading of shape {list(reading.top.shape)}; expected that of one direction, [k]")
    tokens = [*reading.top.tolist(), *reading.bottom.tolist()[::-1]]
    scores = [*reading.top_scores.tolist(), *reading.bottom_scores.tolist()[::-1]]
    figure, axes = _new(3.6, 0.8 + 0.18 * len(tokens))
    # A gap between the two ends, where the rest of the vocabulary is.
    heights = [row + (row >= len(reading.top)) for row in range(len(tokens))]
    axes.barh(heights, scores, color=[POSITIVE if score > 0 else NEGATIVE for score in scores], height=0.7)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(heights, [labels[token] for token in tokens])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="v · token", title=title)
    return figure


@styled
def submatrix_plot(
    submatrix: Submatrix, labels: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Interactions between a few input features as a heat map, blue positive and orange negative.

    A cell is what the pair adds to the output where both codes are 1: Q_ii on the diagonal and 2 Q_ij beside
    it, the values of `strongest_interactions`. `labels` name the features in the order of the rows; by
    default they are numbers.
    """
    names = [str(feature) for feature in submatrix.features.tolist()] if labels is None else list(labels)
    many = len(names) > 20
    font = 6.5 if many else 9
    side = max(2.2, (0.15 if many else 0.22) * len(names))
    named = 0.6 * font / 72 * max(map(len, names), default=0)
    title = title or f"interactions into output feature {submatrix.output}"
    figure, axes = _new(max(side + named + 1.2, 0.085 * len(title)), side + named + 0.5)
    values = 2 * submatrix.matrix - submatrix.matrix.diagonal().diag()
    limit = float(values.abs().max()) or 1.0
    colors = matplotlib.colors.LinearSegmentedColormap.from_list("signed", [NEGATIVE, "white", POSITIVE])
    image = axes.imshow(values.cpu().numpy(), cmap=colors, vmin=-limit, vmax=limit)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=font)
    axes.set_yticks(ticks, names, fontsize=font)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="Q_ii, 2 Q_ij")
    bar.outline.set_visible(False)
    return figure


@styled
def correlation_plot(explained: Explained, title: str = "output features by their eigenvectors") -> Figure:
    """Median correlation against the number of eigenvectors, with the middle half of the features shaded."""
    figure, axes = _new(4.5, 2.8)
    curves = {
        "all tokens": (explained.all_tokens, INK),
        "active tokens": (explained.active_tokens, POSITIVE),
    }
    for name, (correlations, color) in curves.items():
        defined = correlations[~correlations.isnan().any(dim=1)]
        if not len(defined):
            continue
        levels = torch.tensor([0.25, 0.5, 0.75], dtype=defined.dtype)
        low, middle, high = defined.quantile(levels, dim=0).tolist()
        ranks = range(1, len(middle) + 1)
        axes.fill_between(ranks, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(ranks, middle, color=color, marker=".", label=f"{name} ({len(defined)} features)")
    axes.set(xlabel="eigenvectors", ylabel="correlation", title=title)
    axes.set_ylim(top=1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend(loc="lower right")
    return figure


@styled
def truncation_plot(costs: TruncationCosts, title: str = "loss of the truncated layer") -> Figure:
    """Loss against the rank that a layer is truncated to, between that of the whole and of no layer."""
    figure, axes = _new(4.5, 2.8)
    order = sorted(range(len(costs.ranks)), key=costs.ranks.__getitem__)
    losses = costs.losses.tolist()
    axes.plot([costs.ranks[i] for i in order], [losses[i] for i in order], color=POSITIVE, marker=".")
    axes.axhline(costs.whole, color=INK, linewidth=0.8)
    axes.axhline(costs.without, color=INK, linewidth=0.8, linestyle=":")
    across = axes.get_yaxis_transform()
    # Each at the end from which the curve is far.
    for height, name, x, side in (
        (costs.whole, "whole layer", 0.01, "left"),
        (costs.without, "no layer", 1, "right"),
    ):
        axes.text(x, height, name, transform=across, ha=side, va="bottom", color=INK)
    axes.set(xlabel="rank", ylabel="nats per token", title=title)
    if 0 in costs.ranks:
        axes.set_xscale("symlog", linthresh=1)
    else:
        axes.set_xscale("log")
    axes.set_xticks(costs.ranks)
    _plain_ticks(axes)
    return figure


@styled
def ablation_plot(control: AblationControl, title: str = "interactions taken out") -> Figure:
    """The change of activation and of loss by the strongest interactions, beside random ones.

    A dot is a window of the text, a bar the mean of all; random ones of all seeds are together.
    """
    figure = Drawing(figsize=(6.2, 2.8), layout="constrained")
    measures = {
        "activation_change": "relative change of activation",
        "loss_change": "change of loss (nats per token)",
    }
    for axes, (measure, name) in zip(figure.subplots(1, 2), measures.items(), strict=True):
        strongest = getattr(control.strongest, measure)
        others = [getattr(effect, measure) for effect in control.random]
        groups = [strongest, torch.cat(others) if others else strongest[:0]]
        dots(axes, groups, ("strongest", f"random ({len(others)} seeds)"))
        axes.set_ylabel(name)
    figure.suptitle(f"{len(control.interactions)} {title}", fontsize=10)
    return figure


def dots(axes: Axes, groups: Sequence[Tensor], names: Sequence[str]) -> None:
    """Draws groups of values as columns of dots, each with its name below."""
    for column, (values, color) in enumerate(zip(groups, (POSITIVE, INK), strict=True)):
        if len(values):
            # Spread evenly, so that dots of one height do not hide each other.
            spread = torch.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else torch.zeros(1)
            axes.scatter(
                (column + spread).tolist(), values.tolist(), s=8, alpha=0.4, color=color, linewidth=0
            )
            axes.hlines(float(values.mean()), column - 0.35, column + 0.35, color=color, linewidth=2)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Writes a figure as .png or .svg, whole or not at all."""
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise InputError(f"{path}: a figure is written as .png or .svg; name the file so")
    write_bytes(path, drawn(figure, path.suffix.removeprefix(".")))


@styled
def drawn(figure: Figure, kind: str) -> bytes:
    """The contents of a file of this kind."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=150)
    return file.getvalue()


def _plain_ticks(axes: Axes) -> None:
    """Ticks of a logarithmic axis as numbers, not as powers."""
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the style of all, sizes in inches."""
    figure = Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


@styled
def causal_plot(check: CausalCheck, title: str = "interventions on nodes") -> Figure:
    """Left, the target's change as measured against that predicted by the graph, a dot a trial, with the
    diagonal of equal ones; right, how large it is beside that by random nodes of equal weight."""
    figure = Drawing(figsize=(6.8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    measured = {
        "patterns and scales held": (check.held, check.correlation_held, POSITIVE),
        "all free": (check.free, check.correlation_free, NEGATIVE),
    }
    predicted = check.predicted.tolist()
    for name, (changes, correlation, color) in measured.items():
        label = f"{name} (r = {correlation:.2f})"
        left.scatter(predicted, changes.tolist(), s=14, alpha=0.7, color=color, linewidth=0, label=label)
    left.axline((0, 0), slope=1, color=INK, linewidth=0.8)
    left.set(xlabel="predicted change", ylabel="measured change")
    left.margins(0.08)
    figure.legend(loc="outside lower left", fontsize=8, ncols=2)
    groups = [check.free.abs().cpu(), check.control_free.abs().flatten().cpu()]
    dots(right, groups, ("nodes", f"random ({len(check.control_free)} each)"))
    right.set_ylabel("|change|, all free")
    figure.suptitle(f"{len(check.trials)} {title}", fontsize=10)
    return figure
