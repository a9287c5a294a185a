"""`BlockWeights`: the weights of one block of a model that analyses of circuits need, read once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.attention.layer import AttentionLayer, attention_layer
from bilinear_lm.families import causal_model, mlp_norm
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_norm_factor, mlp_tensor


@shown
@dataclass(frozen=True)
class BlockWeights:
    """The attention and the bilinear MLP of a block, in one precision."""

    number: int
    W_V: Float[Tensor, "n_kv_heads d_model d_head"]
    """Value weights that read x / rms(x), one for all heads that share it (grouped-query attention)."""
    W_O: Float[Tensor, "n_heads d_head d_model"]
    attention_bias: Float[Tensor, " d_model"] | None
    """The constant part of the attention's output; None: nothing."""
    at_mlp_in: BilinearTensor
    """The MLP as a function of the output of the norm in front."""
    factor: Float[Tensor, " d_model"]
    """The factor by which that norm multiplies x / rms(x); 1 without a norm."""
    has_norms: bool
    """Whether there are norms in front of attention and MLP."""
    model: nn.Module = field(repr=False)

    def attention(self, n_tokens: int) -> AttentionLayer:
        """All weights of the attention for a prompt of so many tokens, in a copy."""
        return attention_layer(self.model, self.number, n_tokens)

    @property
    def folded(self) -> BilinearTensor:
        """The MLP as a function of x / rms(x); made anew each time, as large as the layer."""
        rows = torch.cat([self.factor, self.factor.new_ones(self.at_mlp_in.d_in - len(self.factor))])
        tensor, rows = self.at_mlp_in, rows.unsqueeze(-1)
        return BilinearTensor(tensor.W_gate * rows, tensor.W_in * rows, tensor.W_out, tensor.constant)


def block_weights(model: nn.Module, layer: int, like: Tensor) -> BlockWeights:
    """The weights of a block, on the device and in the precision of `like`."""
    # Values and outputs only: nothing of it depends on angles, and so on the length of a prompt.
    attention = attention_layer(model, layer, n_tokens=1)
    group = attention.n_heads // causal_model(model).config.num_key_value_heads
    return BlockWeights(
        number=layer,
        W_V=attention.weights.W_V[::group].clone(),
        W_O=attention.weights.W_O,
        attention_bias=attention.bias,
        at_mlp_in=mlp_tensor(model, layer, fold_norm=False).to(like.dtype),
        factor=mlp_norm_factor(model, layer).to(like),
        has_norms=mlp_norm(model, layer) is not None,
        model=model,
    )
