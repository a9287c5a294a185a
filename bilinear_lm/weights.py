"""Weights of a transformers model or a TransformerBridge, in the shapes that analyses use.

Row vectors: `x @ W`. Nothing is changed in the model. The weight γ of the norm in front is folded into
the matrices that read it on request (by default), so that they act on x / rms(x); a model whose norms
are the identity has no such factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose blocks are x += attention(norm(x)); x += mlp(norm(x)), with RMS norms."""

IDENTITY_EPS = 1e12
"""From this epsilon on an RMSNorm x · γ / sqrt(mean(x²) + ε) is linear to float32 rounding: x · γ / sqrt(ε).
A Llama without norms is written with it and γ = sqrt(ε), which makes every norm the identity."""


def mlp_tensor(model_or_bridge: nn.Module, layer: int, fold_norm: bool = True) -> BilinearTensor:
    """The tensor of a bilinear MLP, in factors W_gate, W_in [d_model, d_mlp] and W_out [d_mlp, d_model].

    With biases it has the constant coordinate, and `d_in` is d_model + 1. With `fold_norm` its input is
    x / rms(x) of the residual stream x, without it the output of the norm.

    Raises InputError where the gate has an activation.
    """
    block = decoder_block(model_or_bridge, layer)
    mlp = plain(block.mlp)
    if not is_linear(mlp.act_fn):
        raise InputError(
            f"layer {layer} has a {type(mlp.act_fn).__name__} gate; expected a linear one: make the model "
            "bilinear with finetune.convert, or `bilinear-lm convert MODEL -o DIR`"
        )
    gate, into, out = (plain(part) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    factor = norm_factor(plain(block.post_attention_layernorm)) if fold_norm else None
    W_gate, W_in = (_folded(part.weight.detach().T, factor) for part in (gate, into))
    biases = (_bias(part) for part in (gate, into, out))
    return BilinearTensor.from_layer(W_gate, W_in, out.weight.detach().T, *biases)


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


def attention_weights(model_or_bridge: nn.Module, layer: int, fold_norm: bool = True) -> AttentionWeights:
    """The attention weights of a layer in TransformerLens' shapes.

    Head h reads the key and value heads h // (n_heads / n_kv_heads), as grouped-query attention does.
    """
    block = decoder_block(model_or_bridge, layer)
    attention, config = plain(block.self_attn), _transformer(model_or_bridge).config
    factor = norm_factor(plain(block.input_layernorm)) if fold_norm else None
    n_heads, n_kv_heads = config.num_attention_heads, config.num_key_value_heads
    reading = {}
    for name, heads in (("q", n_heads), ("k", n_kv_heads), ("v", n_kv_heads)):
        projection = plain(getattr(attention, f"{name}_proj"))
        weight, bias = _folded(projection.weight.detach().T, factor), _bias(projection)
        group = n_heads // heads
        reading[f"W_{name.upper()}"] = repeat(
            weight, "d_model (heads d_head) -> (heads group) d_model d_head", heads=heads, group=group
        )
        if bias is not None:
            reading[f"b_{name.upper()}"] = repeat(
                bias, "(heads d_head) -> (heads group) d_head", heads=heads, group=group
            )
    out = plain(attention.o_proj)
    W_O = rearrange(out.weight.detach(), "d_model (heads d_head) -> heads d_head d_model", heads=n_heads)
    return AttentionWeights(**reading, W_O=W_O, b_O=_bias(out))


def is_linear(activation: Any) -> bool:
    """Whether an activation returns what it is given."""
    probe = torch.tensor([-3.0, -0.5, 0.25, 2.0])
    return torch.equal(plain(activation)(probe), probe)


def embedding(model_or_bridge: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
    """W_E: what each token adds to the residual stream."""
    return plain(_decoder(model_or_bridge).embed_tokens).weight.detach()


def unembedding(model_or_bridge: nn.Module, fold_norm: bool = True) -> Float[Tensor, "d_model d_vocab"]:
    """W_U: the direction along which each token's logit is read, with the final norm's weight folded in."""
    head = plain(_transformer(model_or_bridge).lm_head)
    factor = norm_factor(plain(_decoder(model_or_bridge).norm)) if fold_norm else None
    return _folded(head.weight.detach().T, factor)


def norm_factor(norm: Any) -> Float[Tensor, " d_model"]:
    """The factor γ by which an RMSNorm multiplies x / rms(x), or x itself where it is the identity."""
    weight, epsilon = norm.weight.detach(), norm.variance_epsilon
    return weight / epsilon**0.5 if epsilon >= IDENTITY_EPS else weight


def decoder_block(model_or_bridge: nn.Module, layer: int) -> Any:
    """The transformers module of one block; its parts may be wrapped by a bridge (see `plain`)."""
    blocks = _decoder(model_or_bridge).layers
    if not -len(blocks) <= layer < len(blocks):
        raise InputError(f"layer {layer} does not exist; the model has layers 0 to {len(blocks) - 1}")
    return plain(blocks[layer])


def plain(module: Any) -> Any:
    """The transformers module itself where a bridge has wrapped it."""
    return getattr(module, "_original_component", None) or module


def _transformer(model_or_bridge: nn.Module) -> Any:
    model = getattr(model_or_bridge, "original_model", model_or_bridge)
    family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if family not in FAMILIES:
        raise InputError(f"weights of a {family} model; expected one of {', '.join(FAMILIES)}")
    return model


def _decoder(model_or_bridge: nn.Module) -> Any:
    return plain(_transformer(model_or_bridge).model)


def _folded(weight: Tensor, factor: Tensor | None) -> Tensor:
    return weight if factor is None else weight * factor.unsqueeze(-1)


def _bias(projection: Any) -> Tensor | None:
    return None if projection.bias is None else projection.bias.detach()
