"""Names of a model's parts in transformers, and the steps in its blocks besides attention and MLP.

The blocks of every family here are, for f attention and then the MLP,

    x += scale · after(f(before(x)))

with x the residual stream, `before` and `after` RMS norms or nothing, and `scale` a number, mostly 1.
One table, `FAMILIES`, says which of these a family has and under which names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_lm.errors import InputError
from bilinear_lm.files import told
from bilinear_lm.shown import shown

if TYPE_CHECKING:
    from torch import nn

IDENTITY_EPS = 1e12
"""The ε from which an RMSNorm x · γ / sqrt(mean(x²) + ε) is linear to float32 rounding: x · γ / sqrt(ε).
A Llama without norms is written with it and γ = sqrt(ε), which makes every norm the identity."""


@shown
@dataclass(frozen=True)
class Family:
    """Names of a family's parts; None for what it does not have."""

    attention_norm: str | None = "input_layernorm"
    """The norm in front of attention."""
    mlp_norm: str | None = "post_attention_layernorm"
    """The norm in front of the MLP."""
    attention_norm_after: str | None = None
    """The norm through which the output of attention passes before it is added to the residual stream."""
    mlp_norm_after: str | None = None
    """The same for the MLP."""
    offset_norm: str | None = None
    """The class of its norms where they multiply by 1 + weight rather than by weight."""
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """The projections that hold queries, keys and values; a single one holds them one after the other."""
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    """The same for gate and up projection of the MLP."""
    activation: str = "act_fn"
    """The activation of the MLP's gate: attribute of the MLP."""
    activation_name: str = "hidden_act"
    """The name of that activation: attribute of the configuration."""
    embedding_factor: str | None = None
    """The number that the embeddings are multiplied by: attribute of the module that holds the blocks, or of
    the embedding as `embed_tokens.name`."""
    residual_factor: str | None = None
    """The number that attention and MLP are multiplied by when added to the stream: attribute of a block."""
    logits_divisor: str | None = None
    """The number that logits are divided by: attribute of the configuration."""

    @property
    def adds_plainly(self) -> bool:
        """Whether the outputs of attention and MLP are added to the residual stream as they are."""
        return not (self.attention_norm_after or self.mlp_norm_after or self.residual_factor)


FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma": Family(offset_norm="GemmaRMSNorm", embedding_factor="embed_tokens.embed_scale"),
    "gemma2": Family(
        activation_name="hidden_activation",
        mlp_norm="pre_feedforward_layernorm",
        attention_norm_after="post_attention_layernorm",
        mlp_norm_after="post_feedforward_layernorm",
        offset_norm="Gemma2RMSNorm",
        embedding_factor="embed_tokens.embed_scale",
    ),
    "phi3": Family(qkv=("qkv_proj",), gate_up=("gate_up_proj",), activation="activation_fn"),
    "olmo2": Family(
        attention_norm=None,
        mlp_norm=None,
        attention_norm_after="post_attention_layernorm",
        mlp_norm_after="post_feedforward_layernorm",
    ),
    "granite": Family(
        embedding_factor="embedding_multiplier",
        residual_factor="residual_multiplier",
        logits_divisor="logits_scaling",
    ),
}
"""The families by the `model_type` of a transformers configuration."""


def is_family(model_or_bridge: nn.Module) -> bool:
    """Whether a model has an entry in the table."""
    return _type_name(model_or_bridge) in FAMILIES


def family_of(model_or_bridge: nn.Module) -> Family:
    """The entry of a model in the table; InputError where it has none."""
    return FAMILIES[_model_type(model_or_bridge)]


def residual_factor(model_or_bridge: nn.Module, layer: int) -> float:
    """The number by which a block multiplies what its attention and its MLP add to the stream; mostly 1."""
    name = family_of(model_or_bridge).residual_factor
    return float(getattr(plain(decoder_block(model_or_bridge, layer)), name)) if name else 1.0


def logit_soft_cap(model_or_bridge: nn.Module) -> float | None:
    """c of the soft cap c tanh(z / c) that a model (Gemma 2) puts on its logits z; None without one."""
    return getattr(causal_model(model_or_bridge).config, "final_logit_softcapping", None)


def require_plain_blocks(model_or_bridge: nn.Module, what: str) -> None:
    """Raises InputError where a block is not x += attention(norm(x)); x += mlp(norm(x)).

    To be asked where the outputs of attention and MLP are added up; `what` names the computation in the
    message.
    """
    if not family_of(model_or_bridge).adds_plainly:
        plain_ones = ", ".join(name for name, family in FAMILIES.items() if family.adds_plainly)
        raise InputError(
            f"{what} of a {_model_type(model_or_bridge)} model, which normalises or scales what attention "
            "and MLP put out before adding it to the residual stream; expected a model that adds it as it "
            f"is: {plain_ones}"
        )


def causal_model(model_or_bridge: nn.Module) -> Any:
    """The transformers model of a bridge, or the model itself; InputError for another family."""
    model = getattr(model_or_bridge, "original_model", model_or_bridge)
    _model_type(model)
    return model


def model_name(model_or_bridge: nn.Module) -> str | None:
    """A model's hub repository, or the last part of its folder's path; None where it has neither."""
    config = getattr(causal_model(model_or_bridge), "config", None)
    name = str(getattr(config, "_name_or_path", "") or "")
    is_relative = name.startswith(".") or name.count("/") > 1
    return (Path(name).name if is_relative else told(name)) or None


def decoder(model_or_bridge: nn.Module) -> Any:
    """The module that holds the embedding, the blocks and the final norm."""
    return plain(causal_model(model_or_bridge).model)


def decoder_block(model_or_bridge: nn.Module, layer: int) -> Any:
    """The transformers module of one block; its parts may be wrapped by a bridge (see `plain`)."""
    blocks = decoder(model_or_bridge).layers
    if not -len(blocks) <= layer < len(blocks):
        raise InputError(f"layer {layer} does not exist; the model has layers 0 to {len(blocks) - 1}")
    return plain(blocks[layer])


def mlp_norm(model_or_bridge: nn.Module, layer: int) -> Any | None:
    """The norm in front of an MLP, as it lies in its block; None where the MLP reads the residual stream."""
    name = family_of(model_or_bridge).mlp_norm
    return name and getattr(decoder_block(model_or_bridge, layer), name)


def attention_norm(model_or_bridge: nn.Module, layer: int) -> Any | None:
    """The norm in front of attention, as it lies in its block; None where attention reads the stream."""
    name = family_of(model_or_bridge).attention_norm
    return name and getattr(decoder_block(model_or_bridge, layer), name)


def plain(module: Any) -> Any:
    """The transformers module itself where a bridge has wrapped it."""
    return getattr(module, "_original_component", None) or module


def require_unhooked(model: nn.Module, what: str) -> None:
    """Raises InputError for a model that `bilinear_lm.hook` has changed; `what` says what it is to do."""
    if any(plain(module) is not module for module in model.modules()):
        raise InputError(
            f"the model {what} is hooked; expected a transformers model, as unhook(bridge) returns"
        )


def _model_type(model_or_bridge: nn.Module) -> str:
    family = _type_name(model_or_bridge)
    if family not in FAMILIES:
        raise InputError(f"weights of a {family} model; expected one of {', '.join(FAMILIES)}")
    return family


def _type_name(model_or_bridge: nn.Module) -> str:
    model = getattr(model_or_bridge, "original_model", model_or_bridge)
    return getattr(getattr(model, "config", None), "model_type", type(model).__name__)
