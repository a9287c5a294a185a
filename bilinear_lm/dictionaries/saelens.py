"""Dictionaries of SAELens: a folder with `cfg.json` and `sae_weights.safetensors`.

    W_enc [d_in, n_feat]    b_enc [n_feat]    W_dec [n_feat, d_out]    b_dec [d_out]
    threshold [n_feat]      of the jumprelu architectures
    W_skip [d_out, d_in]    of the skip transcoders; adds x @ W_skip.T
    b_gate, r_mag, b_mag [n_feat] in place of b_enc, of the gated architecture
    scaling_factor [n_feat] from finetuning: codes are multiplied by it before they are decoded

Configurations from before version 6, which are flat and may name an activation beside "standard", are read.

Factors that can be folded into the weights are folded (`saelens_weights`). With normalize_activations
expected_average_only_in the weights are for s · x, with one s for all x, which SAELens folds in at the end of
training; a checkpoint saved before that has s in `activation_scaler.json`. The other two normalisations
depend on x and are the `normalization` of the `Dictionary`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from bilinear_lm.dictionaries.dictionary import Activation, Dictionary, Normalization
from bilinear_lm.dictionaries.saelens_weights import FINETUNING, Weights, finetuned, ungated
from bilinear_lm.dictionaries.strict import require_tensors, require_value, setting
from bilinear_lm.errors import InputError
from bilinear_lm.files import own_file, read_json
from bilinear_lm.sites import POINTS, Point, Site

WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"
ARCHITECTURES: dict[str, tuple[Activation, bool, bool]] = {
    "standard": ("relu", False, False),
    "topk": ("topk", False, False),
    "jumprelu": ("jumprelu", False, False),
    "gated": ("jumprelu", False, False),
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
_HOOK = re.compile(r"blocks\.(?P<layer>\d{1,9})\.(?P<hook>[\w.]+)")


def read_saelens(
    tensors: dict[str, Tensor], config: dict[str, Any], where: Path, scaling: float | None = None
) -> Dictionary:
    """The dictionary of a SAELens folder; `scaling` is the factor of expected_average_only_in, if known."""
    name, (activation, transcoder, skip) = _architecture(config, where)
    normalization, scaling = _normalization(config, where, transcoder, scaling)
    metadata = setting(config, "metadata", dict, where, {}) or config
    _require_plain(config, metadata, where)
    d_in, n_feat = (setting(config, name, int, where) for name in ("d_in", "d_sae"))
    d_out = setting(config, "d_out", int, where) if transcoder else d_in
    shapes = {"W_enc": (d_in, n_feat), "W_dec": (n_feat, d_out), "b_dec": (d_out,)}
    columns = ["b_gate", "r_mag", "b_mag"] if name == "gated" else ["b_enc"]
    columns += ["threshold"] if name != "gated" and activation == "jumprelu" else []
    shapes |= dict.fromkeys(columns, (n_feat,)) | ({"W_skip": (d_out, d_in)} if skip else {})
    require_tensors(tensors, shapes, where, optional=dict.fromkeys(FINETUNING, (n_feat,)))
    weights = ungated(tensors, where) if name == "gated" else Weights.of(tensors)
    weights = finetuned(weights, tensors, config, where)
    if scaling is not None:
        weights = weights.scaled(scaling)
    if activation == "topk" and setting(config, "rescale_acts_by_decoder_norm", bool, where, False):
        weights = weights.rescaled()
    subtract = setting(config, "apply_b_dec_to_input", bool, where, not transcoder)
    if transcoder:
        require_value("apply_b_dec_to_input", subtract, False, where)
    return Dictionary(
        encoder=weights.encoder,
        decoder=weights.decoder,
        b_enc=weights.b_enc,
        b_dec=weights.b_dec,
        activation=activation,
        k=_k(config, where) if activation == "topk" else None,
        threshold=weights.threshold,
        b_dec_to_input=subtract,
        skip=tensors["W_skip"].T if skip else None,
        normalization=normalization,
        site=_site(_hook_name(metadata)),
        target=_site(metadata.get("hook_name_out")),
    )


def _architecture(config: dict[str, Any], where: Path) -> tuple[str, tuple[Activation, bool, bool]]:
    name = setting(config, "architecture", str, where, "standard")
    if name not in ARCHITECTURES:
        training = "; save it as SAELens does for inference" if name.endswith("batchtopk") else ""
        raise InputError(
            f"{where}: architecture is {name!r}; expected one of {', '.join(ARCHITECTURES)}{training}"
        )
    activation = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if name == "standard" and activation == "topk":
        return "topk", ARCHITECTURES["topk"]
    if activation != "relu" and not (name == activation == "topk"):
        raise InputError(f"{where}: activation_fn is {activation!r}; expected relu, or topk")
    return name, ARCHITECTURES[name]


def _normalization(
    config: dict[str, Any], where: Path, transcoder: bool, scaling: float | None
) -> tuple[Normalization, float | None]:
    """The normalisation of x at each call, and the factor that can be folded in."""
    name = config.get("normalize_activations") or "none"
    if name is True:  # before it had names
        name = "expected_average_only_in"
    if scaling is not None and name != "expected_average_only_in":
        raise InputError(
            f"{where}: norm_scaling_factor={scaling!r} for normalize_activations {name!r}; it belongs to "
            "expected_average_only_in alone, leave it out"
        )
    if transcoder and name != "none":
        raise InputError(
            f"{where}: normalize_activations is {name!r} of a transcoder, which SAELens does not undo on "
            "what it writes; expected one trained with none"
        )
    if name == "expected_average_only_in":
        return "none", _scaling(where) if scaling is None else _positive(scaling, where)
    if name not in get_args(Normalization):
        raise InputError(
            f"{where}: normalize_activations is {name!r}; expected none, expected_average_only_in, "
            "constant_norm_rescale or layer_norm; save it from SAELens after folding it into the weights"
        )
    return cast(Normalization, name), None


def _scaling(where: Path) -> float:
    """The factor that SAELens left beside a checkpoint."""
    file = own_file(where, SCALER)
    factor = read_json(file).get("scaling_factor") if file.is_file() else None
    if factor is None:
        raise InputError(
            f"{where}: normalize_activations is 'expected_average_only_in', whose factor is not in the "
            "folder; give it as load_dictionary(..., norm_scaling_factor=), which is √d_in over the mean "
            "norm of the activations, or save the dictionary after sae.fold_activation_norm_scaling_factor"
        )
    return _positive(factor, where)


def _positive(factor: Any, where: Path) -> float:
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not math.isfinite(factor) or factor <= 0:
        raise InputError(
            f"{where}: the factor of its normalisation is {factor!r}; expected a positive number"
        )
    return float(factor)


def _require_plain(config: dict[str, Any], metadata: dict[str, Any], where: Path) -> None:
    """Raises InputError where SAELens would reshape what it reads or writes."""
    # Before it was written, it went by the hook.
    implied = "hook_z" if "hook_z" in str(_hook_name(metadata)) and not config.get("metadata") else "none"
    reshaping = config.get("reshape_activations") or implied
    if reshaping != "none":
        raise InputError(
            f"{where}: reshape_activations is {reshaping!r}, for what single heads put out, which is no site "
            f"here; expected a dictionary of {', '.join(POINTS)}"
        )


def _k(config: dict[str, Any], where: Path) -> int:
    kwargs = setting(config, "activation_fn_kwargs", dict, where, {})
    return setting(config if config.get("k") is not None else kwargs, "k", int, where)


def _hook_name(metadata: dict[str, Any]) -> Any:
    return metadata.get("hook_name") or metadata.get("hook_point")


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
    shifted = dictionary.b_dec_to_input or dictionary.normalization != "none"
    if dictionary.signed or kind not in ARCHITECTURES.values() or (transcoder and shifted):
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
        "normalize_activations": dictionary.normalization,
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
