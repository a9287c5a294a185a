"""Configurations that can be read without transformers, whose classes take seconds to load.

A config.json of a Llama that states all of its sizes, and nothing but what transformers itself writes,
leaves nothing to fill in. Every other one is left to transformers, which knows the defaults and refuses what
is wrong.
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


@dataclass(frozen=True)
class StatedLlama:
    """The sizes and parts of a Llama, by the names in its config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    hidden_act: str
    rms_norm_eps: float
    tie_word_embeddings: bool

    model_type = "llama"

    def get_text_config(self) -> StatedLlama:
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


def stated_llama(values: dict[str, Any]) -> StatedLlama | None:
    """The Llama that a config.json states in full; None for what transformers has to read.

    >>> stated_llama({"model_type": "llama", "hidden_size": 64}) is None
    True
    """
    names = [field.name for field in fields(StatedLlama)]
    plain = all(name in _PLAIN and _PLAIN[name](value) for name, value in values.items())
    if not plain or not {"model_type", *names} <= values.keys():
        return None
    if values["hidden_size"] % values["num_attention_heads"]:
        return None
    return StatedLlama(**{name: values[name] for name in names})


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds  # a bool is no int here


def _among(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _is_token(value: Any) -> bool:
    return value is None or type(value) is int


def _is_default_rope(value: Any) -> bool:
    named = isinstance(value, dict) and value.keys() == {"rope_theta", "rope_type"}
    return named and type(value["rope_theta"]) in (int, float) and value["rope_type"] == "default"


_PLAIN: dict[str, Callable[[Any], bool]] = {
    "model_type": _among("llama"),
    "architectures": _among(["LlamaForCausalLM"]),
    "transformers_version": _is(str),
    "dtype": _among("float32", "float16", "bfloat16"),
    "vocab_size": _is(int),
    "hidden_size": _is(int),
    "intermediate_size": _is(int),
    "num_hidden_layers": _is(int),
    "num_attention_heads": _is(int),
    "num_key_value_heads": _is(int),
    "max_position_embeddings": _is(int),
    "head_dim": _is(int),
    "pretraining_tp": _is(int),
    "hidden_act": _is(str),
    "rms_norm_eps": _is(float),
    "initializer_range": lambda value: type(value) is float and 0 <= value <= 1,
    "attention_dropout": _is(int, float),
    "attention_bias": _is(bool),
    "mlp_bias": _is(bool),
    "tie_word_embeddings": _is(bool),
    "use_cache": _is(bool),
    "bos_token_id": _is_token,
    "eos_token_id": _is_token,
    "pad_token_id": _is_token,
    "rope_parameters": _is_default_rope,
}
"""Entries that transformers takes as they are, and whether a value is such."""
