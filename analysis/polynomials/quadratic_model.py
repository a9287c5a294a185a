"""A language model read through quadratics: a copy whose MLPs are the bilinear layers nearest to its own.

The nearest quadratic of a gated MLP at Gaussian inputs is a bilinear layer of the same width with biases
(`bilinear_lm.bilinear_approximation`). With the mean and covariance that each MLP's inputs have on a text,
the copy can be read by every analysis of bilinear models. How far such a reading goes is measured on other
text: the variance of the MLPs' outputs that the quadratics explain, and the loss with them in place of MLPs.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.polynomials.layers import (
    Activation,
    ReplacementLosses,
    layer_weights,
    mlp_input_moments,
    r_squared_on_text,
    replacement_losses,
)
from analysis.text.windows import Windows, require_windows
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.glus import bilinear_glus, find_glus
from bilinear_lm.mlps import n_layers
from bilinear_lm.polynomials.bilinear import BilinearApproximation, bilinear_approximation
from bilinear_lm.polynomials.measured import Moments
from bilinear_lm.shown import Words, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@shown
@dataclass(frozen=True)
class QuadraticModel:
    """A bilinear copy of a model, and how much of the model it explains, all MLPs in order."""

    model: PreTrainedModel
    """The copy, in the precision and on the device of the model."""
    activation: str
    """The activation that the model's gates have."""
    r_squared: Float[Tensor, " layer"]
    """Share of the variance of each MLP's outputs on held-out text that its quadratic explains; below 0 a
    constant is nearer."""
    losses: ReplacementLosses
    """The loss on held-out text with quadratics in place of one MLP, and of all."""
    without: ReplacementLosses
    """The same with nothing in their place: the control."""
    n_tokens: int
    """Tokens at which the inputs' mean and covariance were measured."""
    n_held_out: int
    """Tokens on which R² and losses were measured."""

    @property
    def explained_loss(self) -> float:
        """Share of what MLPs do for the loss that quadratics keep, (nothing − all) / (nothing − whole)."""
        return _share(self.losses.all, self.without.all, self.losses.whole)

    @property
    def explained_losses(self) -> list[float]:
        """The same share for each MLP, the others as they are."""
        pairs = zip(self.losses.one.tolist(), self.without.one.tolist(), strict=True)
        return [_share(replaced, without, self.losses.whole) for replaced, without in pairs]

    def _first(self) -> dict[str, Words]:
        return {"explained_loss": Words(f"{self.explained_loss:.3f}")}


def _share(replaced: float, without: float, whole: float) -> float:
    return (without - replaced) / (without - whole) if without != whole else float("nan")


def is_bilinear(model: nn.Module) -> bool:
    """Whether every gated MLP of a model has a linear gate; InputError for a model with other MLPs."""
    glus = find_glus(model)
    return len(bilinear_glus(glus)) == len(glus)


@checked
def quadratic_model(model: PreTrainedModel, windows: Windows, held_out: Windows) -> QuadraticModel:
    """The bilinear copy of a model with gated MLPs, from their inputs on windows of a text.

    Each MLP is approximated at its inputs in the model as it is. The model itself stays as it is. It is read
    2 · (layers + 2) times on the held-out windows, and once on the others.

    Raises InputError for a model that is bilinear already, and for one whose MLPs have no gates.

    >>> quadratic = quadratic_model(model, windows[:80], windows[80:])  # doctest: +SKIP
    >>> mlp_tensor(quadratic.model, 3), quadratic.r_squared[3]  # doctest: +SKIP
    """
    for text in (windows, held_out):
        require_windows(model, text, least=2)
    if is_bilinear(model):
        raise InputError("the model is bilinear already; expected one whose gates have an activation")
    layers = range(n_layers(model))
    moments = mlp_input_moments(model, windows, layers)
    mlps = {layer: layer_weights(model, layer) for layer in layers}
    copy = deepcopy(model)
    tensors = {}
    for layer, glu in enumerate(find_glus(copy)):
        quadratic = _nearest(*mlps[layer], moments[layer])
        tensors[layer] = quadratic.tensor
        with torch.no_grad():
            glu.write(quadratic)
        glu.set_activation(nn.Identity())
    alone = {layer: [tensor] for layer, tensor in tensors.items()}
    return QuadraticModel(
        model=copy,
        activation=type(mlps[0][1]).__name__.removesuffix("Activation"),
        r_squared=r_squared_on_text(model, held_out, mlps, alone)[:, 0],
        losses=replacement_losses(model, held_out, tensors),
        without=replacement_losses(model, held_out, dict.fromkeys(layers, torch.zeros_like)),
        n_tokens=moments[0].count,
        n_held_out=sum(map(len, held_out)),
    )


def _nearest(weights: GLUWeights, activation: Activation, at: Moments) -> BilinearApproximation:
    assert weights.W_in is not None, "gated MLPs alone are approximated"
    into, biases = (weights.W_gate, weights.W_in), (weights.b_gate, weights.b_in, weights.b_out)
    return bilinear_approximation(*into, weights.W_out, activation, *biases, mean=at.mean, cov=at.cov)
