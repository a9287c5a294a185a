"""A measured prompt with the features of dictionaries on it: what attribution splits values over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.attention.layer import AttentionLayer, attention_layer
from analysis.features.dictionaries import WRITTEN, feature_reading, read_site, require_dictionary
from analysis.paths.measured import Measured, MeasuredLayer, measure
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.families import causal_model, mlp_norm, plain
from bilinear_lm.norms import norm_factor
from bilinear_lm.sites import Point, Site
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_tensor, unembedding

Dictionaries = Mapping[Site, Dictionary]

Coordinates = Point | Literal["normalised"]


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
        code = dictionary.encode(x)
        positions, features = code.nonzero(as_tuple=True)
        return cls(
            site, dictionary, positions, features, code[positions, features], x - dictionary.decode(code)
        )

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
        """The places of the features active at a position."""
        return slice(self.starts[position], self.starts[position + 1])

    def vectors(self, position: int) -> Float[Tensor, "n width"]:
        """What sums to the activations of a position: features in their order, the error, the origin."""
        at = self.at(position)
        written = self.dictionary.decoder[self.features[at]] * self.codes[at].unsqueeze(-1)
        return torch.cat([written, self.error[position].unsqueeze(0), self.origin.unsqueeze(0)])

    def place(self, feature: int, position: int) -> int:
        """Where in the list a feature is at a position; InputError where it is not active there."""
        n_feat = self.dictionary.n_feat
        if not 0 <= feature < n_feat:
            raise InputError(f"feature {feature} of {self.site} does not exist; expected 0 to {n_feat - 1}")
        of_feature = self.features == feature
        found = (of_feature & (self.positions == position)).nonzero()
        if not len(found):
            where = self.positions[of_feature].tolist()
            raise InputError(
                f"feature {feature} of {self.site} is not active at position {position}; it is active at "
                f"{', '.join(map(str, where)) or 'none'} of the prompt"
            )
        return int(found)

    @property
    def origin(self) -> Float[Tensor, " width"]:
        """The activations where nothing is active: b_dec."""
        b_dec = self.dictionary.b_dec
        return torch.zeros_like(self.error[0]) if b_dec is None else b_dec

    def reading(self, feature: int) -> tuple[Float[Tensor, " width"], float]:
        """The direction and the constant of the linear map that a feature's code is where it is active."""
        return feature_reading(self.dictionary, feature)


@dataclass(frozen=True)
class LayerOnPrompt:
    """One layer: what it did on the prompt, its weights, and the features before and after its MLP.

    What the MLP reads has three sets of coordinates: those of mlp-in, those of the residual stream at
    resid-mid, and x / rms(x) between them, in which eigenvectors are ("normalised").
    """

    number: int
    measured: MeasuredLayer
    W_V: Float[Tensor, "n_kv_heads d_model d_head"]
    """What heads read of x / rms(x); see `value_weights`."""
    at_mlp_in: BilinearTensor
    """The MLP as a function of what it reads."""
    factor: Float[Tensor, " d_model"]
    """What the norm before the MLP multiplies x / rms(x) by."""
    inputs: SiteFeatures | None
    outputs: SiteFeatures | None
    model: nn.Module = field(repr=False)

    @property
    def attention(self) -> AttentionLayer:
        """All weights of the attention, in a copy that is made each time it is asked for."""
        return attention_layer(self.model, self.number, len(self.measured.resid_pre))

    @property
    def normalised(self) -> BilinearTensor:
        """The MLP as a function of x / rms(x)."""
        return with_factor(self.at_mlp_in, self.factor)

    def normalised_input(self, position: int) -> Float[Tensor, " d_in"]:
        """x / rms(x) of what the MLP reads at a position, and the 1 that its biases are multiplied by."""
        x = self.measured.resid_mid[position] / self.measured.ln2_scale[position]
        return torch.nn.functional.pad(x, (0, 1), value=1.0) if self.at_mlp_in.constant else x

    def from_stream(
        self, direction: Float[Tensor, " d_model"], position: int, point: Coordinates
    ) -> Float[Tensor, " d_model"]:
        """The direction of the residual stream that reads what a direction reads at a point."""
        if point == "resid-mid":
            return direction
        read = direction * self.factor if point == "mlp-in" else direction
        return read / self.measured.ln2_scale[position]

    def to_mlp_in(
        self, vector: Float[Tensor, "*axes d_model"], position: int, point: Coordinates
    ) -> Float[Tensor, "*axes d_model"]:
        """What vectors at a point are at mlp-in, with the norm's scale held."""
        if point == "mlp-in":
            return vector
        written = vector * self.factor
        return written / self.measured.ln2_scale[position] if point == "resid-mid" else written


@dataclass(frozen=True)
class Prompt:
    """A model on a prompt, with dictionaries; made by `open_prompt`. In float32 at least."""

    measured: Measured
    layers: tuple[LayerOnPrompt, ...]
    W_U: Float[Tensor, "d_model d_vocab"]
    model: str | None

    @cached_property
    def n_pos(self) -> int:
        """Length of the prompt."""
        return len(self.measured.ids)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def like(self) -> Tensor:
        """A tensor whose device and precision all have."""
        return self.measured.resid_final

    def position(self, position: int) -> int:
        """A position counted from 0; negative ones count from the end."""
        if not -self.n_pos <= position < self.n_pos:
            raise InputError(
                f"position {position} does not exist; the prompt has positions 0 to {self.n_pos - 1}"
            )
        return position % self.n_pos

    def layer(self, layer: int) -> LayerOnPrompt:
        """A layer by its number."""
        require_index(layer, self.n_layers, "layer")
        return self.layers[layer]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that have a dictionary."""
        found = (part for layer in self.layers for part in (layer.inputs, layer.outputs))
        return tuple(part.site for part in found if part is not None)

    def features(self, site: Site) -> SiteFeatures:
        """The features of a site; InputError where there is no dictionary for it."""
        layer = self.layer(site.layer)
        for found in (layer.inputs, layer.outputs):
            if found is not None and found.site == site:
                return found
        raise InputError(f"there is no dictionary of {site}; expected one among the dictionaries")


def open_prompt(
    model: nn.Module, ids: Sequence[int] | Int[Tensor, "*one pos"], dictionaries: Dictionaries | None = None
) -> Prompt:
    """Measures a transformers model on a prompt, and codes what its MLPs read and write.

    Raises what `measure` raises, and InputError for a dictionary that cannot be of this model or that
    attribution cannot follow, and for two that describe the input of one MLP.
    """
    dictionaries = dict(dictionaries or {})
    measured = measure(model, ids)
    for site, dictionary in dictionaries.items():
        require_dictionary(site, dictionary, len(measured.layers), measured.resid_final.shape[-1])
    layers = tuple(_layer(model, number, layer, dictionaries) for number, layer in enumerate(measured.layers))
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or None
    return Prompt(measured, layers, unembedding(model).to(measured.resid_final), name)


def _layer(
    model: nn.Module, number: int, measured: MeasuredLayer, dictionaries: Dictionaries
) -> LayerOnPrompt:
    read, written = read_site(dictionaries, number), Site(number, WRITTEN)
    norm: Any = mlp_norm(model, number)  # a plain block has one
    factor = norm_factor(plain(norm)).to(measured.resid_mid)
    inputs = outputs = None
    if read is not None:
        x = measured.resid_mid
        if read.point == "mlp-in":
            x = x / measured.ln2_scale.unsqueeze(-1) * factor
        inputs = SiteFeatures.of(read, dictionaries[read], x)
    if written in dictionaries:
        outputs = SiteFeatures.of(written, dictionaries[written], measured.mlp_out)
    return LayerOnPrompt(
        number=number,
        measured=measured,
        W_V=value_weights(model, attention_layer(model, number, len(measured.resid_pre))),
        at_mlp_in=mlp_tensor(model, number, fold_norm=False).to(measured.resid_mid.dtype),
        factor=factor,
        inputs=inputs,
        outputs=outputs,
        model=model,
    )


def value_weights(model: nn.Module, attention: AttentionLayer) -> Float[Tensor, "n_kv_heads d_model d_head"]:
    """A copy of W_V of a layer, once for all heads that share it (grouped-query attention)."""
    group = attention.n_heads // causal_model(model).config.num_key_value_heads
    return attention.weights.W_V[::group].clone()


def with_factor(tensor: BilinearTensor, factor: Float[Tensor, " d_model"]) -> BilinearTensor:
    """An MLP as a function of what the norm in front multiplies by its factor."""
    rows = torch.cat([factor, factor.new_ones(tensor.d_in - len(factor))]).unsqueeze(-1)
    return BilinearTensor(tensor.W_gate * rows, tensor.W_in * rows, tensor.W_out, tensor.constant)
