"""Small figures as HTML and inline SVG, coloured by the page's own variables.

An SVG here is stretched to the width that it is given, so that it holds shapes alone; words and numbers stand
beside it as HTML, which does not stretch. Marks have titles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.report.html import signed

WIDTH, HEIGHT = 100, 40
"""The coordinates of a drawing."""

N_BINS = 30

N_NAMED = 12
"""Eigenvalues of each sign whose points have titles."""

N_POINTS = 80
"""Points of a line, about; on a logarithmic axis more cannot be told apart."""


@dataclass(frozen=True)
class Row:
    """One bar of a comparison."""

    label: str
    value: float
    told: str
    """The value in words."""
    is_null: bool = False
    """Whether it is what the others are read beside."""


def compared(rows: Sequence[Row]) -> str:
    """Numbers as bars below each other, on one scale; negative ones go to the left from a common zero."""
    low, high = min(0.0, *(row.value for row in rows)), max(0.0, *(row.value for row in rows))
    span = (high - low) or 1.0
    lines = []
    for row in rows:
        start, length = (min(row.value, 0.0) - low) / span, abs(row.value) / span
        kind = "null" if row.is_null else "p" if row.value >= 0 else "n"
        lines.append(
            f'<div class="row"><dt>{escape(row.label)}</dt><dd><span class="track" aria-hidden="true">'
            f'<i class="{kind}" style="--start:{start:.1%};--length:{length:.1%}"></i></span>'
            f"<span>{escape(row.told)}</span></dd></div>"
        )
    return f'<dl class="compared">{"".join(lines)}</dl>'


def histogram(
    values: Float[Tensor, " n"], others: Float[Tensor, " m"], low: float, high: float, says: str
) -> str:
    """The distribution of values as bars, with that of others as a line over them, and a hidden mark.

    Each is drawn as parts of its own number; what lies outside of low to high is in the bins at the ends.
    """
    parts, over = (_parts(side, low, high) for side in (values, others))
    tallest = max(float(torch.cat([parts, over]).max()), 1e-9)
    step, width = (high - low) / N_BINS, WIDTH / N_BINS
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{HEIGHT * (1 - part / tallest):.2f}" width="{width * 0.9:.2f}" '
        f'height="{HEIGHT * part / tallest:.2f}"><title>{low + i * step:.3g} to {low + (i + 1) * step:.3g}: '
        f"{part:.1%}</title></rect>"
        for i, part in enumerate(parts.tolist())
        if part
    )
    heights = [HEIGHT * (1 - part / tallest) for part in over.tolist()]
    steps = "".join(f"V{height:.2f}H{(i + 1) * width:.2f}" for i, height in enumerate(heights))
    outline = f'<path class="null" d="M0 {HEIGHT}{steps}V{HEIGHT}"/>' if len(others) else ""
    mark = f'<line class="mark" x1="0" x2="0" y1="0" y2="{HEIGHT}" visibility="hidden"/>'
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(says)}" data-low="{low:.4g}" data-high="{high:.4g}">{bars}{outline}{mark}</svg>'
    )


def _parts(values: Float[Tensor, " n"], low: float, high: float) -> Float[Tensor, " bins"]:
    """The part of the values in each bin."""
    places = ((values.double() - low) / ((high - low) or 1.0) * N_BINS).long().clamp(0, N_BINS - 1)
    return torch.bincount(places.cpu(), minlength=N_BINS) / max(1, len(values))


def spectrum(values: Float[Tensor, " k"], marked: int, says: str) -> str:
    """Eigenvalues by their rank among those of their sign: positive ones upwards, negative ones downwards.

    Ranks are on a logarithmic axis. `marked` numbers that many of the largest by magnitude.
    """
    sides: list[list[float]] = [
        [value for value in (values * sign).sort(descending=True).values.tolist() if value > 0]
        for sign in (1, -1)
    ]
    longest = max(2, *map(len, sides))
    top, bottom = (side[0] if side else 0.0 for side in sides)
    span = (top + bottom) or 1.0
    zero = HEIGHT * top / span

    def place(rank: int) -> float:
        return 2 + (WIDTH - 4) * math.log(rank) / math.log(longest)

    def height(value: float) -> float:
        return zero - HEIGHT * value / span

    shapes = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{zero:.2f}" y2="{zero:.2f}"/>']
    for kind, sign, side in (("p", 1, sides[0]), ("n", -1, sides[1])):
        if not side:
            continue
        line = "L".join(
            f"{place(rank):.2f} {height(sign * side[rank - 1]):.2f}" for rank in _spread(len(side))
        )
        last = place(len(side))
        shapes.append(
            f'<path class="{kind} area" d="M{place(1):.2f} {zero:.2f}L{line}L{last:.2f} {zero:.2f}Z"/>'
        )
        shapes.append(f'<path class="{kind} line" d="M{line}"/>')
        shapes += [
            _dot(kind, place(rank), height(sign * value), f"{rank}: λ = {signed(sign * value)}")
            for rank, value in enumerate(side[:N_NAMED], start=1)
        ]
    largest = values[values.abs().argsort(descending=True)[:marked]].tolist()
    ranks = [[other > 0 for other in largest[: i + 1]].count(value > 0) for i, value in enumerate(largest)]
    names = [
        _mark(place(rank), height(value), str(i))
        for i, (rank, value) in enumerate(zip(ranks, largest, strict=True), start=1)
    ]
    ticks = [f'<span style="left:{place(rank):.1f}%">{rank}</span>' for rank in _ticks(longest)]
    ends = "".join(
        f'<span style="top:{100 * height(value) / HEIGHT:.1f}%">{signed(value)}</span>'
        for value in (top, -bottom)
        if value
    )
    return (
        f'<div class="spectrum" role="img" aria-label="{escape(says)}"><div class="values">{ends}</div>'
        f'<div class="area"><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">'
        f'{"".join(shapes)}</svg>{"".join(names)}</div><div class="ranks">{"".join(ticks)}</div></div>'
    )


def _spread(n: int) -> Iterable[int]:
    """Ranks 1 to n, evenly spread on a logarithmic axis where there are more than fit."""
    steps = (round(n ** (i / N_POINTS)) for i in range(N_POINTS + 1))
    return sorted({rank for rank in steps if 1 <= rank <= n} | {1, n})


def _ticks(longest: int) -> list[int]:
    powers = [10**power for power in range(len(str(longest)))]
    return [step * power for power in powers for step in (1, 2, 5) if step * power <= longest]


def _dot(kind: str, x: float, y: float, title: str) -> str:
    """A line without length and with round ends: a circle that does not stretch with the drawing."""
    return f'<path class="{kind} dot" d="M{x:.2f} {y:.2f}h0"><title>{escape(title)}</title></path>'


def _mark(x: float, y: float, text: str) -> str:
    return f'<span class="mark" style="left:{x:.1f}%;top:{100 * y / HEIGHT:.1f}%">{text}</span>'
