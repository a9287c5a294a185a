"""A model with its attention patterns and the scales of its norms frozen at their values on a prompt.

A bilinear model frozen in this way is a polynomial of its input, however that input is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from analysis.attention.layer import attention_layer
from analysis.attention.pattern import MeasuredAttention, attend
from analysis.paths.measured import Measured
from bilinear_lm.families import attention_norm, decoder, decoder_block, family_of, mlp_norm, plain
from bilinear_lm.norms import norm_epsilon, norm_factor, norm_scale
from bilinear_lm.numerics.shared_keys import keys_of_each_head
from bilinear_lm.weights import attention_weights


@contextmanager
def frozen(
    model: nn.Module, measured: Measured, *, norms: bool = True, attention: bool = True
) -> Iterator[None]:
    """While open, a transformers model uses the patterns and the scales that were measured on a prompt.

    It then reads prompts of the same length, in batches of any size. Activations replaced within the block
    (`bilinear_lm.sites.replaced`) go through the frozen patterns and scales. Biases stay. `norms` and
    `attention` say which of the two are frozen.
    """
    handles = []
    if norms:
        handles.append(decoder(model).norm.register_forward_hook(_frozen_norm(measured.final_scale)))
    for number, layer in enumerate(measured.layers):
        if norms:
            passages = layer.attention_passage, layer.mlp_passage
            scales = [layer.ln1_scale, layer.ln2_scale]
            scales += [layer.ln1_scale if passage is None else passage.scale for passage in passages]
            handles += [
                norm.register_forward_hook(_frozen_norm(scale))
                for norm, scale in zip(_norms(model, number), scales, strict=True)
                if norm is not None
            ]
        if attention:
            module = plain(decoder_block(model, number).self_attn)
            seen: dict[str, Any] = {}
            mixed = _frozen_attention(model, number, layer.attention, seen)
            handles += [
                module.register_forward_pre_hook(_noting(seen), with_kwargs=True),
                plain(module.o_proj).register_forward_pre_hook(mixed),
            ]
    try:
        with keys_of_each_head(measured.resid_final.device):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def exact_in_float64(model: nn.Module) -> Iterator[None]:
    """While open, a float64 model computes its norms and the softmax of its attention in float64 too.

    transformers rounds both to float32. `frozen` inside of it holds what it says. Gradients pass.
    """
    handles = [decoder(model).norm.register_forward_hook(_exact_norm)]
    for number in range(len(decoder(model).layers)):
        module = plain(decoder_block(model, number).self_attn)
        seen: dict[str, Any] = {}
        norms = [norm for norm in _norms(model, number) if norm is not None]
        handles += [
            *(norm.register_forward_hook(_exact_norm) for norm in norms),
            module.register_forward_pre_hook(_noting(seen), with_kwargs=True),
            plain(module.o_proj).register_forward_pre_hook(_exact_attention(model, number, seen)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norms(model: nn.Module, layer: int) -> list[Any]:
    """The norms of a block, in front of attention and MLP and behind them; None for what it has not."""
    block, family = decoder_block(model, layer), family_of(model)
    behind = [
        name and plain(getattr(block, name)) for name in (family.attention_norm_after, family.mlp_norm_after)
    ]
    return [attention_norm(model, layer), mlp_norm(model, layer), *behind]


def _exact_norm(norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    scale = norm_scale(args[0], norm_epsilon(norm))
    return args[0] / scale.unsqueeze(-1) * norm_factor(norm)


def _exact_attention(
    model: nn.Module, number: int, seen: dict[str, Any]
) -> Callable[..., tuple[Tensor, ...]]:
    weights = attention_weights(model, number, fold_norm=False)

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        layer = replace(attention_layer(model, number, seen["x"].shape[1]), weights=weights)
        n = len(layer.frequencies)
        cos, sin = (part[0, :, :n].to(seen["x"]) for part in seen["position_embeddings"])
        mixed = []
        for x in seen["x"]:
            measured = attend(layer, x, (cos, sin))
            values = measured.values if weights.b_V is None else measured.values + weights.b_V.unsqueeze(1)
            mixed.append(rearrange(measured.mix(values), "heads pos d_head -> pos (heads d_head)"))
        return (torch.stack(mixed), *args[1:])

    return hook


def _frozen_norm(scale: Float[Tensor, " pos"]) -> Callable[..., Tensor]:
    def hook(norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        normalised = args[0].to(scale.dtype) / scale.unsqueeze(-1)
        return (normalised * norm_factor(norm)).to(output.dtype)

    return hook


def _noting(seen: dict[str, Any]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["x"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        seen["position_embeddings"] = kwargs.get("position_embeddings")

    return hook


def _frozen_attention(
    model: nn.Module, layer: int, measured: MeasuredAttention, seen: dict[str, Any]
) -> Callable[..., tuple[Tensor, ...]]:
    """Puts pattern · values in place of the input of the output projection."""
    weights = attention_weights(model, layer, fold_norm=False)

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = torch.einsum("bpd,hde->bhpe", seen["x"], weights.W_V)
        if weights.b_V is not None:
            values = values + weights.b_V.unsqueeze(1)
        return (
            rearrange(measured.mix(values), "batch heads pos d_head -> batch pos (heads d_head)"),
            *args[1:],
        )

    return hook
