"""The weights and dictionaries of a model, through which circuits are followed without a prompt.

Scales of norms are taken as 1 throughout, so that a layer reads the residual stream times the norm's weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.circuits.block import BlockWeights, block_weights
from analysis.features.dictionaries import Dictionaries, dictionaries_by_site, read_site, require_dictionary
from analysis.features.layer import WRITTEN, FeatureLayer
from analysis.spectra.gram import unfolding_gram
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.families import causal_model, model_name, require_plain_blocks
from bilinear_lm.shown import shown
from bilinear_lm.sites import Point, Site
from bilinear_lm.weights import embedding, unembedding


@shown
@shown
@dataclass(frozen=True)
class StaticLayer:
    """The weights of one layer, and the features before and after its MLP."""

    block: BlockWeights
    inputs: tuple[Site, Dictionary] | None
    outputs: tuple[Site, Dictionary] | None

    @property
    def number(self) -> int:
        """Which layer it is, from 0."""
        return self.block.number

    @cached_property
    def features(self) -> FeatureLayer:
        """The MLP as it reads the features of its input dictionary."""
        assert self.inputs is not None  # asked for only where there is one
        site, dictionary = self.inputs
        tensor = self.block.folded if site.point == "resid-mid" else self.block.at_mlp_in
        return FeatureLayer(tensor, dictionary.decoder, self.block.factor.unsqueeze(0), dictionary.b_dec)

    def strength(self, u: Float[Tensor, " d_model"]) -> float:
        """‖Q_u‖, the Frobenius norm of the interaction matrix of an output direction."""
        direction = u.double()
        return float((direction @ self._gram @ direction).clamp(min=0).sqrt())

    def from_stream(self, direction: Float[Tensor, " d_model"], point: Point) -> Float[Tensor, " d_model"]:
        """The direction of the residual stream with the same reading as a direction at a point."""
        return direction * self.block.factor if point == "mlp-in" else direction

    @cached_property
    def _gram(self) -> Tensor:
        return unfolding_gram(self.block.folded)


@shown
@dataclass(frozen=True)
class StaticModel:
    """A model as its weights, in float32 at least; made by `static_model`."""

    W_E: Float[Tensor, "d_vocab d_model"]
    W_U: Float[Tensor, "d_model d_vocab"]
    layers: tuple[StaticLayer, ...]
    name: str | None

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that have a dictionary."""
        there = (part for layer in self.layers for part in (layer.inputs, layer.outputs))
        return tuple(part[0] for part in there if part is not None)

    def layer(self, layer: int) -> StaticLayer:
        """A layer by its number."""
        require_index(layer, self.n_layers, "layer")
        return self.layers[layer]

    def token_strength(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """sqrt(Σ_t (W_E[t] · r)²) of each direction, by the Gram matrix of the embedding; in float64."""
        rows = directions.double()
        return ((rows @ self._token_gram) * rows).sum(dim=-1).clamp(min=0).sqrt()

    @cached_property
    def _token_gram(self) -> Tensor:
        gram = self.W_E.new_zeros(self.W_E.shape[1], self.W_E.shape[1], dtype=torch.float64)
        for rows in self.W_E.split(2**12):
            rows = rows.double()
            gram += rows.T @ rows
        return gram


def static_model(
    model: nn.Module, dictionaries: Dictionaries | Sequence[Dictionary] | None = None
) -> StaticModel:
    """The weights of a transformers model or a bridge, with dictionaries of what its MLPs read and write.

    Raises InputError for blocks that do more than add the outputs of attention and MLP, for a gate that is
    not linear, for a dictionary that cannot be of this model, and for two that describe one MLP's input.
    """
    require_plain_blocks(model, "static circuits")
    by_site = dictionaries_by_site(dictionaries)
    config = causal_model(model).config
    W_E = embedding(model)
    W_E = W_E.to(torch.promote_types(W_E.dtype, torch.float32))
    for site, dictionary in by_site.items():
        require_dictionary(site, dictionary, config.num_hidden_layers, W_E.shape[1])
    return StaticModel(
        W_E=W_E,
        W_U=unembedding(model).to(W_E),
        layers=tuple(_layer(model, number, by_site, W_E) for number in range(config.num_hidden_layers)),
        name=model_name(model),
    )


def _layer(model: nn.Module, number: int, dictionaries: Dictionaries, like: Tensor) -> StaticLayer:
    inputs, outputs = (
        (site, dictionaries[site].to(like.device, like.dtype))
        if site is not None and site in dictionaries
        else None
        for site in (read_site(dictionaries, number), Site(number, WRITTEN))
    )
    return StaticLayer(block_weights(model, number, like), inputs, outputs)
