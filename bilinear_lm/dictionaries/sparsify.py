"""Dictionaries of sparsify (`eai-sparsify`), which also trains those of this library.

A folder named after the module it was trained on holds `cfg.json` and `sae.safetensors`:

    encoder.weight [n_feat, d]    encoder.bias [n_feat]    W_dec [n_feat, d]    b_dec [d]
    W_skip [d, d]                 where `skip_connection`; adds x @ W_skip.T

The code is ReLU, then the k largest. `b_dec` is subtracted before encoding unless `transcode`. Files written
here also tell their site, which sparsify ignores; else the folder's name does (layers.3.mlp).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.strict import require_tensors, require_value, setting
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Point, Site

WEIGHTS = "sae.safetensors"
MODULE_OUTPUTS: dict[str, Point] = {
    "": "resid-post",
    ".self_attn": "attn-out",
    ".self_attn.o_proj": "attn-out",
    ".post_attention_layernorm": "mlp-in",
    ".mlp": "mlp-out",
}
"""The points that the modules of a block put out, by the module's name after `layers.{layer}`."""
_HOOKPOINT = re.compile(r"(?:layers|h)\.(?P<layer>\d{1,9})(?P<module>[\w.]*)")


def read_sparsify(tensors: dict[str, Tensor], config: dict[str, Any], where: Path) -> Dictionary:
    """The dictionary of a sparsify folder."""
    require_value("activation", config.get("activation", "topk"), "topk", where)
    require_value("signed", config.get("signed", False), False, where)
    transcode = setting(config, "transcode", bool, where, False)
    skip = setting(config, "skip_connection", bool, where, False)
    d = setting(config, "d_in", int, where)
    n_feat = setting(config, "num_latents", int, where, 0) or d * setting(
        config, "expansion_factor", int, where, 32
    )
    shapes = {"encoder.weight": (n_feat, d), "encoder.bias": (n_feat,), "W_dec": (n_feat, d), "b_dec": (d,)}
    require_tensors(tensors, shapes | ({"W_skip": (d, d)} if skip else {}), where)
    site, target = _sites(config, transcode, where)
    return Dictionary(
        encoder=tensors["encoder.weight"].T,
        decoder=tensors["W_dec"],
        b_enc=tensors["encoder.bias"],
        b_dec=tensors["b_dec"],
        activation="topk",
        k=setting(config, "k", int, where),
        b_dec_to_input=not transcode,
        skip=tensors["W_skip"].T if skip else None,
        site=site,
        target=target,
    )


def _sites(config: dict[str, Any], transcode: bool, where: Path) -> tuple[Site | None, Site | None]:
    written = [config.get(name) for name in ("site", "target")]
    if any(value is not None for value in written):
        site, target = (None if value is None else Site.parse(str(value)) for value in written)
        return site, target
    match = _HOOKPOINT.fullmatch(where.name)
    if match is None or match["module"] not in MODULE_OUTPUTS:
        return None, None
    put_out = Site(int(match["layer"]), MODULE_OUTPUTS[match["module"]])
    if not transcode:
        return put_out, None
    # Of the inputs of modules only the MLP's has a name among the points.
    return (Site(put_out.layer, "mlp-in") if put_out.point == "mlp-out" else None), put_out


def write_sparsify(dictionary: Dictionary) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the configuration of a dictionary; InputError where the format has no place for it."""
    if dictionary.activation != "topk" or dictionary.signed:
        kind = "signed topk" if dictionary.signed else dictionary.activation
        raise InputError(f"sparsify has no {kind} dictionaries, only topk after a ReLU; save as saelens")
    if dictionary.normalization != "none":
        raise InputError(f"sparsify has no dictionary that {dictionary.nonlinear}; save as saelens")
    if dictionary.d_in != dictionary.d_out:
        raise InputError(
            f"sparsify has one width, this dictionary reads {dictionary.d_in} and writes {dictionary.d_out}"
        )
    n_feat, d_in = dictionary.n_feat, dictionary.d_in
    zeros = torch.zeros(n_feat + d_in, dtype=dictionary.dtype, device=dictionary.device)
    tensors = {
        "encoder.weight": dictionary.encoder.T,
        "encoder.bias": zeros[:n_feat] if dictionary.b_enc is None else dictionary.b_enc,
        "W_dec": dictionary.decoder,
        "b_dec": zeros[n_feat:] if dictionary.b_dec is None else dictionary.b_dec,
    }
    if dictionary.skip is not None:
        tensors["W_skip"] = dictionary.skip.T
    config = {
        "activation": "topk",
        "expansion_factor": max(1, n_feat // d_in),
        "normalize_decoder": False,
        "num_latents": n_feat,
        "k": dictionary.k,
        "multi_topk": False,
        "skip_connection": dictionary.skip is not None,
        "transcode": not dictionary.b_dec_to_input,
        "d_in": d_in,
        "site": None if dictionary.site is None else str(dictionary.site),
        "target": None if dictionary.target is None else str(dictionary.target),
    }
    return tensors, config
