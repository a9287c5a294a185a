"""Numbers of a config.json that a model cannot have: NaN, negative scales, frequencies that are infinite.

transformers accepts them, and the model then writes NaN, or numbers that mean nothing, without an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from bilinear_lm.errors import InputError

_LARGEST, _TINY = (2 - 2.0**-23) * 2.0**127, 2.0**-126
"""The range of float32, in which models compute at most: more is infinite there, and less is 0."""
_NOT_NEGATIVE = (0.0, _LARGEST, "a finite number, at least 0")
_POSITIVE = (_TINY, _LARGEST, "a positive number, finite in float32")
_SHARE = (_TINY, 1.0, "a positive number, at most 1")
_PROBABILITY = (0.0, 1.0, "a number from 0 to 1")
_SIZE = (1.0, math.inf, "1 or more")
_RULES = {
    r"\w*_eps|\w*_epsilon|eps|epsilon": _NOT_NEGATIVE,
    r"\w*rope_theta|\w*rotary_emb_base|rope_\w*base_freq": _POSITIVE,
    r"(low_freq_|high_freq_|short_|long_|attention_|attn_|extrapolation_)?factor": _POSITIVE,
    r"beta_fast|beta_slow|original_max_position_embeddings": _POSITIVE,
    r"\w*_multipliers?|logits_scaling|logits?_scale|scale_emb": _POSITIVE,
    r"query_pre_attn_scalar|\w*soft_?cap(ping)?": _POSITIVE,
    r"partial_rotary_factor|rotary_pct": _SHARE,
    r"\w*dropout\w*|\w*_pdrop": _PROBABILITY,
    r"(hidden|intermediate|vocab|embedding)_size|head_dim|n_embd": _SIZE,
    r"num_attention_heads|num_key_value_heads|n_head": _SIZE,
    r"max_position_embeddings|n_positions|n_ctx": _SIZE,
}
"""Patterns of names, each with the least and the largest value and the words of the error."""


def require_meaningful(config: dict[str, Any], where: Path) -> None:
    """Raises InputError for a number of a config.json that no model can have.

    The name of a number tells its range: ε of a norm is finite and not negative; bases and factors of rotary
    positions, multipliers, scales and soft caps are positive and finite; sizes are at least 1. NaN is never
    allowed.
    """
    for name, value in numbers(config):
        broken = [kind for least, most, kind in _rules(name) if not least <= value <= most]
        if broken or value != value:
            shown = name if name.isidentifier() else repr(name)
            expected = broken[0] if broken else "a number"
            raise InputError(f"{where}: config.json says {shown} {value}; expected {expected}")


@cache
def _rules(name: str) -> list[tuple[float, float, str]]:
    return [rule for names, rule in _RULES.items() if re.fullmatch(names, name)]


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a configuration with their names; numbers in a list have the list's name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
