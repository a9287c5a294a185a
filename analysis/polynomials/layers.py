"""Polynomials in place of a language model's MLPs: R² by layer and degree, and the loss with them.

Each MLP is approximated at the site mlp-in, what it reads: by the closed-form least-squares polynomials under
a Gaussian with the mean and covariance measured there, and by least squares on the measured activations
themselves. (After Belrose and Rigg, arXiv 2502.01032.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.interventions.mlp import replaced_mlp
from analysis.text.windows import Windows, mean_loss, require_windows, window_batches
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.mlps import mlp_module, n_layers
from bilinear_lm.polynomials.approximate import approximate_layer
from bilinear_lm.polynomials.explained import explained_variance
from bilinear_lm.polynomials.measured import Moments, MomentSums, RSquared, fit_polynomial
from bilinear_lm.polynomials.polynomial import Polynomial
from bilinear_lm.shown import shown
from bilinear_lm.weights import mlp_weights

Activation = Callable[[Tensor], Tensor]


@shown
@dataclass(frozen=True)
class LayerPolynomials:
    """Polynomials of a model's MLPs, which read the site mlp-in, and how well they explain the outputs.

    R² is over all outputs of an MLP together; below 0 a constant is nearer.
    """

    layers: tuple[int, ...]
    degrees: tuple[int, ...]
    polynomials: tuple[tuple[Polynomial, ...], ...]
    """The closed forms under the measured Gaussian: for each layer one a degree."""
    gaussian: Float[Tensor, "layer degree"]
    """R² under the Gaussian itself, in closed form."""
    on_text: Float[Tensor, "layer degree"]
    """R² of the closed forms on held-out text."""
    fit_degrees: tuple[int, ...]
    fits: tuple[tuple[Polynomial, ...], ...]
    """The least squares on measured activations: for each layer one a degree of `fit_degrees`."""
    fits_on_text: Float[Tensor, "layer fit_degree"]
    """R² of the fits on held-out text."""
    n_tokens: int
    """Tokens at which moments and fits were measured."""


@checked
def approximate_layers(
    model: nn.Module,
    windows: Windows,
    held_out: Windows,
    *,
    degrees: Sequence[int] = (1, 2, 3, 4),
    fit_degrees: Sequence[int] = (1,),
    layers: Sequence[int] | None = None,
) -> LayerPolynomials:
    """The polynomials of the MLPs of a model, from activations on windows of a text, and their R² on others.

    MLPs have gates with any activation, or no gate (GPT-NeoX, GPT-2; see `bilinear_lm.mlps`). `layers` are
    all by default. Polynomials are in float32 at least. `degrees` are those of the closed
    forms, 0 to 16. `fit_degrees` are those of least squares on the activations, 1 or 2; degree 2 needs some
    d_model²/2 tokens and 4 d_model⁴ bytes (`bilinear_lm.polynomials.measured`). The model is read as often
    as there are fits and twice more.

    >>> found = approximate_layers(model, windows[:64], windows[64:])  # doctest: +SKIP
    >>> found.on_text[3]  # of layer 3, by degree  # doctest: +SKIP
    """
    there = n_layers(model)
    layers = list(range(there) if layers is None else layers)
    for layer in layers:
        require_index(layer, there, "layer")
    if not layers or not degrees:
        raise InputError(f"{len(layers)} layers and {len(degrees)} degrees; expected one or more of both")
    for text in (windows, held_out):
        require_windows(model, text)
    mlps = {layer: layer_weights(model, layer) for layer in layers}
    moments = mlp_input_moments(model, windows, layers)
    polynomials, gaussian, fits = [], [], []
    for layer, (weights, activation) in mlps.items():
        at = moments[layer]
        polynomials.append(
            [approximate_layer(weights, activation, degree=n, mean=at.mean, cov=at.cov) for n in degrees]
        )
        explained = explained_variance(weights, activation, degree=max(degrees), mean=at.mean, cov=at.cov)
        gaussian.append(explained.r_squared[list(degrees)].cpu())
        fits.append(
            [
                fit_polynomial(_points(model, windows, layer, weights, activation), degree).polynomial
                for degree in fit_degrees
            ]
        )
    both = [own + fitted for own, fitted in zip(polynomials, fits, strict=True)]
    r_squared = r_squared_on_text(model, held_out, mlps, dict(zip(layers, both, strict=True)))
    return LayerPolynomials(
        layers=tuple(layers),
        degrees=tuple(degrees),
        polynomials=tuple(map(tuple, polynomials)),
        gaussian=torch.stack(gaussian),
        on_text=r_squared[:, : len(degrees)],
        fit_degrees=tuple(fit_degrees),
        fits=tuple(map(tuple, fits)),
        fits_on_text=r_squared[:, len(degrees) :],
        n_tokens=moments[layers[0]].count,
    )


@shown
@dataclass(frozen=True)
class ReplacementLosses:
    """The loss of a text with MLPs replaced, in nats per token."""

    layers: tuple[int, ...]
    whole: float
    """With the model as it is."""
    one: Float[Tensor, " layer"]
    """With each layer alone replaced."""
    all: float
    """With all of them replaced."""


@checked
def replacement_losses(
    model: nn.Module,
    windows: Windows,
    replacements: Mapping[int, Callable[[Tensor], Tensor]],
    whole: float | None = None,
) -> ReplacementLosses:
    """The mean loss over windows of a text with MLPs replaced, one at a time and all at once.

    `replacements` says for each layer what takes its place: a map of what the MLP reads, such as a polynomial
    of `approximate_layers`; `torch.zeros_like` is the control, a model without the layer. `whole` is the loss
    with nothing replaced, where it is known already.
    """
    if not replacements:
        raise InputError("no layers to replace; expected one or more")
    require_windows(model, windows, least=2)

    def loss(layers: Sequence[int]) -> float:
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(replaced_mlp(model, layer, replacements[layer], fold_norm=False))
            return mean_loss(model, windows)

    layers = tuple(replacements)
    one = torch.tensor([loss([layer]) for layer in layers], dtype=torch.float64)
    return ReplacementLosses(layers, loss([]) if whole is None else whole, one, loss(layers))


def layer_weights(model: nn.Module, layer: int) -> tuple[GLUWeights, Activation]:
    """Weights and activation of an MLP, in float32 at least."""
    weights, activation = mlp_weights(model, layer, fold_norm=False)
    return weights.to(torch.promote_types(weights.W_gate.dtype, torch.float32)), activation


def _inputs(
    model: nn.Module, windows: Windows, layers: Sequence[int]
) -> Iterator[dict[int, Float[Tensor, "_batch pos d_model"]]]:
    """Inputs of the MLPs of layers on the windows, batch by batch."""
    seen: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:

            def note(_: nn.Module, args: tuple[Any, ...], layer: int = layer) -> None:
                seen[layer] = args[0]

            hook = mlp_module(model, layer).register_forward_pre_hook(note)
            stack.callback(hook.remove)
        for _, ids in window_batches(model, windows):
            with torch.inference_mode():
                model(input_ids=ids)
            yield dict(seen)


def mlp_input_moments(model: nn.Module, windows: Windows, layers: Sequence[int]) -> dict[int, Moments]:
    """Mean and covariance of what the MLPs of layers read on the windows, in one pass."""
    sums = {layer: MomentSums() for layer in layers}
    for seen in _inputs(model, windows, layers):
        for layer, x in seen.items():
            sums[layer].add(x)
    return {layer: each.moments() for layer, each in sums.items()}


def _points(
    model: nn.Module, windows: Windows, layer: int, weights: GLUWeights, activation: Activation
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and outputs of an MLP on the windows, batch by batch."""
    for seen in _inputs(model, windows, [layer]):
        with torch.no_grad():
            x = seen[layer].to(weights.W_gate.dtype)
            yield x, weights.output(x, activation)


def r_squared_on_text(
    model: nn.Module,
    windows: Windows,
    mlps: Mapping[int, tuple[GLUWeights, Activation]],
    replacements: Mapping[int, Sequence[Callable[[Tensor], Tensor]]],
) -> Float[Tensor, "layer replacement"]:
    """R² of maps of what MLPs read, for each MLP equally many, against its outputs on the windows."""
    sums = {layer: [RSquared() for _ in each] for layer, each in replacements.items()}
    for seen in _inputs(model, windows, list(mlps)):
        for layer, (weights, activation) in mlps.items():
            x = seen[layer].to(weights.W_gate.dtype)
            with torch.no_grad():
                y = weights.output(x, activation)
            for replacement, count in zip(replacements[layer], sums[layer], strict=True):
                count.add(y, replacement(x))
    return torch.tensor([[count.value for count in row] for row in sums.values()], dtype=torch.float64)
