"""The sizes that a config.json asks for, compared with the tensors beside it before anything is built.

A configuration of a hundred bytes can ask for a billion layers. transformers makes a list entry for each
while it reads the configuration, and allocates missing tensors before it reports them.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_lm.checkpoints.config_numbers import numbers
from bilinear_lm.checkpoints.folder import Shape
from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from bilinear_lm.checkpoints.stated_config import StatedConfig

_LAYERS = {"num_hidden_layers", "num_layers", "n_layers", "n_layer"}
_COUNT = re.compile(r"(num|n)_(?!ctx$|positions$|vocab$)\w+|\w+_layers?")
_MOST = 100_000
"""Limit for layers, heads, experts, labels: more than any model has, and few enough to list."""
_SLACK = 10_000_000
"""Numbers that a model may have besides twice those of its file: tables of positions, buffers."""


def require_counts(config: dict[str, Any], where: Path, n_tensors: int | None = None) -> None:
    """Raises InputError for numbers of layers and the like that no model has.

    Where the number of tensors beside the configuration is given, also for more layers than tensors.
    """
    for name, value in numbers(config):
        if n_tensors is not None and name in _LAYERS and value > n_tensors:
            raise InputError(
                f"{where}: config.json says {name} {value}, and there are {n_tensors} tensors in all; "
                "expected the configuration of these weights"
            )
        if _COUNT.fullmatch(name) and value > _MOST:
            raise InputError(f"{where}: config.json says {name} {value}; expected at most {_MOST}")


def require_room(config: PretrainedConfig, shapes: dict[str, Shape], where: Path) -> None:
    """Raises InputError where a model of this configuration is far larger than its file.

    The model is laid out without memory. A file that lacks a few tensors is left to `load_huggingface`, which
    names them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    needed = sum(value.numel() for value in (*model.parameters(), *model.buffers()))
    there = sum(math.prod(shape) for shape in shapes.values())
    if needed > 2 * there + _SLACK:
        raise InputError(
            f"{where}: config.json asks for {needed:,} numbers, the weights hold {there:,}; "
            "expected the configuration of these weights"
        )


def require_fitting(config: PretrainedConfig | StatedConfig, shapes: dict[str, Shape], where: Path) -> None:
    """Raises InputError where embedding, MLPs or layers have other sizes than the configuration says.

    Checks families whose tensors are named as a Llama's; loading tells whether every tensor fits.
    """
    d, hidden, d_vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    sizes = {"embed_tokens": (d_vocab, d), "lm_head": (d_vocab, d), "mlp.down_proj": (d, hidden)}
    problems = [
        f"{key} has shape {shape}, expected {size}"
        for key, shape in sorted(shapes.items())
        for name, size in sizes.items()
        if key.endswith(f"{name}.weight") and shape != size
    ]
    numbers = {int(match[1]) for key in shapes if (match := re.search(r"\.layers\.(\d+)\.", key))}
    if numbers != set(range(config.num_hidden_layers)):
        problems.append(f"there are {len(numbers)} layers, expected {config.num_hidden_layers}")
    if problems:
        raise InputError(f"{where}: the weights do not fit config.json: {'; '.join(problems)}")
