"""Folders that hold the dictionaries of a model, one folder each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from bilinear_lm.dictionaries import load_dictionary
from bilinear_lm.dictionary import Dictionary, Site
from bilinear_lm.errors import InputError
from bilinear_lm.weights import embedding


def dictionaries_in(folder: Path, model: nn.Module) -> dict[Site, Dictionary]:
    """The dictionaries in a folder by site, on the CPU.

    A dictionary whose file does not tell its site is named by it, as `4-mlp-out`. Files, and folders that
    begin with a dot, are passed over.

    Raises InputError where there is no such folder, for a dictionary of another width or of a
    layer that the model does not have, and for two of one site.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one that holds a folder for each dictionary")
    found: dict[Site, Dictionary] = {}
    for part in sorted(part for part in folder.iterdir() if part.is_dir() and part.name[0] != "."):
        site, dictionary = _load(part, model)
        if site in found:
            raise InputError(f"{folder}: two dictionaries of {site}, one in {part.name}; expected one a site")
        found[site] = dictionary
    return found


def around_mlps(dictionaries: Mapping[Site, Dictionary]) -> dict[Site, Dictionary]:
    """Those that say what MLPs read and write: at mlp-in, else resid-mid, and at mlp-out.

    Transcoders are left out: their features are no parts of what they read.
    """
    own = {site: found for site, found in dictionaries.items() if found.target in (None, site)}
    return {
        site: found
        for site, found in own.items()
        if site.point in ("mlp-in", "mlp-out")
        or (site.point == "resid-mid" and Site(site.layer, "mlp-in") not in own)
    }


def _load(part: Path, model: nn.Module) -> tuple[Site, Dictionary]:
    dictionary = load_dictionary(part, d_in=embedding(model).shape[1])
    site, config = dictionary.site or _named(part), cast(Any, model.config)
    if site.layer >= config.num_hidden_layers:
        raise InputError(
            f"{part}: a dictionary of {site}, and the model has layers 0 to {config.num_hidden_layers - 1}; "
            "it belongs to another model"
        )
    return site, replace(dictionary, site=site)


def _named(part: Path) -> Site:
    try:
        return Site.parse(part.name)
    except InputError as error:
        raise InputError(
            f"{part}: the dictionary does not tell its site; name its folder by it, such as 4-mlp-out"
        ) from error
