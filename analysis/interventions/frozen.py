"""A model with its attention patterns and the scales of its norms held at what they were on a prompt.

So held, a bilinear model is a polynomial of what it reads, however that is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from analysis.paths.measured import Measured
from bilinear_lm.families import attention_norm, decoder, decoder_block, mlp_norm, plain
from bilinear_lm.norms import norm_factor
from bilinear_lm.weights import attention_weights


@contextmanager
def frozen(model: nn.Module, measured: Measured) -> Iterator[None]:
    """While open, a transformers model uses the patterns and the scales that were measured on a prompt.

    For prompts of the length of that one, in batches of any size; whatever is put in place of activations
    (`bilinear_lm.sites.replaced`) within the block goes through them. Biases stay.
    """
    with ExitStack() as stack:
        final = decoder(model).norm
        handles = [final.register_forward_hook(_held_norm(measured.final_scale))]
        for number, layer in enumerate(measured.layers):
            ln1: Any = attention_norm(model, number)
            ln2: Any = mlp_norm(model, number)
            attention = plain(decoder_block(model, number).self_attn)
            seen: dict[str, Tensor] = {}
            mixed = _held_attention(model, number, layer.pattern, seen)
            handles += [
                ln1.register_forward_hook(_held_norm(layer.ln1_scale)),
                ln2.register_forward_hook(_held_norm(layer.ln2_scale)),
                attention.register_forward_pre_hook(_noting(seen), with_kwargs=True),
                plain(attention.o_proj).register_forward_pre_hook(mixed),
            ]
        for handle in handles:
            stack.callback(handle.remove)
        yield


def _held_norm(scale: Float[Tensor, " pos"]) -> Callable[..., Tensor]:
    def hook(norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        held = args[0].to(scale.dtype) / scale.unsqueeze(-1)
        return (held * norm_factor(norm)).to(output.dtype)

    return hook


def _noting(seen: dict[str, Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["x"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    return hook


def _held_attention(
    model: nn.Module, layer: int, pattern: Float[Tensor, "n_heads pos pos"], seen: dict[str, Tensor]
) -> Callable[..., tuple[Tensor, ...]]:
    """Puts pattern · values in place of what the output projection reads."""
    weights = attention_weights(model, layer, fold_norm=False)

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = torch.einsum("bpd,hde->bhpe", seen["x"], weights.W_V)
        if weights.b_V is not None:
            values = values + weights.b_V.unsqueeze(1)
        mixed = pattern.to(values.dtype) @ values
        return (rearrange(mixed, "batch heads pos d_head -> batch pos (heads d_head)"), *args[1:])

    return hook
