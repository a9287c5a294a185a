"""Dictionaries of SAELens: a folder with `cfg.json` and `sae_weights.safetensors`.

    W_enc [d_in, n_feat]    b_enc [n_feat]    W_dec [n_feat, d_out]    b_dec [d_out]
    threshold [n_feat]      of the jumprelu architectures
    W_skip [d_out, d_in]    of the skip transcoders; adds x @ W_skip.T

Configurations from before version 6, which are flat and may name an activation beside "standard", are read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilinear_lm.dictionaries.strict import require_tensors, require_value, setting
from bilinear_lm.dictionary import Activation, Dictionary, Point, Site
from bilinear_lm.errors import InputError

WEIGHTS = "sae_weights.safetensors"
ARCHITECTURES: dict[str, tuple[Activation, bool, bool]] = {
    "standard": ("relu", False, False),
    "topk": ("topk", False, False),
    "jumprelu": ("jumprelu", False, False),
    "transcoder": ("relu", True, False),
    "skip_transcoder": ("relu", True, True),
    "jumprelu_transcoder": ("jumprelu", True, False),
    "jumprelu_skip_transcoder": ("jumprelu", True, True),
}
"""Activation, whether it is a transcoder, and whether it has a skip connection."""

HOOKS: dict[str, Point] = {
    "hook_resid_pre": "resid-pre",
    "hook_attn_out": "attn-out",
    "hook_resid_mid": "resid-mid",
    "mlp.hook_in": "mlp-in",
    "ln2.hook_out": "mlp-in",
    "hook_mlp_out": "mlp-out",
    "hook_resid_post": "resid-post",
}
"""Names of TransformerLens after `blocks.{layer}`. `ln2.hook_normalized` is none of the points: it comes
before the norm's weight."""
_HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<hook>[\w.]+)")


def read_saelens(tensors: dict[str, Tensor], config: dict[str, Any], where: Path) -> Dictionary:
    """The dictionary of a SAELens folder."""
    activation, transcoder, skip = _architecture(config, where)
    _require_plain(config, tensors, where)
    d_in, n_feat = (setting(config, name, int, where) for name in ("d_in", "d_sae"))
    d_out = setting(config, "d_out", int, where) if transcoder else d_in
    shapes = {"W_enc": (d_in, n_feat), "b_enc": (n_feat,), "W_dec": (n_feat, d_out), "b_dec": (d_out,)}
    if activation == "jumprelu":
        shapes["threshold"] = (n_feat,)
    if skip:
        shapes["W_skip"] = (d_out, d_in)
    require_tensors(tensors, shapes, where, optional={"scaling_factor": (n_feat,)})
    encoder, b_enc, decoder = (tensors[name] for name in ("W_enc", "b_enc", "W_dec"))
    if config.get("rescale_acts_by_decoder_norm"):
        # Entries are compared by how much they write; SAELens does this at each call.
        norms = decoder.norm(dim=-1)
        encoder, b_enc, decoder = encoder * norms, b_enc * norms, decoder / norms.unsqueeze(-1)
    subtract = setting(config, "apply_b_dec_to_input", bool, where, not transcoder)
    if transcoder:
        require_value("apply_b_dec_to_input", subtract, False, where)
    metadata = config.get("metadata") or config
    return Dictionary(
        encoder=encoder,
        decoder=decoder,
        b_enc=b_enc,
        b_dec=tensors["b_dec"],
        activation=activation,
        k=_k(config, where) if activation == "topk" else None,
        threshold=tensors.get("threshold"),
        b_dec_to_input=subtract,
        skip=tensors["W_skip"].T if skip else None,
        site=_site(metadata.get("hook_name") or metadata.get("hook_point")),
        target=_site(metadata.get("hook_name_out")),
    )


def _architecture(config: dict[str, Any], where: Path) -> tuple[Activation, bool, bool]:
    name = setting(config, "architecture", str, where, "standard")
    if name not in ARCHITECTURES:
        raise InputError(f"{where}: architecture is {name!r}; expected one of {', '.join(ARCHITECTURES)}")
    activation = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if name == "standard" and activation == "topk":
        return ARCHITECTURES["topk"]
    if activation != "relu" and not (name == activation == "topk"):
        raise InputError(f"{where}: activation_fn is {activation!r}; expected relu, or topk")
    return ARCHITECTURES[name]


def _require_plain(config: dict[str, Any], tensors: dict[str, Tensor], where: Path) -> None:
    """Raises InputError where SAELens would rescale or reshape what it reads or writes."""
    normalisation = config.get("normalize_activations") or "none"
    require_value("normalize_activations", normalisation, "none", where)
    require_value("reshape_activations", config.get("reshape_activations") or "none", "none", where)
    scale = tensors.get("scaling_factor")
    # A period of SAELens wrote one in any case, of ones where it was not used.
    if scale is not None and not torch.equal(scale, torch.ones_like(scale)):
        raise InputError(f"{where}: a scaling_factor from finetuning is not read here; fold it in and save")


def _k(config: dict[str, Any], where: Path) -> int:
    return setting({**(config.get("activation_fn_kwargs") or {}), **config}, "k", int, where)


def _site(hook: Any) -> Site | None:
    match = _HOOK.fullmatch(str(hook))
    if match is None or match["hook"] not in HOOKS:
        return None
    return Site(int(match["layer"]), HOOKS[match["hook"]])


def _hook(site: Site | None) -> str | None:
    if site is None:
        return None
    return f"blocks.{site.layer}." + next(hook for hook, point in HOOKS.items() if point == site.point)


def write_saelens(dictionary: Dictionary) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the configuration of a dictionary; InputError where the format has no place for it."""
    d_in, n_feat, d_out = dictionary.d_in, dictionary.n_feat, dictionary.d_out
    zeros = torch.zeros(n_feat + d_out, dtype=dictionary.dtype, device=dictionary.device)
    skip = dictionary.skip is not None
    transcoder = skip or d_in != d_out or dictionary.target not in (None, dictionary.site)
    kind = (dictionary.activation, transcoder, skip)
    if dictionary.signed or kind not in ARCHITECTURES.values() or (transcoder and dictionary.b_dec_to_input):
        what = "signed " * dictionary.signed + dictionary.activation + " transcoder" * transcoder
        raise InputError(
            f"SAELens has no architecture for a {what}; expected one of {', '.join(ARCHITECTURES)}"
        )
    tensors = {
        "W_enc": dictionary.encoder,
        "b_enc": zeros[:n_feat] if dictionary.b_enc is None else dictionary.b_enc,
        "W_dec": dictionary.decoder,
        "b_dec": zeros[n_feat:] if dictionary.b_dec is None else dictionary.b_dec,
    }
    if dictionary.threshold is not None:
        tensors["threshold"] = dictionary.threshold
    if dictionary.skip is not None:
        tensors["W_skip"] = dictionary.skip.T
    config: dict[str, Any] = {
        "architecture": next(name for name, row in ARCHITECTURES.items() if row == kind),
        "d_in": d_in,
        "d_sae": n_feat,
        "dtype": str(dictionary.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        # Without a version SAELens takes the file for one of before 6 and drops the metadata.
        "metadata": {"sae_lens_version": "6.0.0", "hook_name": _hook(dictionary.site)},
    }
    if dictionary.k is not None:
        config["k"] = dictionary.k
    if transcoder:
        config["d_out"] = d_out
        config["metadata"]["hook_name_out"] = _hook(dictionary.target)
    return tensors, config
