"""Matplotlib figures of graphs put to the test; in the style of `analysis.plots`."""

from __future__ import annotations

from matplotlib.figure import Figure

from analysis.causal import CausalCheck
from analysis.plots import INK, NEGATIVE, POSITIVE, dots, styled


@styled
def causal_plot(check: CausalCheck, title: str = "interventions on nodes") -> Figure:
    """Left, the target's change as measured against that predicted by the graph, a dot a trial, with the
    diagonal of equal ones; right, how large it is beside that by random nodes of equal weight."""
    figure = Figure(figsize=(6.8, 3.2), layout="constrained")
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
