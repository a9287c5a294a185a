"""`convert`: a GLU language model becomes a bilinear one, layer after layer, without end-to-end training.

Three methods. `fit`: each MLP is fitted to its own outputs at the inputs that it gets behind the layers
converted before it (`finetune.conversion.glu_fit`). `closed-form`: the least-squares quadratic under a
Gaussian with the measured mean and covariance of these inputs (`bilinear_lm.bilinear_approximation`).
`linear`: the activation's slope at zero (½ for SiLU, GELU and ReLU) in place of the activation, the limit
of Swish_β for β → 0 (arXiv 2410.08417, appendix J).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.files import require_finite
from bilinear_lm.glu_weights import GLUWeights, double_weights
from bilinear_lm.glus import GLU, bilinear_glus, find_glus
from bilinear_lm.polynomials.bilinear import product_form
from bilinear_lm.polynomials.gaussian import one_gaussian
from bilinear_lm.polynomials.measured import Moments
from bilinear_lm.text.evaluate import window_loss
from finetune.choices import Method
from finetune.conversion.glu_fit import LINEAR, FitSettings, explained, fit_bilinear
from finetune.data.calibration import BATCH, glu_inputs
from finetune.pretraining.model_config import make_linear, may_have_biases, require_linear_config

HELD_OUT = 8
"""One window in this many is held out of the fit, to measure R² and the losses."""


@dataclass(frozen=True)
class LayerConversion:
    """The replacement of one MLP."""

    name: str
    """The module's name in the model."""
    r_squared: float | None
    """Share of the variance of the MLP's output that the new layer gives back, at held-out inputs behind
    converted layers; None without calibration text."""
    r_squared_with_biases: float | None = None
    """The share that the closed form would reach with biases, where it has none; else None."""


@dataclass(frozen=True)
class Conversion:
    """The result of `convert`; losses are nats per token on held-out windows of the calibration text."""

    method: Method
    layers: tuple[LayerConversion, ...]
    biases: bool
    """Whether the MLPs have biases now."""
    loss_before: float | None
    loss_after: float | None
    """None without calibration text."""
    n_tokens: int
    """Tokens of the calibration text that layers were fitted to."""


@checked
def convert(
    model: PreTrainedModel,
    method: Method = "fit",
    calibration: Int[Tensor, "window pos"] | None = None,
    *,
    biases: bool | None = None,
    fit: FitSettings | None = None,
    progress: bool = False,
) -> Conversion:
    """Makes every MLP of a GLU language model bilinear, in place; its config then says `hidden_act="linear"`.

    `calibration` are token ids (`calibration_windows`); one window in eight is held out, for R² and the
    losses. Only `linear` does without. `biases=None` gives the MLPs biases where the family has them as an
    option (`mlp_bias`), which both other methods make use of; without them each finds the best it can.

    >>> windows = calibration_windows(tokenizer, ["stories.txt"])  # doctest: +SKIP
    >>> convert(model, "fit", windows).loss_after  # doctest: +SKIP

    Raises InputError for a model without GLUs, with other MLPs beside them, that is bilinear already, whose
    weights are not finite or whose configuration cannot say what it would be, and for calibration of another
    vocabulary; the model is then unchanged. Where a fit diverges, layers before it are converted already:
    load the model again.
    """
    glus = _convertible(model, method)
    may = may_have_biases(model, glus)
    if biases and not may:
        raise InputError(f"a {model.config.model_type} model has no option for MLP biases; leave them out")
    biases = may if biases is None else biases
    if method == "linear":
        biases = glus[0].factors().b_out is not None
    fitted, held_out = _split(calibration, method, model)
    settings = fit or FitSettings()
    settings.check()
    bars = [f"loss {when}" if progress else None for when in ("before", "after")]
    before = None if held_out is None else window_loss(model, held_out, progress=bars[0])
    layers = []
    for glu in tqdm(glus, desc=f"convert by {method}", disable=not progress):
        new = _CONVERTERS[method](model, glu, fitted, biases, settings, progress)
        _require_finite(new[0], glu, method)
        layers.append(LayerConversion(glu.name, *_explained(model, glu, new, held_out, progress)))
        glu.write(new[0])
        glu.set_activation(LINEAR)
    make_linear(model, glus)
    after = None if held_out is None else window_loss(model, held_out, progress=bars[1])
    if after is not None and not math.isfinite(after):
        raise InputError(
            f"the model converted by {method} has a loss of {after}, of {before:.4f} before; give more "
            "calibration text, or another method"
        )
    return Conversion(
        method=method,
        layers=tuple(layers),
        biases=glus[0].factors().b_out is not None,
        loss_before=before,
        loss_after=after,
        n_tokens=0 if fitted is None else fitted.numel(),
    )


def _convertible(model: PreTrainedModel, method: Method) -> tuple[GLU, ...]:
    if method not in get_args(Method):
        raise InputError(f"no method {method!r} of conversion; expected one of {', '.join(get_args(Method))}")
    require_finite(dict(model.named_parameters()), f"the {model.config.model_type} model to convert")
    glus = find_glus(model)
    if linear := bilinear_glus(glus):
        raise InputError(
            f"{len(linear)} of {len(glus)} MLPs are bilinear already ({linear[0].name} first); expected a "
            "model whose gates have an activation"
        )
    require_linear_config(model, glus)
    return glus


def _split(
    calibration: Tensor | None, method: Method, model: PreTrainedModel
) -> tuple[Tensor | None, Tensor | None]:
    """The windows to fit to and the held-out ones."""
    if calibration is None:
        if method != "linear":
            raise InputError(f"the method {method} needs calibration text; give it token windows")
        return None, None
    if calibration.dim() != 2 or calibration.shape[0] < 2 or calibration.shape[1] < 2:
        raise InputError(
            f"calibration of shape {list(calibration.shape)}; expected [window, pos], at least two windows "
            "of at least two tokens"
        )
    embeddings: Any = model.get_input_embeddings()
    if int(calibration.min()) < 0 or int(calibration.max()) >= embeddings.num_embeddings:
        raise InputError(
            f"calibration has token ids from {int(calibration.min())} to {int(calibration.max())}; expected "
            f"those of the model's {embeddings.num_embeddings} embeddings, by its own tokenizer"
        )
    held_out = torch.arange(len(calibration)) % HELD_OUT == 0
    return calibration[~held_out], calibration[held_out]


def _require_finite(new: GLUWeights, glu: GLU, method: Method) -> None:
    """Raises InputError unless the weights to take a GLU's place are finite in its precision."""
    if not new.to(glu.factors().W_gate.dtype).is_finite():
        raise InputError(
            f"{glu.name}: converted by {method} it has NaN or infinity in its weights; give other "
            "calibration text, or another method"
        )


def _inputs(model: PreTrainedModel, glu: GLU, windows: Tensor, progress: bool) -> Iterator[Tensor]:
    """The inputs of a GLU in windows, with a bar."""
    n_batches, desc = -(-len(windows) // BATCH), f"read {glu.name}"
    yield from tqdm(glu_inputs(model, glu, windows), desc, n_batches, leave=False, disable=not progress)


def _explained(
    model: PreTrainedModel, glu: GLU, new: list[GLUWeights], held_out: Tensor | None, progress: bool
) -> list[float | None]:
    """R² of each layer in `new`, at what the MLP reads in held-out windows."""
    if held_out is None:
        return [None]
    points = torch.cat([x.flatten(0, -2) for x in _inputs(model, glu, held_out, progress)]).float()
    own = glu.factors().to(torch.float32)
    return [explained(layer, own, glu.activation, points) for layer in new]


def slope_at_zero(activation: Callable[[Tensor], Tensor], step: float = 1e-2) -> float:
    """The slope of an activation over ±`step`: ½ for SiLU, GELU and ReLU, 1 for tanh."""
    ends = activation(torch.tensor([step, -step], dtype=torch.float64))
    return round(float(ends[0] - ends[1]) / (2 * step), 3)


def _linear(
    model: PreTrainedModel, glu: GLU, windows: Tensor | None, biases: bool, fit: FitSettings, progress: bool
) -> list[GLUWeights]:
    factors, slope = glu.factors().to(torch.float32), slope_at_zero(glu.activation)
    b_gate = None if factors.b_gate is None else factors.b_gate * slope
    return [replace(factors, W_gate=factors.W_gate * slope, b_gate=b_gate)]


def _closed_form(
    model: PreTrainedModel, glu: GLU, windows: Tensor | None, biases: bool, fit: FitSettings, progress: bool
) -> list[GLUWeights]:
    assert windows is not None
    moments = Moments.of(_inputs(model, glu, windows, progress))
    layer = double_weights(**glu.factors().to(torch.float32).weights)
    at = one_gaussian(moments.mean, moments.cov, layer.W_gate)
    form = product_form(layer, glu.activation, at, torch.float32)
    return [form.with_biases()] if biases else [form.without_biases(), form.with_biases()]


def _fit(
    model: PreTrainedModel, glu: GLU, windows: Tensor | None, biases: bool, fit: FitSettings, progress: bool
) -> list[GLUWeights]:
    assert windows is not None
    points = torch.cat([x.flatten(0, -2) for x in _inputs(model, glu, windows, progress)])
    fitted = fit_bilinear(
        glu.factors(), glu.activation, points, biases=biases, settings=fit, progress=progress
    )
    return [fitted]


_Converter = Callable[[PreTrainedModel, GLU, Tensor | None, bool, FitSettings, bool], list[GLUWeights]]
"""A function of model, GLU, windows to fit to, whether with biases, settings of the fit, whether with bars.
It returns the layer that takes the GLU's place, and for the closed form without biases also the one with
biases, for comparison."""

_CONVERTERS: dict[Method, _Converter] = {"fit": _fit, "closed-form": _closed_form, "linear": _linear}
