"""Configurations that can be read without transformers, whose classes take seconds to load.

A config.json of a family of `bilinear_lm.families` that states all of its sizes, and nothing but what
transformers itself writes, leaves nothing to fill in. Every other one is left to transformers, which knows
the defaults and refuses what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bilinear_lm.checkpoints.config_numbers import require_meaningful
from bilinear_lm.checkpoints.folder import read_config
from bilinear_lm.checkpoints.sizes import require_counts
from bilinear_lm.errors import InputError
from bilinear_lm.families import FAMILIES


@dataclass(frozen=True)
class StatedConfig:
    """The sizes and parts of a model, by the names in its config.json."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    hidden_act: str | None = None
    """The activation of the MLP's gate, in the families that name it so; None in the others."""
    hidden_activation: str | None = None
    """The same under the name that Gemma 2 has for it."""

    def get_text_config(self) -> StatedConfig:
        """The configuration itself; of transformers' the part about language."""
        return self


def read_values(folder: Path, n_tensors: int | None = None) -> dict[str, Any]:
    """The config.json of a folder as it is written; InputError for numbers that no model can have.

    `n_tensors` is given where the weights are there too: no model has more layers than tensors.
    """
    values = read_config(folder)
    require_counts(values, folder, n_tensors)
    require_meaningful(values, folder)
    if "model_type" not in values:
        raise InputError(f"{folder / 'config.json'}: no model_type; expected that of a transformers model")
    if "quantization_config" in values:
        raise InputError(
            f"{folder}: quantised weights, which are not the model's own; give the original ones"
        )
    return values


def stated_config(values: dict[str, Any]) -> StatedConfig | None:
    """The configuration that a config.json states in full; None for what transformers has to read.

    >>> stated_config({"model_type": "llama", "hidden_size": 64}) is None
    True
    """
    model_type = values.get("model_type")
    if type(model_type) is not str or model_type not in _OWN:
        return None
    plain = _PLAIN | _OWN[model_type]
    activation = FAMILIES[model_type].activation_name
    names = [field.name for field in fields(StatedConfig) if not field.name.startswith("hidden_act")]
    names.append(activation)
    if not set(names) <= values.keys() or any({old, new} <= values.keys() for old, new in _RENAMED.items()):
        return None
    if not all(name in plain and plain[name](value) for name, value in values.items()):
        return None
    if values.get("architectures", [_ARCHITECTURES[model_type]]) != [_ARCHITECTURES[model_type]]:
        return None
    if values["hidden_size"] % values["num_attention_heads"]:
        return None
    if len(values.get("layer_types", range(values["num_hidden_layers"]))) != values["num_hidden_layers"]:
        return None
    return StatedConfig(**{name: values[name] for name in names})


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds  # a bool is no int here


def _among(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


_is_number = _is(int, float)


def _is_token(value: Any) -> bool:
    return value is None or type(value) is int


def _is_default_rope(value: Any) -> bool:
    named = isinstance(value, dict) and value.keys() == {"rope_theta", "rope_type"}
    return named and _is_number(value["rope_theta"]) and value["rope_type"] == "default"


def _is_partial_rope(value: Any) -> bool:
    """The same with a part of each head that is rotated."""
    if not isinstance(value, dict) or type(value.get("partial_rotary_factor")) is not float:
        return False
    return _is_default_rope({name: inner for name, inner in value.items() if name != "partial_rotary_factor"})


def _are_layer_types(value: Any) -> bool:
    return isinstance(value, list) and all(one in ("full_attention", "sliding_attention") for one in value)


_PLAIN: dict[str, Callable[[Any], bool]] = {
    "model_type": _is(str),
    "architectures": _is(list),
    "transformers_version": _is(str),
    "dtype": _among("float32", "float16", "bfloat16"),
    "torch_dtype": _among("float32", "float16", "bfloat16"),
    "vocab_size": _is(int),
    "hidden_size": _is(int),
    "intermediate_size": _is(int),
    "num_hidden_layers": _is(int),
    "num_attention_heads": _is(int),
    "num_key_value_heads": _is(int),
    "max_position_embeddings": _is(int),
    "head_dim": _is(int),
    "rms_norm_eps": _is(float),
    "initializer_range": lambda value: type(value) is float and 0 <= value <= 1,
    "attention_dropout": _is_number,
    "tie_word_embeddings": _is(bool),
    "use_cache": _is(bool),
    "bos_token_id": _is_token,
    "eos_token_id": _is_token,
    "pad_token_id": _is_token,
    "rope_parameters": _is_default_rope,
    "rope_theta": _is_number,
    "rope_scaling": _among(None),
}
"""Entries that transformers takes as they are in all families, and whether a value is such."""
_RENAMED = {"torch_dtype": "dtype", "rope_theta": "rope_parameters", "rope_scaling": "rope_parameters"}
"""Names of older versions of transformers; a file that has both is left to transformers."""
_ACT, _BIAS = {"hidden_act": _is(str)}, {"attention_bias": _is(bool)}
_WINDOW = {"sliding_window": _is(int, type(None))}
_WINDOWS = _WINDOW | {
    "use_sliding_window": _is(bool),
    "max_window_layers": _is(int),
    "layer_types": _are_layer_types,
}
_OWN: dict[str, dict[str, Callable[[Any], bool]]] = {
    "llama": _ACT | _BIAS | {"mlp_bias": _is(bool), "pretraining_tp": _is(int)},
    "mistral": _ACT | _WINDOW,
    "qwen2": _ACT | _WINDOWS,
    "qwen3": _ACT | _BIAS | _WINDOWS,
    # "gelu" stands for another activation in Gemma.
    "gemma": _BIAS
    | {
        "hidden_act": lambda value: type(value) is str and value != "gelu",
        "use_bidirectional_attention": _among(None),
    },
    "gemma2": _BIAS
    | _WINDOW
    | {
        "hidden_activation": _is(str),
        "layer_types": _are_layer_types,
        "query_pre_attn_scalar": _is(int),
        "attn_logit_softcapping": _is(float, type(None)),
        "final_logit_softcapping": _is(float, type(None)),
        "use_bidirectional_attention": _among(None),
    },
    "phi3": _ACT
    | _WINDOW
    | {
        "embd_pdrop": _is_number,
        "resid_pdrop": _is_number,
        "original_max_position_embeddings": _is(int),
        "rope_parameters": lambda value: _is_default_rope(value) or _is_partial_rope(value),
    },
    "olmo2": _ACT | _BIAS,
    "granite": _ACT
    | _BIAS
    | {
        "mlp_bias": _is(bool),
        "embedding_multiplier": _is_number,
        "residual_multiplier": _is_number,
        "attention_multiplier": _is_number,
        "logits_scaling": _is_number,
    },
}
"""The same in each family alone."""
_ARCHITECTURES = {model_type: f"{model_type.capitalize()}ForCausalLM" for model_type in _OWN}
"""The class that transformers writes for each."""
