"""Dictionaries of the published bilinear models, repositories `{model}-scope`.

A folder `{layer}-{point}-x{expansion}-k{k}` holds `config.json` and `model.safetensors`:

    w_enc.weight [n_feat, d]      [2 n_feat, d] for a bilinear encoder, whose halves are multiplied
    w_enc.bias   [n_feat]         where the encoder has one
    w_dec.weight [d, n_feat]
    b_dec        [d]              subtracted before encoding, added after decoding

The code keeps the k largest entries with their sign. Outlier dimensions listed as `passthrough` are added
to the reconstruction, not replaced in it. (T. Dooms, M. Pearce.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.strict import require_tensors, setting
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Site


def read_published(tensors: dict[str, Tensor], config: dict[str, Any], where: Path) -> Dictionary:
    """The dictionary of a `-scope` folder."""
    n_feat, d = tensors["w_dec.weight"].shape[::-1] if "w_dec.weight" in tensors else (0, 0)
    # Older files call it `bilinear`.
    bilinear = setting(config, "bilinear_encoder", bool, where, config.get("bilinear") or False)
    rows = 2 * n_feat if bilinear else n_feat
    shapes = {"w_enc.weight": (rows, d), "w_dec.weight": (d, n_feat), "b_dec": (d,)}
    require_tensors(tensors, shapes, where, optional={"w_enc.bias": (rows,)})
    W_enc, bias = tensors["w_enc.weight"], tensors.get("w_enc.bias")
    return Dictionary(
        encoder=W_enc[:n_feat].T,
        decoder=tensors["w_dec.weight"].T,
        b_enc=None if bias is None else bias[:n_feat],
        b_dec=tensors["b_dec"],
        activation="topk",
        k=setting(config, "k", int, where),
        signed=True,
        b_dec_to_input=True,
        encoder_gate=W_enc[n_feat:].T if bilinear else None,
        b_gate=bias[n_feat:] if bilinear and bias is not None else None,
        passthrough=tuple(setting(config, "passthrough", list, where, [])),
        site=_site(config, "point", where),
        target=_site(config, "target", where),
    )


def _site(config: dict[str, Any], name: str, where: Path) -> Site | None:
    """A place written as [point, layer], in older files as a point beside `layer`; None where absent."""
    value = config.get(name)
    if isinstance(value, str) and "layer" in config:
        value = [value, config["layer"]]
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or [type(part) for part in value] != [str, int]:
        raise InputError(f'{where}: {name} is {value!r}; expected a point and a layer, as ["mlp-out", 4]')
    point, layer = value
    return Site.parse(f"{layer}-{point.replace('_', '-')}")
