"""Polynomials of a model's MLPs over its training: R² by step, layer and degree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.polynomials.layers import LayerPolynomials, approximate_layers
from analysis.text.windows import Windows, mean_loss
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class TrainingPolynomials:
    """How well polynomials explain the MLPs of a model at steps of its training.

    Means and covariances are those of each step's own activations; R² is as in `LayerPolynomials`.
    """

    steps: tuple[int, ...]
    layers: tuple[int, ...]
    degrees: tuple[int, ...]
    gaussian: Float[Tensor, "step layer degree"]
    """R² of the closed forms under the measured Gaussian."""
    on_text: Float[Tensor, "step layer degree"]
    """R² of the closed forms on held-out text."""
    losses: Float[Tensor, " step"]
    """Loss of the models on held-out text, in nats per token."""


@checked
def approximate_training(
    model_at: Callable[[int], nn.Module],
    steps: Sequence[int],
    windows: Windows,
    held_out: Windows,
    *,
    degrees: Sequence[int] = (1, 2),
    layers: Sequence[int] | None = None,
) -> TrainingPolynomials:
    """R² of the closed-form polynomials of the MLPs of one model at several steps.

    `model_at(step)` is the model then, called once a step; one model is needed at a time. (After Belrose and
    Rigg, arXiv 2502.01032, section 4, who follow classifiers of images.)

    >>> there = find_checkpoints("OUTPUT").steps  # of train --keep-checkpoints log  # doctest: +SKIP
    >>> at = lambda step: load_pretrained(there[step])  # doctest: +SKIP
    >>> found = approximate_training(at, list(there), windows, held_out)  # doctest: +SKIP
    >>> found.on_text[-1]  # of the last step, [layer, degree]  # doctest: +SKIP
    """
    losses: list[float] = []
    found: list[LayerPolynomials] = []
    for step in steps:
        model = model_at(step)
        at = approximate_layers(model, windows, held_out, degrees=degrees, fit_degrees=(), layers=layers)
        if found and at.layers != found[0].layers:
            raise InputError(
                f"step {step} has {len(at.layers)} layers, step {steps[0]} {len(found[0].layers)}; expected "
                "checkpoints of one model"
            )
        found.append(at)
        losses.append(mean_loss(model, held_out))
    if not found:
        raise InputError("no steps; expected one or more")
    return TrainingPolynomials(
        steps=tuple(steps),
        layers=found[0].layers,
        degrees=tuple(degrees),
        gaussian=torch.stack([at.gaussian for at in found]),
        on_text=torch.stack([at.on_text for at in found]),
        losses=torch.tensor(losses, dtype=torch.float64),
    )
