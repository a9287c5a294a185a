"""The features of a dictionary that are active on a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.dictionaries import feature_reading
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site


@shown
@dataclass(frozen=True)
class SiteFeatures:
    """The features of a dictionary that are active on a prompt, in the order of positions, then features.

    The activations x of the site at a position are b_dec + Σ code · decoder row + error.
    """

    site: Site
    dictionary: Dictionary
    positions: Int[Tensor, " n_active"]
    features: Int[Tensor, " n_active"]
    codes: Float[Tensor, " n_active"]
    error: Float[Tensor, "pos width"]

    @classmethod
    def of(cls, site: Site, dictionary: Dictionary, x: Float[Tensor, "pos width"]) -> SiteFeatures:
        """The features active at activations x, one row a position."""
        dictionary = dictionary.to(x.device, x.dtype)
        chunk = rows_at_once(4 * dictionary.n_feat * x.element_size())
        pieces: list[tuple[Tensor, ...]] = []
        for start, rows in zip(range(0, len(x), chunk), x.split(chunk), strict=True):
            code = dictionary.encode(rows)
            places, features = code.nonzero(as_tuple=True)
            error = rows - dictionary.decode(code)
            pieces.append((places + start, features, code[places, features], error))
        return cls(site, dictionary, *map(torch.cat, zip(*pieces, strict=True)))

    @cached_property
    def listed(self) -> list[tuple[int, int, float]]:
        """Position, feature and code of each."""
        columns = (self.positions.tolist(), self.features.tolist(), self.codes.tolist())
        return list(zip(*columns, strict=True))

    @cached_property
    def starts(self) -> list[int]:
        """Where the features of each position begin; one entry more for the end."""
        counts = torch.bincount(self.positions, minlength=len(self.error))
        return [0, *counts.cumsum(0).tolist()]

    def at(self, position: int) -> slice:
        """The indices of the features active at a position, as a slice."""
        return slice(self.starts[position], self.starts[position + 1])

    def vectors(self, position: int) -> Float[Tensor, "n width"]:
        """Vectors that sum to the activations at a position: features in order, the error, the origin."""
        at = self.at(position)
        written = self.dictionary.decoder[self.features[at]] * self.codes[at].unsqueeze(-1)
        return torch.cat([written, self.error[position].unsqueeze(0), self.origin.unsqueeze(0)])

    def place(self, feature: int, position: int) -> int:
        """The index of a feature at a position in the list; raises InputError where it is not active."""
        n_feat = self.dictionary.n_feat
        if not 0 <= feature < n_feat:
            raise InputError(f"feature {feature} of {self.site} does not exist; expected 0 to {n_feat - 1}")
        of_feature = self.features == feature
        index = (of_feature & (self.positions == position)).nonzero()
        if not len(index):
            where = self.positions[of_feature].tolist()
            raise InputError(
                f"feature {feature} of {self.site} is not active at position {position}; it is active at "
                f"{', '.join(map(str, where)) or 'none'} of the prompt"
            )
        return int(index)

    @property
    def origin(self) -> Float[Tensor, " width"]:
        """The activations where nothing is active: b_dec."""
        b_dec = self.dictionary.b_dec
        return torch.zeros_like(self.error[0]) if b_dec is None else b_dec

    def reading(self, feature: int) -> tuple[Float[Tensor, " width"], float]:
        """The direction and the constant of the linear map that gives a feature's code where it is active."""
        return feature_reading(self.dictionary, feature)
