"""`bilinear-lm polynomial`: how well polynomials stand for a model's MLPs, and how that grew in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_lm.checks import require_count
from bilinear_lm.commands.arguments import DEFAULT_MODEL, Checkpoint, Output
from bilinear_lm.device import DeviceName, find_device
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder, require_new, told, versions_of_run, write_json
from bilinear_lm.shipped import shipped_scope
from bilinear_lm.text.files import read_plain_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from analysis.polynomials.layers import LayerPolynomials, ReplacementLosses
    from analysis.polynomials.training import TrainingPolynomials
    from analysis.text.held_out import SplitText


def polynomial(
    checkpoint: Checkpoint = DEFAULT_MODEL,
    /,
    *,
    output: Output,
    contexts: Path | None = None,
    degrees: tuple[int, ...] = (1, 2, 3, 4),
    fit_degrees: tuple[int, ...] = (1,),
    tokens: int = 50_000,
    device: DeviceName = "auto",
) -> None:
    """Approximate the MLPs of a model by polynomials, and measure R² and loss with these in their place.

    Writes polynomial.json (R² by layer and degree under the Gaussian of the measured inputs and on held-out
    text; the loss with each MLP replaced, with all, and without any) and polynomial.png. For a folder of
    checkpoints named by their steps, or a model with a folder `checkpoints` of these, training.json and
    training.png have R² against the step.

    Args:
        checkpoint: Folder, hub repository, or name of a shipped model; or a folder of checkpoints, such as
            train --keep-checkpoints writes.
        output: New folder for the results.
        contexts: Text file, documents separated by <|endoftext|>; a shipped model has its own. Moments and
            fits come from its first four fifths, R² and losses from the rest.
        degrees: Degrees of the closed forms, 0 to 16.
        fit_degrees: Degrees of least squares on the text itself, 1 or 2; of one model, not over training.
        tokens: At most so many tokens of the text are read.
        device: Where to compute.
    """
    from analysis.plots import save_figure
    from analysis.polynomial_plots import polynomial_plot, training_plot
    from analysis.text.held_out import split_text
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
    from bilinear_lm.checkpoints.steps import find_checkpoints

    degrees, fit_degrees = tuple(dict.fromkeys(degrees)), tuple(dict.fromkeys(fit_degrees))
    _require_degrees(degrees, fit_degrees)
    require_count(tokens, f"--tokens {tokens}", "at least 20", least=20)
    require_new(output)
    path, words = _text(checkpoint, contexts)
    where = find_device(device)
    there = find_checkpoints(checkpoint)
    source = checkpoint if there.is_model else str(list(there.steps.values())[-1])
    tokenizer, model = load_tokenizer(source), load_pretrained(source, device=where)
    text = split_text(model, tokenizer, words, tokens)
    settings = {
        "checkpoint": told(checkpoint),
        "text": told(path),
        "degrees": list(degrees),
        "fit_degrees": list(fit_degrees),
        "tokens": tokens,
    }
    begin = {"settings": settings, "versions": versions_of_run(), **text.record}
    records: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    if there.is_model:
        found, losses = _measure(model, text, degrees, fit_degrees)
        records["polynomial"], figures["polynomial"] = _record(found, losses), polynomial_plot(found, losses)
        _print_model(found, losses)
    if there.steps:
        from analysis.polynomials.training import approximate_training

        model_at = _loading(there.steps, tokenizer, where)
        course = approximate_training(
            model_at, list(there.steps), text.windows, text.held_out, degrees=degrees
        )
        records["training"], figures["training"] = _training_record(course), training_plot(course)
        _print_training(course)
    with new_folder(output) as draft:
        for name, record in records.items():
            write_json(draft / f"{name}.json", begin | record)
            save_figure(figures[name], draft / f"{name}.png")
    print(output)


def _require_degrees(degrees: Sequence[int], fit_degrees: Sequence[int]) -> None:
    from bilinear_lm.polynomials.polynomial import MOST_DEGREE

    if not degrees:
        raise InputError("no degrees of closed forms; expected one or more, such as --degrees 1 2")
    for degree in degrees:
        require_count(degree, f"--degrees {degree}", f"0 to {MOST_DEGREE}", least=0, most=MOST_DEGREE)
    for degree in fit_degrees:
        require_count(degree, f"--fit-degrees {degree}", "1 or 2", most=2)


def _text(checkpoint: str, contexts: Path | None) -> tuple[Path, str]:
    """The text's file and what it says."""
    path = contexts or shipped_scope(checkpoint)[1]
    if path is None:
        raise InputError(f"{checkpoint}: no text to measure its MLPs on; give one by --contexts FILE")
    words = read_plain_text(path)
    if not words.strip():
        raise InputError(f"{path}: the text is empty; expected a few pages to measure MLPs on")
    return path, words


def _loading(
    steps: dict[int, Path], tokenizer: PreTrainedTokenizerBase, where: torch.device
) -> Callable[[int], PreTrainedModel]:
    """Loads the model of a step, whose tokenizer must be the one that the text was read with."""
    from analysis.text.vocabulary import require_same_tokens
    from bilinear_lm.checkpoints import load_pretrained, load_tokenizer

    def model_at(step: int) -> PreTrainedModel:
        folder = steps[step]
        require_same_tokens(tokenizer, load_tokenizer(folder), "the model", str(folder))
        return load_pretrained(folder, device=where)

    return model_at


def _measure(
    model: PreTrainedModel, text: SplitText, degrees: Sequence[int], fit_degrees: Sequence[int]
) -> tuple[LayerPolynomials, dict[str, ReplacementLosses]]:
    """The polynomials, and the losses with each degree of them and with nothing in the place of MLPs."""
    import torch

    from analysis.polynomials.layers import approximate_layers, replacement_losses

    found = approximate_layers(model, text.windows, text.held_out, degrees=degrees, fit_degrees=fit_degrees)
    ways: dict[str, Sequence[Any]] = {
        f"degree {degree}": [row[i] for row in found.polynomials] for i, degree in enumerate(degrees)
    }
    ways |= {f"fit, degree {degree}": [row[i] for row in found.fits] for i, degree in enumerate(fit_degrees)}
    ways["nothing"] = [torch.zeros_like] * len(found.layers)
    losses: dict[str, ReplacementLosses] = {}
    whole: float | None = None
    for name, each in ways.items():
        replacements = dict(zip(found.layers, each, strict=True))
        losses[name] = replacement_losses(model, text.held_out, replacements, whole)
        whole = losses[name].whole
    return found, losses


def _record(found: LayerPolynomials, losses: dict[str, ReplacementLosses]) -> dict[str, Any]:
    rows = zip(found.layers, found.gaussian, found.on_text, found.fits_on_text, strict=True)
    return {
        "layers": [
            {
                "layer": layer,
                "r_squared": {
                    "gaussian": _numbers(gaussian),
                    "text": _numbers(on_text),
                    "fits": _numbers(fits),
                },
            }
            for layer, gaussian, on_text, fits in rows
        ],
        "losses": {
            "whole": losses["nothing"].whole,
            "replaced_by": {
                name: {"one": each.one.tolist(), "all": each.all} for name, each in losses.items()
            },
        },
    }


def _training_record(found: TrainingPolynomials) -> dict[str, Any]:
    return {
        "layers": list(found.layers),
        "steps": [
            {
                "step": step,
                "loss": float(found.losses[i]),
                "r_squared": {
                    "gaussian": [_numbers(row) for row in found.gaussian[i]],
                    "text": [_numbers(row) for row in found.on_text[i]],
                },
            }
            for i, step in enumerate(found.steps)
        ],
    }


def _numbers(values: Tensor) -> list[float | None]:
    """Numbers for JSON; None for −∞, the R² of outputs that do not vary."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _print_model(found: LayerPolynomials, losses: dict[str, ReplacementLosses]) -> None:
    columns = [f"Gaussian {degree}" for degree in found.degrees]
    columns += [f"text {degree}" for degree in found.degrees]
    columns += [f"fit {degree}" for degree in found.fit_degrees]
    print(f"{'R² of layer':<18}" + "".join(f"{name:>12}" for name in columns))
    for row, layer in enumerate(found.layers):
        values = [*found.gaussian[row], *found.on_text[row], *found.fits_on_text[row]]
        print(f"{layer:<18}" + "".join(f"{float(value):>12.3f}" for value in values))
    names = [*(f"layer {layer}" for layer in found.layers), "all"]
    print(f"{'loss with':<18}" + "".join(f"{name:>12}" for name in names))
    for name, each in losses.items():
        print(f"{name:<18}" + "".join(f"{value:>12.3f}" for value in [*each.one.tolist(), each.all]))
    print(f"loss {losses['nothing'].whole:.3f} of the model as it is, in nats per token")


def _print_training(found: TrainingPolynomials) -> None:
    names = [f"{layer}, degree {degree}" for layer in found.layers for degree in found.degrees]
    print(f"{'R² on text, step':<18}" + f"{'loss':>8}" + "".join(f"{name:>13}" for name in names))
    for step, loss, values in zip(found.steps, found.losses, found.on_text, strict=True):
        numbers = "".join(f"{float(value):>13.3f}" for value in values.flatten())
        print(f"{step:<18}{float(loss):>8.3f}{numbers}")
