"""A published checkpoint as a transformers Llama with the same logits.

The map is exact but for rounding: rows (q, k, v) are split, the left branch is `gate_proj` and the right
one `up_proj`, the attention scale multiplies `o_proj`, and a norm's bias moves into the biases of the maps
that read it. A part that is missing becomes weights without effect: a missing right branch is `up_proj` zero
with bias one, missing norms are norms that do nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig

from bilinear_lm.checkpoints.published import PublishedSpec
from bilinear_lm.errors import InputError
from bilinear_lm.norms import IDENTITY_EPS

_PUBLISHED_EPS = 1e-8


def to_llama(
    spec: PublishedSpec, tensors: dict[str, Tensor], where: Path, scaled: bool | None = None
) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """The configuration and state dict of the Llama that a published checkpoint is.

    `scaled` overrides whether the attention branch is scaled.
    """
    used = {name: tensors[name].float() for name in spec.shapes()}
    *norms, final = [_Norm(spec, used, name) for name in spec.norms()]
    if final.bias.any():
        raise InputError(
            f"{where}: {final.name}.bias is not zero: a transformers Llama has no bias at its final norm "
            "and cannot express this model"
        )
    before_attention, before_mlp = norms[::2], norms[1::2]
    attention_bias = spec.qkv_bias or any(bool(norm.bias.any()) for norm in before_attention)
    # An ordinary MLP needs the bias for its right branch, which is one everywhere.
    mlp_bias = spec.w_bias or not spec.two_branches or any(bool(norm.bias.any()) for norm in before_mlp)

    state = {
        "model.embed_tokens.weight": used["transformer.wte.weight"],
        "model.norm.weight": final.weight,
        "lm_head.weight": used["lm_head.weight"],
    }
    scale = spec.attention_scale(scaled)
    for i, (n1, n2) in enumerate(zip(before_attention, before_mlp, strict=True)):
        layer = {"input_layernorm.weight": n1.weight, "post_attention_layernorm.weight": n2.weight}
        attention = _attention(used, f"transformer.h.{i}.attn", n1.bias, scale)
        mlp = _mlp(spec, used, f"transformer.h.{i}.mlp", n2.bias)
        for part, has_bias in ((attention, attention_bias), (mlp, mlp_bias)):
            layer |= {name: value for name, value in part.items() if has_bias or name.endswith("weight")}
        state |= {f"model.layers.{i}.{name}": value for name, value in layer.items()}
    return _config(spec, attention_bias, mlp_bias, _epsilon([*norms, final], where)), state


def _config(spec: PublishedSpec, attention_bias: bool, mlp_bias: bool, epsilon: float) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=spec.d_vocab,
        hidden_size=spec.d_model,
        intermediate_size=spec.d_mlp,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads,
        num_key_value_heads=spec.n_heads,
        hidden_act=spec.activation,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        rms_norm_eps=epsilon,
        max_position_embeddings=spec.n_ctx,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        # The file does not say which tokens begin and end a text; the tokenizer does.
        bos_token_id=None,
        eos_token_id=None,
    )


class _Norm:
    """One norm as a Llama's: x → weight·x / sqrt(mean(x²) + epsilon), and the bias that is left to fold."""

    def __init__(self, spec: PublishedSpec, tensors: dict[str, Tensor], name: str):
        def parameter(suffix: str, default: float) -> Tensor:
            value = tensors.get(f"{name}.{suffix}", torch.tensor(default))
            return value.expand(spec.d_model).clone()

        self.name = name
        self.weight = parameter("weight", 1.0) * parameter("a", 1.0)
        self.bias = parameter("bias", 0.0)
        self.epsilon = parameter("b", 0.0)[0].item() + _PUBLISHED_EPS
        if not spec.has_norms:
            self.weight, self.epsilon = torch.full_like(self.weight, IDENTITY_EPS**0.5), IDENTITY_EPS


def _epsilon(norms: list[_Norm], where: Path) -> float:
    values = {norm.epsilon for norm in norms}
    if len(values) > 1:
        epsilons = ", ".join(f"{norm.name} {norm.epsilon:g}" for norm in norms)
        raise InputError(
            f"{where}: the norms' epsilons differ ({epsilons}): a transformers Llama has one epsilon and "
            "cannot express this model"
        )
    return values.pop()


def _attention(
    tensors: dict[str, Tensor], name: str, shift: Float[Tensor, "d_model"], scale: float
) -> dict[str, Tensor]:
    weight, bias = _reading(tensors, f"{name}.qkv", shift)
    out = tensors[f"{name}.o.weight"] * scale
    attention = {"o_proj.weight": out, "o_proj.bias": torch.zeros(len(out))}
    for part, part_weight, part_bias in zip("qkv", weight.chunk(3), bias.chunk(3), strict=True):
        attention |= {f"{part}_proj.weight": part_weight.clone(), f"{part}_proj.bias": part_bias.clone()}
    return {f"self_attn.{key}": value for key, value in attention.items()}


def _mlp(
    spec: PublishedSpec, tensors: dict[str, Tensor], name: str, shift: Float[Tensor, "d_model"]
) -> dict[str, Tensor]:
    weight, bias = _reading(tensors, f"{name}.w", shift)
    if not spec.two_branches:
        weight = torch.cat([weight, torch.zeros_like(weight)])
        bias = torch.cat([bias, torch.ones_like(bias)])
    (left, right), (left_bias, right_bias) = weight.chunk(2), bias.chunk(2)
    out_bias = tensors.get(f"{name}.{spec.out_name}.bias", torch.zeros(spec.d_model))
    return {
        "mlp.gate_proj.weight": left.clone(),
        "mlp.gate_proj.bias": left_bias.clone(),
        "mlp.up_proj.weight": right.clone(),
        "mlp.up_proj.bias": right_bias.clone(),
        "mlp.down_proj.weight": tensors[f"{name}.{spec.out_name}.weight"],
        "mlp.down_proj.bias": out_bias,
    }


def _reading(
    tensors: dict[str, Tensor], name: str, shift: Float[Tensor, "d_model"]
) -> tuple[Float[Tensor, "d_out d_model"], Float[Tensor, "d_out"]]:
    """The map `name` and its bias, where `shift` is added to the map's input: W(x + shift) + bias."""
    weight = tensors[f"{name}.weight"]
    bias = tensors.get(f"{name}.bias", torch.zeros(len(weight)))
    return weight, (bias.double() + weight.double() @ shift.double()).float()
