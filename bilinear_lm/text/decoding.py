"""The choice of the next token: by the arguments, or also by a checkpoint's own settings.

transformers' `generate` takes every setting that a call does not name from the model's `generation_config`,
which comes with the checkpoint. Here these are neutral, unless the checkpoint's settings are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from bilinear_lm.errors import InputError

LEAST_TEMPERATURE = 1e-6
"""The least temperature; below it logits divided by the temperature can exceed float32."""

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

_ANY_DECODING = (
    *("do_sample", "num_beams", "early_stopping", "length_penalty", "repetition_penalty"),
    *("no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty", "guidance_scale"),
    *("renormalize_logits", "remove_invalid_values", "watermarking_config"),
    *("min_length", "min_new_tokens", "max_length", "max_new_tokens", "max_time", "stop_strings"),
)

_NOT_FOLLOWED = {
    "constraints": None,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "force_words_ids": None,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "token_healing": False,
}
"""Settings of a checkpoint that change its texts and that transformers does not follow by itself, with the
value at which each does nothing."""


def decoding_settings(model: PreTrainedModel, temperature: float | None, checkpoint: bool) -> dict[str, Any]:
    """The settings of `generate`: greedy decoding at temperature 0, else sampling at it, 1 by default.

    With `checkpoint` the settings of the model's `generation_config` are added. A given temperature overrides
    them, and 0 means no sampling whatever they say. Settings of the output, the cache and the speed are left
    out, and so are those of assisted decoding, which gives the same texts faster.
    """
    settings: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if checkpoint:
        settings |= _of_checkpoint(model.generation_config)
    if temperature is not None:
        settings |= {"do_sample": temperature > 0, "temperature": float(temperature)}
    if not settings["do_sample"]:
        return {name: value for name, value in settings.items() if name not in _SAMPLING}
    return settings


def _of_checkpoint(configured: GenerationConfig) -> dict[str, Any]:
    for name, neutral in _NOT_FOLLOWED.items():
        value = getattr(configured, name, None)
        if value is not None and value != neutral:
            raise InputError(
                f"the checkpoint's generation_config has {name}={value!r}, which cannot be followed; leave "
                "its settings out"
            )
    settings = {name: getattr(configured, name, None) for name in (*_SAMPLING, *_ANY_DECODING)}
    return {name: value for name, value in settings.items() if value is not None}


@contextmanager
def only_given_settings(model: PreTrainedModel) -> Iterator[None]:
    """Keeps `model.generate` to the settings that it is given, while open."""
    configured = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = configured
