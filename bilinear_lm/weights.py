"""Weights of a transformers model or a TransformerBridge, in the shapes that analyses use.

Row vectors: `x @ W`. Nothing is changed in the model. The factor γ of the norm in front (`norms.norm_factor`)
is folded into the matrices that read it on request (by default), so that they act on x / rms(x); a model
whose norms are the identity has no such factor.

What the accessors return belongs to the attention or MLP module itself. Norms behind the module (Gemma 2,
OLMo 2) and Granite's `residual_multiplier` come after it, between its output and the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.families import (
    attention_norm,
    causal_model,
    decoder,
    decoder_block,
    family_of,
    is_family,
    mlp_norm,
    plain,
    residual_factor,
)
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.mlps import ungated_mlp
from bilinear_lm.norms import norm_factor
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@checked
def mlp_tensor(
    model_or_bridge: nn.Module, layer: int, fold_norm: bool = True, fold_norm_after: bool = False
) -> BilinearTensor:
    """The tensor of a bilinear MLP, in factors W_gate, W_in [d_model, d_mlp] and W_out [d_mlp, d_model].

    With biases it has the constant coordinate, and `d_in` is d_model + 1.

    Its input, with x the residual stream: x / rms(x) with `fold_norm`, the output of the norm in front
    without it. OLMo 2 has no norm in front, and the input is x itself in both cases.

    Its output is what the MLP module puts out. Most families add that to the residual stream as it is; Gemma
    2 and OLMo 2 pass it through another norm first, Granite multiplies it by `residual_multiplier`. With
    `fold_norm_after` the weight of that norm and the multiplier are in the tensor: its output is then what is
    added to the stream, in Gemma 2 and OLMo 2 times the norm's scale, a positive number a position.

    Raises InputError where the gate has an activation.
    """
    family_of(model_or_bridge)
    weights, activation = mlp_weights(model_or_bridge, layer, fold_norm, fold_norm_after)
    if not is_linear(activation):
        raise InputError(
            f"layer {layer} has a {type(activation).__name__} gate; expected a linear one: make the model "
            "bilinear with finetune.convert, or `bilinear-lm convert MODEL -o DIR`"
        )
    return weights.tensor


@checked
def mlp_weights(
    model_or_bridge: nn.Module, layer: int, fold_norm: bool = True, fold_norm_after: bool = False
) -> tuple[GLUWeights, Callable[[Tensor], Tensor]]:
    """The weights of an MLP with any activation, and the activation σ of its gate.

    Its output is [σ(x W_gate + b_gate) ∘ (x W_in + b_in)] W_out + b_out. Input x and output are those of
    `mlp_tensor`. With fold_norm=False other models are read too: those whose blocks hold one MLP without a
    gate (GPT-NeoX, GPT-2; see `bilinear_lm.mlps`), which has no W_in.

    >>> weights, activation = mlp_weights(model, 3, fold_norm=False)  # doctest: +SKIP
    >>> weights.output(x, activation)  # of the MLP's inputs x  # doctest: +SKIP
    """
    if not (is_family(model_or_bridge) or fold_norm or fold_norm_after):
        ungated = ungated_mlp(model_or_bridge, layer)
        return ungated.weights, ungated.activation
    family, mlp = family_of(model_or_bridge), decoder_block(model_or_bridge, layer).mlp
    activation = plain(getattr(plain(mlp), family.activation))
    out = plain(plain(mlp).down_proj)
    d_mlp = out.weight.shape[1]
    factor = _factor(mlp_norm(model_or_bridge, layer)) if fold_norm else None
    (W_gate, b_gate), (W_in, b_in) = _reading(mlp, ("gate", "in"), family.gate_up, [d_mlp, d_mlp], factor)
    W_out, b_out = out.weight.detach().T, _bias(out)
    if fold_norm_after and (behind := _factor_behind(model_or_bridge, layer)) is not None:
        W_out, b_out = W_out * behind.to(W_out), None if b_out is None else b_out * behind.to(b_out)
    return GLUWeights(W_gate, W_in, W_out, b_gate, b_in, b_out), activation


def _factor_behind(model_or_bridge: nn.Module, layer: int) -> Tensor | None:
    """The weight of the norm behind an MLP, or the number that multiplies its output; None without either."""
    family, block = family_of(model_or_bridge), plain(decoder_block(model_or_bridge, layer))
    if family.mlp_norm_after is not None:
        return norm_factor(plain(getattr(block, family.mlp_norm_after)))
    factor = residual_factor(model_or_bridge, layer)
    return None if factor == 1 else torch.tensor(factor)


@shown
@dataclass(frozen=True)
class AttentionWeights:
    """Weights of one attention layer, one entry a head; grouped-query keys and values are repeated."""

    W_Q: Float[Tensor, "n_heads d_model d_head"]
    W_K: Float[Tensor, "n_heads d_model d_head"]
    W_V: Float[Tensor, "n_heads d_model d_head"]
    W_O: Float[Tensor, "n_heads d_head d_model"]
    b_Q: Float[Tensor, "n_heads d_head"] | None = None
    b_K: Float[Tensor, "n_heads d_head"] | None = None
    b_V: Float[Tensor, "n_heads d_head"] | None = None
    b_O: Float[Tensor, " d_model"] | None = None


@checked
def attention_weights(model_or_bridge: nn.Module, layer: int, fold_norm: bool = True) -> AttentionWeights:
    """The attention weights of a layer in TransformerLens' shapes.

    Head h reads the key and value heads h // (n_heads / n_kv_heads), as grouped-query attention does. With
    `fold_norm` they read x / rms(x) of the residual stream x, without it the output of the norm in front; in
    OLMo 2, which has none, x itself.

    These are the projections alone. Not in them: the scale of the scores (1/√d_head; Granite's
    `attention_multiplier`, Gemma 2's `query_pre_attn_scalar`) and their soft cap (Gemma 2), rotary positions,
    and the norms of queries and keys (Qwen 3, OLMo 2), with which scores are not bilinear in x.
    """
    block, family = decoder_block(model_or_bridge, layer), family_of(model_or_bridge)
    attention, config = block.self_attn, causal_model(model_or_bridge).config
    out = plain(plain(attention).o_proj)
    n_heads, n_kv_heads = config.num_attention_heads, config.num_key_value_heads
    d_head = out.weight.shape[1] // n_heads
    heads = {"Q": n_heads, "K": n_kv_heads, "V": n_kv_heads}
    sizes = [number * d_head for number in heads.values()]
    factor = _factor(attention_norm(model_or_bridge, layer)) if fold_norm else None
    projections = _reading(attention, ("q", "k", "v"), family.qkv, sizes, factor)
    reading = {}
    for (name, number), (weight, bias) in zip(heads.items(), projections, strict=True):
        shared = {"heads": number, "group": n_heads // number}
        reading[f"W_{name}"] = repeat(
            weight, "d_model (heads d_head) -> (heads group) d_model d_head", **shared
        )
        if bias is not None:
            reading[f"b_{name}"] = repeat(bias, "(heads d_head) -> (heads group) d_head", **shared)
    W_O = rearrange(out.weight.detach(), "d_model (heads d_head) -> heads d_head d_model", heads=n_heads)
    return AttentionWeights(**reading, W_O=W_O, b_O=_bias(out))


def is_linear(activation: Any) -> bool:
    """Whether an activation returns what it is given."""
    probe = torch.tensor([-3.0, -0.5, 0.25, 2.0])
    return torch.equal(plain(activation)(probe), probe)


@checked
def embedding(model_or_bridge: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
    """W_E: what each token adds to the residual stream.

    The number by which a model multiplies its embeddings is included: √d_model in Gemma,
    `embedding_multiplier` in Granite.
    """
    own, name = decoder(model_or_bridge), family_of(model_or_bridge).embedding_factor
    weight = plain(own.embed_tokens).weight.detach()
    if name is None:
        return weight
    return weight * torch.as_tensor(attrgetter(name)(own)).to(weight)


@checked
def unembedding(model_or_bridge: nn.Module, fold_norm: bool = True) -> Float[Tensor, "d_model d_vocab"]:
    """W_U: the direction along which each token's logit is read, with the final norm's factor folded in.

    Logits are x / rms(x) @ W_U, before the soft cap of Gemma 2; Granite's `logits_scaling` is in W_U.
    """
    model = causal_model(model_or_bridge)
    factor = _factor(decoder(model).norm) if fold_norm else None
    divisor = family_of(model).logits_divisor
    weight = _folded(plain(model.lm_head).weight.detach().T, factor)
    return weight if divisor is None else weight / getattr(model.config, divisor)


def _reading(
    module: Any, hooked: tuple[str, ...], own: tuple[str, ...], sizes: list[int], factor: Tensor | None
) -> list[tuple[Tensor, Tensor | None]]:
    """Weights, with the norm's factor folded in, and biases of the projections that read a module's input.

    A bridge has one projection for each, under the names `hooked`, whatever the transformers module has;
    `sizes` are their widths.
    """
    parts = [plain(getattr(module, name)) for name in (own if plain(module) is module else hooked)]
    weights, biases = [part.weight.detach() for part in parts], [_bias(part) for part in parts]
    if len(parts) == 1:
        weights = list(weights[0].split(sizes))
        biases = [None] * len(sizes) if biases[0] is None else list(biases[0].split(sizes))
    return [(_folded(weight.T, factor), bias) for weight, bias in zip(weights, biases, strict=True)]


def mlp_norm_factor(model_or_bridge: nn.Module, layer: int) -> Float[Tensor, " d_model"]:
    """γ of the norm in front of an MLP, which reads γ x / rms(x); ones where there is no norm."""
    weight = plain(decoder(model_or_bridge).embed_tokens).weight.detach()
    factor = _factor(mlp_norm(model_or_bridge, layer))
    return weight.new_ones(weight.shape[1]) if factor is None else factor


def _factor(norm: Any | None) -> Tensor | None:
    return None if norm is None else norm_factor(plain(norm))


def _folded(weight: Tensor, factor: Tensor | None) -> Tensor:
    return weight if factor is None else weight * factor.unsqueeze(-1)


def _bias(projection: Any) -> Tensor | None:
    return None if projection.bias is None else projection.bias.detach()
