"""Plotly figures of the results of analyses.

Their backgrounds are transparent and their text is grey, so that they can be read on light and on dark pages.
"""

from __future__ import annotations

import html
import math

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from analysis.colours import NEGATIVE, POSITIVE

INK = "#808080"

_GRID = "rgba(128, 128, 128, 0.22)"


def spectrum_figure(values: Float[Tensor, " k"], marked: int = 0) -> go.Figure:
    """Eigenvalues by their rank: positive ones above the axis, negative ones below, largest first.

    `marked` numbers that many of the largest by magnitude.
    """
    figure = go.Figure()
    longest = 2
    for sign, name, color in ((1, "positive", POSITIVE), (-1, "negative", NEGATIVE)):
        sizes = (values * sign).sort(descending=True).values
        heights = _short(sizes[sizes > 0] * sign)
        longest = max(longest, len(heights))
        figure.add_scatter(
            x=list(range(1, len(heights) + 1)),
            y=heights,
            name=name,
            mode="lines+markers",
            line={"color": color, "width": 1.5},
            marker={"size": 4},
            fill="tozeroy",
            hovertemplate="%{y}<extra></extra>",
        )
    if marked:
        figure.add_trace(_marks(values, marked))
    last = math.log10(longest)
    ticks = [step * 10**power for power in range(len(str(longest))) for step in (1, 2, 5)]
    figure.update_xaxes(
        type="log", tickvals=ticks, range=[-0.03 * last, 1.02 * last], title="rank among its sign"
    )
    figure.update_yaxes(title="eigenvalue λ", zeroline=True)
    figure.update_layout(hovermode="x")
    return _calm(figure, height=250)


def _marks(values: Float[Tensor, " k"], count: int) -> go.Scatter:
    heights = _short(values[values.abs().argsort(descending=True)[:count]])
    positive = [height > 0 for height in heights]
    return go.Scatter(
        # Among its sign, an eigenvalue comes after the larger ones, which stand before it here.
        x=[positive[: i + 1].count(side) for i, side in enumerate(positive)],
        y=heights,
        mode="markers+text",
        marker={"color": [POSITIVE if side else NEGATIVE for side in positive], "size": 8},
        text=[str(i + 1) for i in range(len(heights))],
        textposition="middle right",
        textfont={"size": 14},
        cliponaxis=False,
        hoverinfo="skip",
    )


def strength_figure(labels: list[str], strengths: Float[Tensor, " n"]) -> go.Figure:
    """The strengths of named output directions as horizontal bars, first on top."""
    # Plotly reads markup in labels, so that they are escaped; two tokens may share a text, so that
    # positions and not texts are the axis.
    escaped = [html.escape(label, quote=False) for label in labels]
    heights = list(range(len(labels)))
    figure = go.Figure(
        go.Bar(
            x=_short(strengths),
            y=heights,
            orientation="h",
            marker_color=POSITIVE,
            hovertemplate="%{customdata}: %{x}<extra></extra>",
            customdata=escaped,
        )
    )
    figure.update_xaxes(title="strength")
    figure.update_yaxes(
        tickvals=heights, ticktext=escaped, autorange="reversed", showgrid=False, zeroline=False
    )
    return _calm(figure, height=60 + 21 * len(labels))


def _calm(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 8, "t": 12, "b": 42},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": INK, "size": 12, "family": "system-ui, sans-serif"},
        showlegend=False,
        dragmode=False,
        bargap=0.35,
    )
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID, fixedrange=True, title_standoff=6)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=INK, automargin=True, fixedrange=True)
    return figure


def _short(values: Float[Tensor, " k"]) -> list[float]:
    """Four digits of each: what a figure can show, in a fraction of the page."""
    return [float(f"{value:.4g}") for value in values.tolist()]
