"""MLPs of a model's layers: of the families by their names, of other models by what they compute.

Other models are those whose blocks hold one MLP without a gate, down(σ(up(x))), as GPT-NeoX, Pythia and
GPT-2 do. It is found by the shapes of a module's projections and proved by comparing the module's output
with the formula at random points. Only analyses that need no gate and no norm take these models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor, nn

from bilinear_lm.errors import InputError
from bilinear_lm.families import FAMILIES, decoder, decoder_block, is_family, plain
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.modules import blocks, computes, is_attention, possible_activations


@dataclass(frozen=True)
class UngatedMLP:
    """An MLP σ(x W_gate + b_gate) W_out + b_out, with the module that computes it."""

    module: nn.Module
    weights: GLUWeights
    activation: Callable[[Tensor], Tensor]


def n_layers(model: nn.Module) -> int:
    """The number of a model's blocks; InputError for a model of no family that has none."""
    n_blocks = 0 if is_family(model) else sum(1 for _ in blocks(model))
    return n_blocks or len(decoder(model).layers)


def mlp_module(model: nn.Module, layer: int) -> nn.Module:
    """The transformers module of a layer's MLP: it is called with what the MLP reads, [..., d_model]."""
    return plain(decoder_block(model, layer).mlp) if is_family(model) else ungated_mlp(model, layer).module


def ungated_mlp(model: nn.Module, layer: int) -> UngatedMLP:
    """The MLP of a block of a model of no family; InputError unless the block holds one without a gate."""
    named = list(blocks(model))
    if not -len(named) <= layer < len(named):
        raise InputError(f"layer {layer} does not exist; {type(model).__name__} has {len(named)} blocks")
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    found = list(_search(*named[layer], width))
    if len(found) != 1:
        raise InputError(
            f"{len(found)} MLPs without a gate found in layer {layer} of {type(model).__name__}; expected "
            f"one, down(activation(up(x))), or a model with gates: {', '.join(FAMILIES)}"
        )
    return found[0]


def _search(name: str, module: nn.Module, width: int | None) -> Iterator[UngatedMLP]:
    """The MLPs in a part of a block, from the model's width to its width."""
    if mlp := _as_mlp(module, width):
        yield mlp
    elif not is_attention(name, module):
        for key, child in module.named_children():
            yield from _search(f"{name}.{key}", child, width)


def _as_mlp(module: nn.Module, width: int | None) -> UngatedMLP | None:
    """The parts of a module that computes an MLP without a gate; None for any other."""
    from transformers.pytorch_utils import Conv1D

    linear = {key: child for key, child in module.named_children() if isinstance(child, nn.Linear | Conv1D)}
    activations = possible_activations(module, linear)
    if len(linear) != 2 or not activations:
        return None
    for up, down in permutations(linear.values()):
        W_up, W_down = (  # [d_in, d_out], as Conv1D has them and Linear does not
            child.weight.detach() if isinstance(child, Conv1D) else child.weight.detach().T
            for child in (up, down)
        )
        if (len(W_up), W_up.shape[1], W_down.shape[1]) != (width, len(W_down), width):
            continue
        b_up, b_down = (None if child.bias is None else child.bias.detach() for child in (up, down))
        weights = GLUWeights(W_up, None, W_down, b_up, None, b_down)
        for name in activations:
            activation = getattr(module, name)
            if computes(module, weights, activation):
                return UngatedMLP(module, weights, activation)
    return None
