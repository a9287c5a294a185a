"""Figures of polynomials in place of MLPs: by layer, and over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter
from torch import Tensor

from analysis.plots import INK, Drawing, styled
from analysis.polynomials.layers import LayerPolynomials, ReplacementLosses
from analysis.polynomials.training import TrainingPolynomials

LOWEST = -0.5
"""The lowest R² that is drawn."""


@styled
def polynomial_plot(
    found: LayerPolynomials,
    losses: Mapping[str, ReplacementLosses],
    title: str = "polynomials in place of MLPs",
) -> Figure:
    """Left, R² of the closed forms by layer, on text and dashed under the Gaussian; right, the loss with a
    layer replaced and with all.

    `losses` are by what takes the MLPs' place: the closed form of each degree, the fit of each, and nothing.
    """
    figure = Drawing(figsize=(7.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    degrees = sorted({*found.degrees, *found.fit_degrees})
    colors = dict(zip(degrees, shades(len(degrees)), strict=True))
    places = range(len(found.layers))
    for index, degree in enumerate(found.degrees):
        style = {"color": colors[degree], "marker": ".", "linewidth": 1.2}
        left.plot(places, found.on_text[:, index].tolist(), **style)
        left.plot(places, found.gaussian[:, index].tolist(), **style | {"linestyle": "--", "linewidth": 0.8})
    left.set_xticks(places, [str(layer) for layer in found.layers])
    _r_squared_axis(left, [*found.on_text.flatten().tolist(), *found.gaussian.flatten().tolist()])
    left.set(xlabel="layer", ylabel="R² (dashed: Gaussian)")
    looks = [(colors[degree], ".") for degree in found.degrees]
    looks += [(colors[degree], "x") for degree in found.fit_degrees] + [(INK, "_")]
    for (color, marker), (name, each) in zip(looks, losses.items(), strict=True):
        columns, heights = [*places, len(places)], [*each.one.tolist(), each.all]
        right.plot(columns, heights, marker, color=color, label=name, markersize=6)
        right.axhline(each.whole, color=INK, linewidth=0.6)
    right.set_xticks([*places, len(places)], [*(str(layer) for layer in found.layers), "all"])
    right.set(yscale="log", xlabel="layer replaced", ylabel="nats per token (line: whole)")
    right.yaxis.set_major_locator(MaxNLocator(5))
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    right.yaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", fontsize=8, ncols=4)
    figure.suptitle(title, fontsize=10)
    return figure


@styled
def training_plot(found: TrainingPolynomials, title: str = "polynomials of MLPs over training") -> Figure:
    """R² of every degree against the step, a line a layer, on text and dashed under the Gaussian."""
    figure = Drawing(figsize=(2.6 * len(found.degrees) + 1.2, 2.9), layout="constrained")
    panels = figure.subplots(1, len(found.degrees), sharey=True, squeeze=False)[0]
    values = [*found.on_text.flatten().tolist(), *found.gaussian.flatten().tolist()]
    for index, (axes, degree) in enumerate(zip(panels, found.degrees, strict=True)):
        for layer, color in enumerate(shades(len(found.layers))):
            name = f"layer {found.layers[layer]}"
            step_curve(axes, found.steps, found.on_text[:, layer, index], color, label=name)
            step_curve(axes, found.steps, found.gaussian[:, layer, index], color, linestyle="--")
        axes.set_title(f"degree {degree}")
        _r_squared_axis(axes, values)
    panels[0].set_ylabel("R² (dashed: Gaussian)")
    if len(found.layers) > 1:
        panels[-1].legend(fontsize=7, loc="lower right", ncols=1 + len(found.layers) // 8)
    figure.suptitle(title, fontsize=10)
    return figure


def step_curve(
    axes: Axes,
    steps: Sequence[int],
    values: Float[Tensor, " step"],
    color: str,
    linestyle: str = "-",
    label=None,
) -> None:
    """Draws values against steps, which are equally far apart as they double."""
    width = 1.2 if linestyle == "-" else 0.8
    axes.plot(
        steps, values.tolist(), color=color, marker=".", linestyle=linestyle, linewidth=width, label=label
    )
    axes.set_xscale("symlog", linthresh=1, base=2)
    axes.set_xticks(_ticks(steps), [str(step) for step in _ticks(steps)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("step")


def _ticks(steps: Sequence[int], most: int = 7) -> list[int]:
    """The steps, thinned to a few, the last among them."""
    return list(steps)[:: -max(1, -(-len(steps) // most))][::-1]


def _r_squared_axis(axes: Axes, values: Sequence[float]) -> None:
    least = min([value for value in values if value == value], default=0.0)
    axes.set_ylim(max(LOWEST, min(0.0, least)) - 0.03, 1.03)
    axes.axhline(0, color=INK, linewidth=0.8)


def shades(n: int) -> list[str]:
    """Colours from light to dark."""
    places = torch.linspace(0.85, 0.1, n).tolist() if n > 1 else [0.35]
    return [matplotlib.colors.to_hex(matplotlib.colormaps["viridis"](place)) for place in places]
