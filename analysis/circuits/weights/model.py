"""What circuits are followed through when there is no prompt: the weights of a model, and its dictionaries.

Scales of norms are taken as 1 throughout, so that a layer reads the residual stream times the norm's weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.attention.layer import attention_layer
from analysis.circuits.prompt.prompt import Dictionaries, value_weights, with_factor
from analysis.features.dictionaries import WRITTEN, read_site, require_dictionary
from analysis.features.layer import FeatureLayer
from analysis.spectra.gram import unfolding_gram
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.families import causal_model, mlp_norm, plain, require_plain_blocks
from bilinear_lm.norms import norm_factor
from bilinear_lm.sites import Point, Site
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import embedding, mlp_tensor, unembedding


@dataclass(frozen=True)
class StaticLayer:
    """The weights of one layer, and the features before and after its MLP."""

    number: int
    W_V: Float[Tensor, "n_kv_heads d_model d_head"]
    """What heads read of the residual stream; see `value_weights`."""
    W_O: Float[Tensor, "n_heads d_head d_model"]
    attention_bias: Float[Tensor, " d_model"] | None
    """What attention writes whatever it reads; None: nothing."""
    at_mlp_in: BilinearTensor
    """The MLP as a function of what the norm puts out."""
    factor: Float[Tensor, " d_model"]
    """The norm's weight."""
    inputs: tuple[Site, Dictionary] | None
    outputs: tuple[Site, Dictionary] | None

    @property
    def tensor(self) -> BilinearTensor:
        """The MLP as a function of the residual stream, the norm's weight folded in."""
        return with_factor(self.at_mlp_in, self.factor)

    @cached_property
    def features(self) -> FeatureLayer:
        """The MLP as it reads the features of its input dictionary."""
        assert self.inputs is not None  # asked for only where there is one
        site, dictionary = self.inputs
        tensor = self.tensor if site.point == "resid-mid" else self.at_mlp_in
        return FeatureLayer(tensor, dictionary.decoder, self.factor.unsqueeze(0), dictionary.b_dec)

    def strength(self, u: Float[Tensor, " d_model"]) -> float:
        """‖Q_u‖, the Frobenius norm of the interaction matrix of an output direction."""
        direction = u.double()
        return float((direction @ self._gram @ direction).clamp(min=0).sqrt())

    def from_stream(self, direction: Float[Tensor, " d_model"], point: Point) -> Float[Tensor, " d_model"]:
        """The direction of the residual stream that reads what a direction reads at a point."""
        return direction * self.factor if point == "mlp-in" else direction

    @cached_property
    def _gram(self) -> Tensor:
        return unfolding_gram(self.tensor)


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


def static_model(model: nn.Module, dictionaries: Dictionaries | None = None) -> StaticModel:
    """The weights of a transformers model or a bridge, with dictionaries of what its MLPs read and write.

    Raises InputError for blocks that do more than to add what attention and MLP put out, for a gate that is
    not linear, for a dictionary that cannot be of this model, and for two that describe one MLP's input.
    """
    require_plain_blocks(model, "static circuits")
    dictionaries = dictionaries or {}
    config = causal_model(model).config
    W_E = embedding(model)
    W_E = W_E.to(torch.promote_types(W_E.dtype, torch.float32))
    for site, dictionary in dictionaries.items():
        require_dictionary(site, dictionary, config.num_hidden_layers, W_E.shape[1])
    return StaticModel(
        W_E=W_E,
        W_U=unembedding(model).to(W_E),
        layers=tuple(_layer(model, number, dictionaries, W_E) for number in range(config.num_hidden_layers)),
        name=getattr(config, "_name_or_path", "") or None,
    )


def _layer(model: nn.Module, number: int, dictionaries: Dictionaries, like: Tensor) -> StaticLayer:
    norm: Any = mlp_norm(model, number)  # a plain block has one
    # Values and outputs only: nothing depends on angles, and so on the length of a prompt.
    attention = attention_layer(model, number, n_tokens=1)
    inputs, outputs = (
        (site, dictionaries[site].to(like.device, like.dtype))
        if site is not None and site in dictionaries
        else None
        for site in (read_site(dictionaries, number), Site(number, WRITTEN))
    )
    return StaticLayer(
        number=number,
        W_V=value_weights(model, attention),
        W_O=attention.weights.W_O,
        attention_bias=attention.bias,
        at_mlp_in=mlp_tensor(model, number, fold_norm=False).to(like.dtype),
        factor=norm_factor(plain(norm)).to(like),
        inputs=inputs,
        outputs=outputs,
    )
