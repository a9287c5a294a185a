"""Dictionaries that circuits are followed through: at which sites, and what their features read."""

from __future__ import annotations

from collections.abc import Collection

from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_index
from bilinear_lm.dictionary import Dictionary, Point, Site
from bilinear_lm.errors import InputError

READ: tuple[Point, ...] = ("mlp-in", "resid-mid")
"""Points whose features the input of an MLP is split into."""
WRITTEN: Point = "mlp-out"
"""The point whose features the output of an MLP is split into."""


def feature_reading(dictionary: Dictionary, feature: int) -> tuple[Float[Tensor, " width"], float]:
    """The direction and the constant of the linear map that a feature's code is where it is active."""
    require_index(feature, dictionary.n_feat, "feature")
    direction = dictionary.encoder[:, feature]
    constant = 0.0 if dictionary.b_enc is None else float(dictionary.b_enc[feature])
    if dictionary.b_dec_to_input and dictionary.b_dec is not None:
        constant -= float(dictionary.b_dec @ direction)
    return direction, constant


def read_site(sites: Collection[Site], layer: int) -> Site | None:
    """That of the sites which describes what the MLP of a layer reads; InputError where two do."""
    found = [site for point in READ if (site := Site(layer, point)) in sites]
    if len(found) > 1:
        raise InputError(
            f"dictionaries of {found[0]} and of {found[1]} both describe what the MLP of layer {layer} "
            "reads; give one of them"
        )
    return found[0] if found else None


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
