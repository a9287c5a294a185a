"""What the MLPs of a model read on a prompt."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bilinear_lm.weights import IDENTITY_EPS, decoder_block, plain


def mlp_inputs(
    model: nn.Module, ids: Int[Tensor, "batch pos"], layers: list[int]
) -> Float[Tensor, "layer batch pos d_model"]:
    """The inputs of the MLPs of `layers`: x / rms(x) of the residual stream, x where norms are the identity.

    They are the points of `mlp_tensor(model, layer)`: the tensor of a bilinear layer at them is its output.
    """
    norms = [plain(decoder_block(model, layer).post_attention_layernorm) for layer in layers]
    seen: dict[int, Tensor] = {}
    handles = [
        norm.register_forward_pre_hook(
            lambda norm, args, at=at: seen.__setitem__(at, _normalised(norm, args[0]))
        )
        for at, norm in enumerate(norms)
    ]
    try:
        with torch.inference_mode():
            model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([seen[at] for at in range(len(layers))])


def _normalised(norm: Any, x: Tensor) -> Tensor:
    if norm.variance_epsilon >= IDENTITY_EPS:
        return x
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
