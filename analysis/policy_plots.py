"""Figures of policies: what dropped terms cost a probe, and what few eigenvectors earn."""

from __future__ import annotations

from matplotlib.figure import Figure

from analysis.colours import NEGATIVE, POSITIVE
from analysis.convolutions.probes import TermCurve
from analysis.plots import INK, Drawing, styled
from analysis.policies.truncation import TruncationCurve


@styled
def dropping_plot(
    dropped: TermCurve,
    turned: TermCurve,
    varied: TermCurve,
    noise: TermCurve,
    title: str = "terms dropped by weight",
) -> Figure:
    """AUC against terms dropped, beside four controls; ranges over draws are shaded."""
    figure = Drawing(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(dropped.counts))
    controls = {
        "other terms of the sum": (dropped.control, INK, "-"),
        "turned filters, same spectrum": (turned.control, NEGATIVE, "-"),
        "turned filters, same variance": (varied.control, NEGATIVE, ":"),
        "noise, same variance": (noise.control, INK, ":"),
    }
    for name, (curves, color, style) in controls.items():
        low, high = curves.min(0).values.tolist(), curves.max(0).values.tolist()
        axes.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
        axes.plot(places, curves.mean(0).tolist(), color=color, linestyle=style, linewidth=1.2, label=name)
    axes.plot(places, dropped.auc.tolist(), color=POSITIVE, marker=".", label="strongest terms")
    axes.axhline(0.5, color=INK, linewidth=0.6, linestyle=":")
    axes.set(xlabel="terms dropped", ylabel="AUC of the probe", title=title)
    axes.set_xticks(places, [str(count) for count in dropped.counts.tolist()])
    axes.legend(fontsize=7, loc="lower left")
    return figure


@styled
def truncation_curve_plot(curve: TruncationCurve, title: str = "few eigenvectors an action") -> Figure:
    """Return against the eigenvectors that each action's logit is made of; the whole policy and chance."""
    figure = Drawing(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(curve.counts))
    axes.plot(places, curve.returns, color=POSITIVE, marker=".")
    across = axes.get_yaxis_transform()
    for played, name, style in ((curve.whole, "all", "-"), (curve.random, "chance", ":")):
        axes.axhline(played.mean_return, color=INK, linewidth=0.8, linestyle=style)
        axes.text(0.01, played.mean_return, name, transform=across, va="bottom", color=INK)
    axes.set(xlabel="eigenvectors an action", ylabel="return of an episode", title=title)
    axes.set_ylim(0, 10.4)
    axes.set_xticks(places, [str(count) for count in curve.counts])
    return figure
