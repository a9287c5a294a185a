"""Dictionaries of Gemma Scope and Gemma Scope 2: JumpReLU SAEs and transcoders.

A folder such as `layer_20/width_16k/average_l0_71` of Gemma Scope holds `params.npz`:

    W_enc [d_in, n_feat]    b_enc [n_feat]    W_dec [n_feat, d_out]    b_dec [d_out]    threshold [n_feat]

and one of Gemma Scope 2 holds `params.safetensors` with the same in lower case, and

    affine_skip_connection [d_in, d_out]    where there is one; adds x @ affine_skip_connection

`b_dec` is not subtracted before encoding. A `config.json` beside the file names the Hugging Face modules that
a dictionary reads and writes. In Gemma Scope only the names of repository and folder tell them, as
`gemma-scope-2b-pt-res/layer_20`, where they are part of the path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.strict import require_tensors, require_value
from bilinear_lm.sites import Point, Site

ARRAYS, WEIGHTS = "params.npz", "params.safetensors"

_REPOSITORY = re.compile(
    r"gemma-scope-\w+-(?:pt|it)-(?P<kind>res|mlp|transcoders)(?![\w-]).*/layer_(?P<layer>\d{1,9})/"
)
_WRITES: dict[str, Point] = {"res": "resid-post", "mlp": "mlp-out", "transcoders": "mlp-out"}
_MODULE = re.compile(r"(?:.*\.)?layers\.(?P<layer>\d{1,9})\.(?P<module>[\w.]+)")
_MODULES: dict[str, Point] = {
    "output": "resid-post",
    "pre_feedforward_layernorm.output": "mlp-in",
    "post_feedforward_layernorm.output": "mlp-out",
}
_SKIP = "affine_skip_connection"


def read_gemma_scope(tensors: dict[str, Tensor], file: Path) -> Dictionary:
    """The dictionary in a `params.npz`."""
    # Some of the files write w_enc and w_dec.
    tensors = {re.sub("^w_", "W_", name): value for name, value in tensors.items()}
    match = _REPOSITORY.search(f"{file.absolute().as_posix()}")
    written = None if match is None else Site(int(match["layer"]), _WRITES[match["kind"]])
    transcoder = match is not None and match["kind"] == "transcoders"
    # Transcoders read the output of the norm before its weight, which is none of the points.
    site, target = (None, written) if transcoder else (written, None)
    return _dictionary(tensors, file, site, target)


def read_gemma_scope_2(tensors: dict[str, Tensor], config: dict[str, Any] | None, file: Path) -> Dictionary:
    """The dictionary in a `params.safetensors`, beside its configuration if there is one."""
    config = config or {}
    require_value("architecture", config.get("architecture", "jump_relu"), "jump_relu", file)
    tensors = {re.sub("^w_", "W_", name): value for name, value in tensors.items()}
    site, target = (_site(config.get(f"hf_hook_point_{end}")) for end in ("in", "out"))
    return _dictionary(tensors, file, site, None if target == site else target)


def _dictionary(tensors: dict[str, Tensor], file: Path, site: Site | None, target: Site | None) -> Dictionary:
    n_feat, d_out = tensors["W_dec"].shape if "W_dec" in tensors and tensors["W_dec"].ndim == 2 else (0, 0)
    d_in = len(tensors["W_enc"]) if "W_enc" in tensors and tensors["W_enc"].ndim else 0
    shapes = {"W_enc": (d_in, n_feat), "W_dec": (n_feat, d_out), "b_dec": (d_out,)}
    shapes |= dict.fromkeys(("b_enc", "threshold"), (n_feat,))
    require_tensors(tensors, shapes, file, optional={_SKIP: (d_in, d_out)})
    return Dictionary(
        encoder=tensors["W_enc"],
        decoder=tensors["W_dec"],
        b_enc=tensors["b_enc"],
        b_dec=tensors["b_dec"],
        activation="jumprelu",
        threshold=tensors["threshold"],
        skip=tensors.get(_SKIP),
        site=site,
        target=target,
    )


def _site(module: Any) -> Site | None:
    match = _MODULE.fullmatch(str(module))
    if match is None or match["module"] not in _MODULES:
        return None
    return Site(int(match["layer"]), _MODULES[match["module"]])
