"""The course of a run as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def loss_figure(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the loss of a log against tokens into a PNG file; where gates were annealed, β beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    tokens = [entry["tokens"] / 1e6 for entry in log]
    axes.plot(tokens, [entry["loss"] for entry in log], color="#2b5c8a", linewidth=1.4)
    axes.set_xlabel("million tokens")
    axes.set_ylabel("training loss")
    axes.spines[["top", "right"]].set_visible(False)
    if any(entry["linearity"] is not None for entry in log):
        beside = axes.twinx()
        betas = [1 - (entry["linearity"] or 0.0) for entry in log]
        beside.plot(tokens, betas, color="#b5532a", linewidth=1.2, linestyle="--")
        beside.set_ylabel("β (1: as before, 0: linear)", color="#b5532a")
        beside.set_ylim(-0.03, 1.03)
        beside.spines["top"].set_visible(False)
    figure.savefig(path, dpi=150)
