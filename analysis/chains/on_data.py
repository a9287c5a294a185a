"""How far two chains agree on points: the error on data, beside that of their tensors.

The norm of a tree counts inputs of all its legs that no image puts there, since an image is the same at
every leg. What a cut costs on images can be more or less than its share of the norm, and is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.chains.chain import Chain
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.measured import RSquared
from bilinear_lm.shown import shown

PIECE = 4096
"""Points that go through the chains at once."""


@shown
@dataclass(frozen=True)
class Agreement:
    """Logits of a chain beside those of another in its place."""

    r_squared: float
    """1 − Σ‖f − g‖² / Σ‖f − mean f‖² of the logits f, g."""
    same: float
    """The share of points with the same largest logit."""
    accuracies: tuple[float, float] | None
    """The share of points whose largest logit is that of their label, of both; None without labels."""


@checked
def agreement(
    chain: Chain, other: Chain, x: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
) -> Agreement:
    """How well the logits of `other` are those of `chain` on points x, which may leave the constant out.

    >>> agreement(chain, diagonalise(chain).truncate((64, 64, 32, 10)), images, labels)  # doctest: +SKIP
    Agreement(r_squared=0.9971, same=0.9934, accuracies=(0.9806, 0.9795))
    """
    if not len(x):
        raise InputError("the agreement of chains on no points; expected one or more")
    if labels is not None and labels.shape != x.shape[:1]:
        raise InputError(f"labels {list(labels.shape)} for {len(x)} points; expected one for each")
    r_squared, chosen = RSquared(), []
    for piece in x.split(PIECE):
        f, g = chain(piece), other(piece)
        if f.shape != g.shape:
            raise InputError(f"chains with {f.shape[-1]} and {g.shape[-1]} outputs; expected the same")
        r_squared.add(f, g)
        chosen.append(torch.stack([f.argmax(-1), g.argmax(-1)]))
    ours, theirs = torch.cat(chosen, dim=1)
    accuracies = None if labels is None else (_share(ours == labels), _share(theirs == labels))
    return Agreement(r_squared.value, _share(ours == theirs), accuracies)


def _share(true: Tensor) -> float:
    return float(true.double().mean())
