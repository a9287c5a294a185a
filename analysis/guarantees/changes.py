"""Sizes of all that can differ between two models of one shape, part by part, as functions.

Every size is a norm of the difference of two functions, from weights alone: of a layer's tensor, of what it
reads with a token or feature (B(e, ·), e of length √d as RMSNorm leaves it) and of what it writes along one
(Q_u), of what a head writes (OV) and how it looks (QK), and of a token's embedding and unembedding. Beside
each stands the size of the same part of the first model.

Residual streams must be the same: a rotation of all of it is a symmetry too, which is not looked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from analysis.attention.layer import attention_layer
from analysis.features.layer import WRITTEN
from analysis.guarantees.heads import head_change
from analysis.guarantees.tensor_difference import difference
from analysis.spectra.gram import Leg, unfolding_gram
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import embedding, mlp_norm_factor, mlp_tensor, unembedding

Kind = Literal[
    "MLP",
    "MLP reads token",
    "MLP writes token",
    "MLP reads feature",
    "MLP writes feature",
    "head writes",
    "head looks",
    "embedding",
    "unembedding",
]
"""Parts of a model that are compared."""

ROUNDING = 1e-6
"""Changes below it, as a part of what they change, are 0: weights that are equal up to a symmetry differ by
the rounding of float32, 6e-8 each."""

Place = tuple[Kind, int | None]
"""A kind and its layer; None for the embeddings."""


@shown
@dataclass(frozen=True)
class Sizes:
    """The change of each item of one kind in one layer."""

    change: Float[Tensor, " items"]
    own: Float[Tensor, " items"]
    """The size of the same in the first model."""

    def without_rounding(self) -> Sizes:
        """The same with 0 for changes that rounding alone makes."""
        return Sizes(torch.where(self.change > ROUNDING * self.own, self.change, 0), self.own)

    @property
    def relative(self) -> Float[Tensor, " items"]:
        """change / own; 0 where nothing changed."""
        return torch.where(self.change > 0, self.change / self.own, 0)


@dataclass(frozen=True)
class Directions:
    """Output and input directions of one MLP, all in the coordinates of x / rms(x), of the first model."""

    tokens_read: Float[Tensor, "d_vocab d_model"]
    """Embeddings with length √d: what the norm makes of one that is alone in the residual stream."""
    tokens_written: Float[Tensor, "d_vocab d_model"]
    """Columns of W_U less their mean: the token's logit against the mean of all."""
    features_read: Float[Tensor, "n_in d_model"] | None
    features_written: Float[Tensor, "n_out d_model"] | None

    def by_kind(self) -> dict[Kind, Tensor]:
        """The directions that are there."""
        given: dict[Kind, Tensor | None] = {
            "MLP reads token": self.tokens_read,
            "MLP writes token": self.tokens_written,
            "MLP reads feature": self.features_read,
            "MLP writes feature": self.features_written,
        }
        return {kind: rows for kind, rows in given.items() if rows is not None}


def directions_of(model: nn.Module, layer: int, dictionaries: Mapping[Site, Dictionary]) -> Directions:
    """The directions along which the MLP of a layer is compared, in float64."""
    W_U = unembedding(model).double()
    d_model = len(W_U)
    tokens = math.sqrt(d_model) * normalize(embedding(model).double(), dim=1)
    inputs = dictionaries.get(Site(layer, "mlp-in")) or dictionaries.get(Site(layer, "resid-mid"))
    outputs = dictionaries.get(Site(layer, WRITTEN))
    read = None
    if inputs is not None:
        read = inputs.decoder.to(W_U)
        if inputs.site == Site(layer, "mlp-in"):
            read = read / mlp_norm_factor(model, layer).to(W_U)
        read = math.sqrt(d_model) * normalize(read, dim=1)
    written = None if outputs is None else outputs.encoder.T.to(W_U)
    return Directions(tokens, (W_U - W_U.mean(dim=1, keepdim=True)).T, read, written)


def layer_tensor(model: nn.Module, layer: int) -> BilinearTensor:
    """The MLP of a layer as a function of x / rms(x), in float64."""
    return mlp_tensor(model, layer).to(torch.float64)


OwnSizes = dict[Kind, Float[Tensor, " items"]]


def changes(
    model: nn.Module,
    other: nn.Module,
    directions: Sequence[Directions],
    tensors: Sequence[BilinearTensor],
    own: Sequence[OwnSizes],
) -> dict[Place, Sizes]:
    """The size of every change from one model to another.

    `directions`, `tensors` and `own` (`sizes_along` of the tensors) are of the first, by layer.
    """
    found: dict[Place, Sizes] = {}
    for layer, (along, tensor, size) in enumerate(zip(directions, tensors, own, strict=True)):
        for kind, change in sizes_along(difference(layer_tensor(other, layer), tensor), along).items():
            found[kind, layer] = Sizes(change, size[kind])
        heads = head_change(*(attention_layer(each, layer) for each in (model, other)))
        found["head writes", layer] = Sizes(heads.ov, heads.ov_own)
        if heads.qk is not None:
            found["head looks", layer] = Sizes(heads.qk, cast(Tensor, heads.qk_own))
    W_E, W_U = (of(model).double() for of in (embedding, unembedding))
    found["embedding", None] = _rows(embedding(other).double() - W_E, W_E)
    changed_logits = unembedding(other).double() - W_U
    # A vector that is added to all tokens' directions changes no probability.
    centred = [part - part.mean(dim=1, keepdim=True) for part in (changed_logits, W_U)]
    found["unembedding", None] = _rows(*(part.T for part in centred))
    return {place: sizes.without_rounding() for place, sizes in found.items()}


def sizes_along(tensor: BilinearTensor, along: Directions) -> OwnSizes:
    """The norm of a layer, and of its part along each of the directions, all from two Gram matrices."""
    grams = {leg: unfolding_gram(tensor, leg) for leg in get_args(Leg)}
    squares: OwnSizes = {"MLP": grams["output"].trace().reshape(1)}
    for kind, rows in along.by_kind().items():
        gram = grams["output"]
        if kind.startswith("MLP reads"):
            gram = grams["input"][: rows.shape[1], : rows.shape[1]]
        squares[kind] = ((rows @ gram) * rows).sum(-1)
    return {kind: square.clamp(min=0).sqrt() for kind, square in squares.items()}


def _rows(change: Tensor, own: Tensor) -> Sizes:
    return Sizes(*(torch.linalg.vector_norm(part, dim=1) for part in (change, own)))
