"""The part of a page about a model that is not bilinear: its quadratics, and how far they go."""

from __future__ import annotations

import math
from html import escape

from analysis.polynomials.quadratic_model import QuadraticModel


def quadratic_lead(quadratic: QuadraticModel) -> str:
    """How much of the variance and of the loss the quadratics explain, as the first sentences of the page."""
    r_squared, keep = float(quadratic.r_squared.mean()), _share(quadratic.explained_loss)
    return (
        f"The gates of its MLPs have an activation ({escape(quadratic.activation)}), so each is read "
        f"through the nearest quadratic. On other text they explain {_share(r_squared)} of the variance, "
        f'and <a href="#quadratics">keep {keep}</a> of what the MLPs do for the loss: what follows is exact '
        "for the quadratics, and holds for the model as far as that."
    )


def quadratic_table(quadratic: QuadraticModel) -> str:
    """How much of the variance and of the loss the quadratics explain, in words and by layer."""
    losses, r_squared = quadratic.losses, quadratic.r_squared
    least, most, mean = (_share(float(each)) for each in (r_squared.min(), r_squared.max(), r_squared.mean()))
    keep, nothing = _share(quadratic.explained_loss), quadratic.without.all
    return (
        '<section id="quadratics"><h3>How far the quadratics go</h3><p class="prose">The MLPs of this model '
        f"are not bilinear: their gates have an activation ({escape(quadratic.activation)}). This page reads "
        "each through the nearest <em>quadratic</em>. On text that they were not made from, the quadratics "
        f"explain {least} to {most} of the variance of an MLP's outputs (mean {mean}). With quadratics in "
        f"place of all MLPs the loss is {losses.all:.3f} nats per token instead of {losses.whole:.3f}, and "
        f"{nothing:.3f} with nothing in their place: they keep {keep} of what the MLPs do for the loss. "
        "Weights, features and graphs are read exactly from the quadratics, and hold for the model as far as "
        f"these numbers go.</p>{_table(quadratic)}</section>"
    )


def _table(quadratic: QuadraticModel) -> str:
    names = ("Layer", "Variance explained", "Loss, quadratic", "Loss, nothing", "Loss explained")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    columns = zip(
        quadratic.losses.layers,
        quadratic.r_squared.tolist(),
        quadratic.losses.one.tolist(),
        quadratic.without.one.tolist(),
        quadratic.explained_losses,
        strict=True,
    )
    rows = "".join(
        f'<tr><th scope="row"><a href="#layer-{layer}">{layer}</a></th><td>{_share(r_squared)}</td>'
        f"<td>{replaced:.3f}</td><td>{without:.3f}</td><td>{_share(share)}</td></tr>"
        for layer, r_squared, replaced, without, share in columns
    )
    return (
        '<div class="scroll"><table class="summary"><caption>Each MLP replaced, the others as they are. '
        f"Loss in nats per token on {quadratic.n_held_out:,} tokens; the quadratics are made from the inputs "
        f"at {quadratic.n_tokens:,} others.</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        "</table></div>"
    )


def _share(share: float) -> str:
    """A share in percent; a dash where there is none."""
    return f"{share:.0%}" if math.isfinite(share) else "–"
