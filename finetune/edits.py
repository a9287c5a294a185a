"""Edits: interactions of a bilinear model deleted, scaled or added, by hidden units, with what they do at
most.

An interaction is the coefficient of c_left c_right in u · MLP(x), x = Σ c_k f_k: two input directions that
the MLP multiplies into an output direction. A hidden unit changes one and leaves every direction orthogonal
to what it writes, and every input that its readers do not see, as it was (`finetune.editing.units`). The
result is a plain model with a few hidden units more.

The bounds are closed forms of the added units alone: the rank of their matrices is at most twice their
number, so that no analysis of the whole layer is needed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.families import causal_model, mlp_norm, plain, require_plain_blocks
from bilinear_lm.files import require_finite
from bilinear_lm.norms import IDENTITY_EPS, norm_epsilon
from bilinear_lm.shown import shown
from bilinear_lm.weights import mlp_norm_factor, mlp_tensor
from finetune.editing.units import Units, solved, unit
from finetune.editing.widening import add_units, editable_glus


@shown
@dataclass(frozen=True)
class Edit:
    """A change of one interaction of an MLP: of the coefficient of c_left c_right along `output`.

    Directions are of the model's width: inputs at mlp-in, what the MLP reads behind its norm (a dictionary's
    decoder rows); the output as it is read at mlp-out (an encoder column, a column of W_U). For an input with
    itself, give it twice.
    """

    layer: int
    output: Float[Tensor, " d_model"]
    inputs: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
    change: float
    """Added to the coefficient (`interaction` tells what it is)."""
    written: Float[Tensor, " d_model"] | None = None
    """The direction that is written, such as the output feature's decoder row; `output` itself by default."""
    keep: Float[Tensor, "m d_model"] | None = None
    """Input directions that must not be read: an input that is made of them is not changed."""
    name: str = ""


@shown
@dataclass(frozen=True)
class EditedInteraction:
    """One edit as it was made, and what the edits of its layer do at most along its output direction."""

    name: str
    layer: int
    before: float
    """The coefficient in the model as it was."""
    after: float
    """The coefficient in the weights as they are stored now."""
    low: float
    """No input lowers the output along the direction by more: exact over ‖z‖² ≤ d."""
    high: float


@shown
@dataclass(frozen=True)
class EditedLayer:
    """The largest change of one layer by its edits, along all directions: a bracket of sup ‖change‖."""

    layer: int
    n_units: int
    low: float
    high: float


@shown
@dataclass(frozen=True)
class EditReport:
    """The result of `edit`."""

    interactions: tuple[EditedInteraction, ...]
    layers: tuple[EditedLayer, ...]
    d_mlp: int
    """Hidden units of every layer now."""
    n_units: int
    """Hidden units that every layer has got."""
    bounded: bool
    """Whether a norm bounds what the MLPs read; without one the bounds hold for ‖x‖² ≤ d alone."""
    units: dict[int, Units] = field(repr=False)
    """The units that were added, by layer, in the precision of the model."""


@checked
def interaction(
    model: PreTrainedModel,
    layer: int,
    output: Float[Tensor, " d_model"],
    inputs: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]],
) -> float:
    """The coefficient of c_left c_right along an output direction: 2 u·B(f, f'), u·B(f, f) of one with
    itself.

    >>> interaction(model, 3, outputs.encoder[:, 7], (inputs.decoder[1], inputs.decoder[2]))  # doctest: +SKIP
    """
    tensor = mlp_tensor(model, layer, fold_norm=False).to(torch.float64)
    left, right = (direction.to(tensor.W_gate) for direction in inputs)
    value = float(tensor.pairwise(output.to(tensor.W_gate), left.unsqueeze(0), right.unsqueeze(0)))
    return value if torch.equal(*inputs) else 2 * value


@checked
def edit(model: PreTrainedModel, edits: Sequence[Edit]) -> EditReport:
    """Makes edits to a bilinear model, in place, by one hidden unit each, with certified bounds.

    Amounts are solved for together, so that every named interaction changes by exactly its `change` (to the
    rounding of the model's precision), whatever the units of a layer do to each other's. All layers get as
    many units as the layer with the most edits, the others units of zeros: transformers knows one
    `intermediate_size`.

    >>> before = interaction(model, 3, u, (f, g))  # doctest: +SKIP
    >>> report = edit(model, [Edit(3, u, (f, g), change=-before)])  # doctest: +SKIP
    >>> report.interactions[0].low, report.layers[0].high  # doctest: +SKIP

    Raises InputError for a model that is not bilinear or scales what its MLPs write (Gemma 2, OLMo 2,
    Granite), directions of another width or that are not finite, the same interaction twice, and directions
    that depend on each other, so that one cannot be changed alone. The model is then unchanged.
    """
    if not edits:
        raise InputError("no edits; expected one or more")
    require_plain_blocks(model, "edits")
    require_finite(dict(model.named_parameters()), "the model to edit")
    glus = editable_glus(model)
    by_layer: dict[int, list[Edit]] = defaultdict(list)
    for each in edits:
        by_layer[_layer(each, len(glus))].append(_checked(each, model))
    _require_once(edits)
    made = {layer: _made(layer, part).balanced().to(model.dtype) for layer, part in by_layer.items()}
    before = [interaction(model, each.layer, each.output, each.inputs) for each in edits]
    n_units = add_units(model, glus, made)
    after = [interaction(model, each.layer, each.output, each.inputs) for each in edits]
    factors = {layer: mlp_norm_factor(model, layer).double() for layer in made}
    reach = {layer: part.to(torch.float64).behind(factors[layer]) for layer, part in made.items()}
    radius = math.sqrt(len(factors[next(iter(made))]))
    layers = [_layer(each, len(glus)) for each in edits]
    rows = zip(edits, layers, before, after, strict=True)
    config: Any = model.config
    return EditReport(
        tuple(
            EditedInteraction(
                each.name,
                layer,
                old,
                new,
                *reach[layer].range(each.output.to(reach[layer].W_out), radius),
            )
            for each, layer, old, new in rows
        ),
        tuple(EditedLayer(layer, len(part), *part.largest(radius)) for layer, part in reach.items()),
        config.intermediate_size,
        n_units,
        _is_bounded(model, made),
        made,
    )


def _made(layer: int, edits: Sequence[Edit]) -> Units:
    """The units of one layer, in float64, in the amounts that make all changes."""
    parts: list[Units] = []
    wide = [_in_float64(each) for each in edits]
    for each in wide:
        name = each.name or f"edit {len(parts)} of layer {layer}"
        written = each.output if each.written is None else each.written
        parts.append(unit(each.output, written, *each.inputs, each.keep, name))
    units = Units.joined(parts)
    coefficients = torch.stack([units.coefficient(each.output, *each.inputs) for each in wide])
    changes = coefficients.new_tensor([each.change for each in wide])
    return solved(units, coefficients, changes)


def _in_float64(each: Edit) -> Edit:
    left, right = (direction.double() for direction in each.inputs)
    return Edit(
        each.layer,
        each.output.double(),
        (left, left if torch.equal(left, right) else right),
        float(each.change),
        None if each.written is None else each.written.double(),
        None if each.keep is None or not len(each.keep) else each.keep.double(),
        each.name,
    )


def _layer(each: Edit, n_layers: int) -> int:
    if not isinstance(each.layer, int) or not -n_layers <= each.layer < n_layers:
        raise InputError(f"layer {each.layer} does not exist; the model has layers 0 to {n_layers - 1}")
    return each.layer % n_layers


def _checked(each: Edit, model: PreTrainedModel) -> Edit:
    config: Any = causal_model(model).config
    name, width = each.name or "an edit", config.hidden_size
    require_number(each.change, f"{name}: a change of {each.change!r}", "a finite number")
    directions: list[tuple[str, Any]] = [
        ("output", each.output),
        ("written", each.written),
        ("keep", each.keep),
    ]
    if not isinstance(each.inputs, tuple | list) or len(each.inputs) != 2:
        raise InputError(f"{name}: inputs {each.inputs!r}; expected two directions, (left, right)")
    directions += [("an input", each.inputs[0]), ("an input", each.inputs[1])]
    for role, direction in directions:
        if direction is None:
            continue
        require_finite_numbers(direction, f"{name}: {role}")
        if direction.shape[-1:] != (width,) or direction.ndim != (2 if role == "keep" else 1):
            raise InputError(
                f"{name}: {role} of shape {list(direction.shape)}; expected directions of the model's width, "
                f"{width}"
            )
    if not bool(each.output.any()):
        raise InputError(f"{name}: the output direction is 0; expected one that is not")
    return each


def _require_once(edits: Iterable[Edit]) -> None:
    """Raises InputError where two edits are of one interaction: which of the two is meant is open."""
    seen: list[Edit] = []
    for each in edits:
        for other in seen:
            pairs = [each.inputs, each.inputs[::-1]]
            same = any(all(map(torch.equal, other.inputs, pair)) for pair in pairs)
            if same and each.layer == other.layer and torch.equal(each.output, other.output):
                raise InputError(
                    f"{each.name or 'an interaction'} is edited twice; expected one edit of each interaction"
                )
        seen.append(each)


def _is_bounded(model: PreTrainedModel, layers: Iterable[int]) -> bool:
    return all(norm_epsilon(plain(mlp_norm(model, layer))) < IDENTITY_EPS for layer in layers)
