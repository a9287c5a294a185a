"""Dictionaries that circuits are followed through: their sites, and the readings of their features."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from analysis.features.layer import READ, WRITTEN, require_site
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries import load_dictionary
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site
from bilinear_lm.weights import embedding

Dictionaries = Mapping[Site, Dictionary]


def feature_reading(dictionary: Dictionary, feature: int) -> tuple[Float[Tensor, " width"], float]:
    """The direction and the constant of the linear map that gives a feature's code where it is active."""
    require_index(feature, dictionary.n_feat, "feature")
    direction = dictionary.encoder[:, feature]
    constant = 0.0 if dictionary.b_enc is None else float(dictionary.b_enc[feature])
    if dictionary.b_dec_to_input and dictionary.b_dec is not None:
        constant -= float(dictionary.b_dec @ direction)
    return direction, constant


def dictionaries_by_site(dictionaries: Dictionaries | Sequence[Dictionary] | None) -> dict[Site, Dictionary]:
    """Dictionaries, a list or by site, by site; InputError for one without a site and two of one site."""
    if dictionaries is None:
        return {}
    listed: list[tuple[Any, Any]]
    if isinstance(dictionaries, Mapping):
        listed = list(dictionaries.items())
    else:
        listed = [(dictionary.site, dictionary) for dictionary in _listed(dictionaries)]
    by_site: dict[Site, Dictionary] = {}
    for site, dictionary in listed:
        if not isinstance(site, Site) or not isinstance(dictionary, Dictionary):
            got = (
                "a dictionary without a site" if site is None else f"{site!r}: a {type(dictionary).__name__}"
            )
            raise InputError(
                f"dictionaries: got {got}; expected dictionaries that tell their site, or by site"
            )
        if site in by_site:
            raise InputError(f"dictionaries: two are of {site}; expected one a site")
        by_site[site] = dictionary
    return by_site


def _listed(dictionaries: Any) -> list[Dictionary]:
    if isinstance(dictionaries, Dictionary):
        return [dictionaries]
    if not isinstance(dictionaries, list | tuple) or not all(isinstance(d, Dictionary) for d in dictionaries):
        raise InputError(
            f"dictionaries: got a {type(dictionaries).__name__}; expected a list of dictionaries, or a "
            "mapping by site (`dictionaries_in` reads a folder)"
        )
    return list(dictionaries)


def read_site(sites: Collection[Site], layer: int) -> Site | None:
    """The one of the sites that describes an MLP's input; raises InputError where two do."""
    read = [site for point in READ if (site := Site(layer, point)) in sites]
    if len(read) > 1:
        raise InputError(
            f"dictionaries of {read[0]} and of {read[1]} both describe what the MLP of layer {layer} "
            "reads; give one of them"
        )
    return read[0] if read else None


def require_dictionary(site: Site, dictionary: Dictionary, n_layers: int, width: int) -> None:
    """Raises InputError unless a dictionary describes what an MLP of a model reads or writes, linearly."""
    points = (*READ, WRITTEN)
    if site.point not in points or site.layer >= n_layers:
        raise InputError(
            f"a dictionary of {site}; expected one of layers 0 to {n_layers - 1} at {', '.join(points)}"
        )
    if dictionary.site not in (None, site):
        raise InputError(f"the dictionary given for {site} belongs to {dictionary.site}")
    if dictionary.target not in (None, site):
        raise InputError(
            f"the dictionary of {site} reconstructs {dictionary.target} (a transcoder); expected a sparse "
            "autoencoder of the site itself"
        )
    if (dictionary.d_in, dictionary.d_out) != (width, width):
        raise InputError(
            f"the dictionary of {site} reads {dictionary.d_in} numbers and writes {dictionary.d_out}; "
            f"expected {width}, the width of the model: it belongs to another"
        )
    if dictionary.encoder_gate is not None or dictionary.skip is not None:
        raise InputError(
            f"the dictionary of {site} has a bilinear encoder or a skip connection, so that its codes are "
            "not linear in what it reads; expected a plain sparse autoencoder"
        )
    if dictionary.nonlinear is not None:
        raise InputError(
            f"the dictionary of {site} {dictionary.nonlinear}, so that its codes are not linear in it; "
            "expected one without normalisation"
        )


@checked
def dictionaries_in(folder: Path, model: nn.Module) -> dict[Site, Dictionary]:
    """The dictionaries in a folder by site, on the CPU.

    A dictionary whose file does not tell its site is named by it, as `4-mlp-out`. Files, and folders that
    begin with a dot, are passed over.

    Raises InputError where there is no such folder, for a dictionary of another width or of a
    layer that the model does not have, and for two of one site.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one that holds a folder for each dictionary")
    dictionaries: dict[Site, Dictionary] = {}
    for part in sorted(part for part in folder.iterdir() if part.is_dir() and part.name[0] != "."):
        site, dictionary = _load(part, model)
        if site in dictionaries:
            raise InputError(f"{folder}: two dictionaries of {site}, one in {part.name}; expected one a site")
        dictionaries[site] = dictionary
    return dictionaries


def around_mlps(dictionaries: Mapping[Site, Dictionary]) -> dict[Site, Dictionary]:
    """Dictionaries of what MLPs read and write: at mlp-in, else resid-mid, and at mlp-out.

    Transcoders are left out: their features do not sum to what they read.
    """
    own = {site: dictionary for site, dictionary in dictionaries.items() if dictionary.target in (None, site)}
    return {
        site: dictionary
        for site, dictionary in own.items()
        if site.point in ("mlp-in", "mlp-out")
        or (site.point == "resid-mid" and Site(site.layer, "mlp-in") not in own)
    }


def followed_dictionaries(folder: Path, model: nn.Module) -> dict[Site, Dictionary]:
    """The dictionaries in a folder of what MLPs read and write, which graphs follow (`around_mlps`).

    Raises InputError where there are none, and as `dictionaries_in` does.
    """
    dictionaries = around_mlps(dictionaries_in(folder, model))
    if not dictionaries:
        raise InputError(
            f"{folder}: no dictionary at mlp-in, resid-mid or mlp-out; expected a folder for each, such as "
            "4-mlp-out"
        )
    return dictionaries


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


@shown
@dataclass(frozen=True)
class LayerDictionaries:
    """The features of what one MLP reads and of what it writes."""

    layer: int
    inputs: Dictionary
    """At mlp-in or resid-mid."""
    outputs: Dictionary
    """At mlp-out."""

    @property
    def read(self) -> Site:
        """The site of the input features."""
        return Site(self.layer, require_site(self.inputs.site, self.layer, READ, "input"))

    @property
    def written(self) -> Site:
        """The site of the output features."""
        return Site(self.layer, require_site(self.outputs.site, self.layer, (WRITTEN,), "output"))


def layers_by_site(around: Sequence[LayerDictionaries]) -> dict[Site, Dictionary]:
    """The dictionaries of all layers, those of inputs first."""
    by_site = {pair.read: pair.inputs for pair in around}
    return by_site | {pair.written: pair.outputs for pair in around}


def read_dictionaries(folder: Path, model: nn.Module) -> tuple[LayerDictionaries, ...]:
    """The dictionaries in a folder, one folder each, paired by the MLPs that they lie around.

    A dictionary whose file does not tell its site is named by it, as `4-mlp-out`. Those of other sites, and
    of layers that have only one of the two, are left out; where both mlp-in and resid-mid are there,
    mlp-in is taken.

    Raises InputError where no layer has both sides, for a dictionary of another width or of a layer that
    the model does not have, and for two of one site.
    """
    by_site = dictionaries_in(folder, model)
    paired = tuple(_paired(by_site))
    if not paired:
        listed = ", ".join(map(str, sorted(by_site))) or "none"
        raise InputError(
            f"{folder}: no layer has a dictionary at mlp-in (or resid-mid) and one at mlp-out; got {listed}"
        )
    return paired


def _paired(by_site: dict[Site, Dictionary]) -> Iterable[LayerDictionaries]:
    around = around_mlps(by_site)
    for layer in sorted({site.layer for site in around}):
        read, written = (
            [around[site] for point in points if (site := Site(layer, point)) in around]
            for points in (READ, (WRITTEN,))
        )
        if read and written:
            yield LayerDictionaries(layer, read[0], written[0])
