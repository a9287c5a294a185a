"""Transcoders of circuit-tracer: one file `layer_{layer}.safetensors` for each layer.

    W_enc [n_feat, d]    b_enc [n_feat]    W_dec [n_feat, d]    b_dec [d]
    W_skip [d, d]                          adds x @ W_skip.T, where there is one
    activation_function.threshold [n_feat] where the activation is JumpReLU; else it is ReLU

A `config.yaml` beside the files names what they read and write, as TransformerLens hooks.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.saelens import HOOKS
from bilinear_lm.dictionaries.strict import require_tensors
from bilinear_lm.files import own_file, read_text
from bilinear_lm.sites import Site

_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"


def read_circuit_tracer(tensors: dict[str, Tensor], where: Path) -> Dictionary:
    """The transcoder in one file."""
    n_feat, d = (len(tensors[name]) if name in tensors else 0 for name in ("b_enc", "b_dec"))
    shapes = {"W_enc": (n_feat, d), "b_enc": (n_feat,), "W_dec": (n_feat, d), "b_dec": (d,)}
    require_tensors(tensors, shapes, where, optional={"W_skip": (d, d), _THRESHOLD: (n_feat,)})
    threshold, skip = tensors.get(_THRESHOLD), tensors.get("W_skip")
    return Dictionary(
        encoder=tensors["W_enc"].T,
        decoder=tensors["W_dec"],
        b_enc=tensors["b_enc"],
        b_dec=tensors["b_dec"],
        activation="relu" if threshold is None else "jumprelu",
        threshold=threshold,
        # Its JumpReLU has no ReLU inside, which shows below zero only.
        signed=threshold is not None and bool((threshold < 0).any()),
        skip=None if skip is None else skip.T,
        site=_site(where, "feature_input_hook"),
        target=_site(where, "feature_output_hook"),
    )


def _site(file: Path, key: str) -> Site | None:
    config, layer = own_file(file.parent, "config.yaml"), _LAYER.fullmatch(file.name)
    if layer is None or not config.is_file():
        return None
    hook = re.search(rf"^{key}:\s*[\"']?([\w.]+)", read_text(config), flags=re.MULTILINE)
    point = None if hook is None else HOOKS.get(hook[1])
    return None if point is None else Site(int(layer[1]), point)
