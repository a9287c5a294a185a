"""A measured prompt with its active features, over which attribution splits values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.attention.layer import AttentionLayer
from analysis.circuits.block import BlockWeights, block_weights
from analysis.circuits.prompt.features import SiteFeatures
from analysis.circuits.targets import LogitTarget
from analysis.features.dictionaries import (
    Dictionaries,
    dictionaries_by_site,
    read_site,
    require_dictionary,
)
from analysis.features.layer import WRITTEN
from analysis.paths.measured import Measured, MeasuredLayer, Passage, measure
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import prompt_ids
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.families import decoder, logit_soft_cap, model_name, plain
from bilinear_lm.norms import IDENTITY_EPS, norm_epsilon, norm_gradient
from bilinear_lm.shown import shown
from bilinear_lm.sites import Point, Site
from bilinear_lm.weights import unembedding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_RUNNERS_UP = 5
"""Tokens that the likeliest one is compared with."""

Coordinates = Point | Literal["normalised"]


@shown
@dataclass(frozen=True)
class LayerOnPrompt:
    """One layer: its activations on the prompt, its weights, and the features before and after its MLP.

    The MLP's input has three sets of coordinates: mlp-in, the residual stream at resid-mid, and between them
    x / rms(x) ("normalised"), the coordinates of eigenvectors.
    """

    block: BlockWeights
    measured: MeasuredLayer
    inputs: SiteFeatures | None
    outputs: SiteFeatures | None
    norms_held: bool = False
    """Whether derivatives hold the scales of norms: where norms are the identity, or on request."""

    @property
    def number(self) -> int:
        """Which layer it is, from 0."""
        return self.block.number

    @cached_property
    def attention(self) -> AttentionLayer:
        """All weights of the attention, in a copy that is made when it is first asked for."""
        return self.block.attention(len(self.measured.resid_pre))

    @cached_property
    def turns(self) -> tuple[Float[Tensor, "pos n_freq"], Float[Tensor, "pos n_freq"]]:
        """Cosines and sines by which queries and keys are rotated.

        They are the model's own, which it rounds to float32 and which may depend on the prompt's length.
        """
        rotary: Any = decoder(self.block.model).rotary_emb
        x = self.measured.resid_pre
        where = torch.arange(len(x), device=x.device).unsqueeze(0)
        n = len(self.attention.frequencies)
        cos, sin = (part[0, :, :n].to(x) for part in rotary(x, where))
        return cos, sin

    def normalised_input(self, position: int) -> Float[Tensor, " d_in"]:
        """x / rms(x) of the MLP's input at a position, with a 1 appended for its biases."""
        x = self.measured.resid_mid[position] / self.measured.ln2_scale[position]
        return torch.nn.functional.pad(x, (0, 1), value=1.0) if self.block.at_mlp_in.constant else x

    def from_stream(
        self, direction: Float[Tensor, " d_model"], position: int, point: Coordinates
    ) -> Float[Tensor, " d_model"]:
        """The direction of the residual stream with the same reading as a direction at a point."""
        if point == "resid-mid":
            return direction
        read = direction * self.block.factor if point == "mlp-in" else direction
        return read / self.measured.ln2_scale[position]

    def gradient_before_attention(
        self, w: Float[Tensor, "*axes d_model"], position: int | slice
    ) -> Float[Tensor, "*axes d_model"]:
        """The derivative of readings w · resid-pre through the norm in front of the attention."""
        if self.norms_held or not self.block.has_norms:
            return w
        return norm_gradient(w, self.measured.resid_pre[position], self.measured.ln1_scale[position])

    def gradient_before_mlp(self, w: Float[Tensor, " d_model"], position: int) -> Float[Tensor, " d_model"]:
        """The derivative of a reading w · resid-mid through the norm in front of the MLP."""
        if self.norms_held or not self.block.has_norms:
            return w
        return norm_gradient(w, self.measured.resid_mid[position], self.measured.ln2_scale[position])

    def behind_attention(
        self, w: Float[Tensor, "*axes d_model"], position: int | slice, derivative: bool
    ) -> Float[Tensor, "*axes d_model"]:
        """Readings of what the attention adds to the stream as ones of its output, or their derivatives."""
        return self._behind(self.measured.attention_passage, w, position, derivative)

    def behind_mlp(
        self, u: Float[Tensor, " d_model"], position: int
    ) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
        """A reading of what the MLP adds to the stream as one of its output, and the derivative of that."""
        passage = self.measured.mlp_passage
        return self._behind(passage, u, position, False), self._behind(passage, u, position, True)

    def _behind(self, passage: Passage | None, w: Tensor, position: int | slice, derivative: bool) -> Tensor:
        if passage is None:
            return w
        return (passage.gradient if derivative and not self.norms_held else passage.written)(w, position)

    def to_mlp_in(
        self, vector: Float[Tensor, "*axes d_model"], position: int, point: Coordinates
    ) -> Float[Tensor, "*axes d_model"]:
        """Vectors at a point in coordinates of mlp-in, with the norm's scale frozen."""
        if point == "mlp-in":
            return vector
        written = vector * self.block.factor
        return written / self.measured.ln2_scale[position] if point == "resid-mid" else written


@shown
@dataclass(frozen=True)
class Prompt:
    """A model on a prompt, with dictionaries; made by `open_prompt`. In float32 at least."""

    measured: Measured
    layers: tuple[LayerOnPrompt, ...]
    W_U: Float[Tensor, "d_model d_vocab"]
    model: str | None
    vocabulary: Vocabulary | None = None
    """Texts of the tokens, where a tokenizer was given."""
    soft_cap: float | None = None
    """c where logits are c tanh(z / c) of what is read from the last norm (Gemma 2)."""

    def holding_norms(self) -> Prompt:
        """The prompt with the scales of norms held in derivatives too."""
        return replace(self, layers=tuple(replace(layer, norms_held=True) for layer in self.layers))

    @property
    def norms_held(self) -> bool:
        """Whether derivatives hold the scales of norms: where norms are the identity, or on request."""
        return self.layers[0].norms_held

    def resid_post(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """The residual stream behind a layer."""
        is_last = layer + 1 == self.n_layers
        return self.measured.resid_final if is_last else self.layers[layer + 1].measured.resid_pre

    @property
    def module(self) -> nn.Module:
        """The transformers model."""
        return self.layers[0].block.model

    def logit_directions(
        self, target: LogitTarget, position: int
    ) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
        """The directions of the last residual stream that a logit is read along: with the norm's scale held,
        which gives its value, and the derivative.

        A soft cap c tanh(z / c) of logits (Gemma 2) is held at its measured ratio to z, and has the slope
        1 - tanh(z / c)².
        """
        scale = self.measured.final_scale[position]
        if self.soft_cap is None:
            w = target.of(self.W_U) / scale
            slope = w
        else:
            tokens = [target.token, *target.against]
            columns = self.W_U[:, tokens] / scale
            shares = columns.new_tensor([1.0, *(-1 / len(target.against) for _ in target.against)])
            capped, z = self.measured.logits[position, tokens], self.measured.resid_final[position] @ columns
            w = columns @ (shares * torch.where(z == 0, 1, capped / z))
            slope = columns @ (shares * (1 - (capped / self.soft_cap).square()))
        if self.norms_held:
            return w, slope
        return w, norm_gradient(slope, self.measured.resid_final[position], scale)

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
        """A tensor with the device and precision of all others."""
        return self.measured.resid_final

    def position(self, position: int) -> int:
        """A position counted from 0; negative ones count from the end."""
        if not -self.n_pos <= position < self.n_pos:
            raise InputError(
                f"position {position} does not exist; the prompt has positions 0 to {self.n_pos - 1}"
            )
        return position % self.n_pos

    def likeliest(self, position: int = -1) -> int:
        """The token that the model expects most after a position."""
        return int(self.measured.logits[self.position(position)].argmax())

    def runners_up(self, position: int = -1, n: int = N_RUNNERS_UP) -> tuple[int, ...]:
        """The n tokens that the model expects most after the likeliest one; all others if they are fewer."""
        n = min(n, self.W_U.shape[1] - 1)
        return tuple(self.measured.logits[self.position(position)].topk(n + 1).indices[1:].tolist())

    def layer(self, layer: int) -> LayerOnPrompt:
        """A layer by its number."""
        require_index(layer, self.n_layers, "layer")
        return self.layers[layer]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that have a dictionary."""
        sides = (part for layer in self.layers for part in (layer.inputs, layer.outputs))
        return tuple(part.site for part in sides if part is not None)

    def features(self, site: Site) -> SiteFeatures:
        """The features of a site; InputError where there is no dictionary for it."""
        layer = self.layer(site.layer)
        for features in (layer.inputs, layer.outputs):
            if features is not None and features.site == site:
                return features
        raise InputError(f"there is no dictionary of {site}; expected one among the dictionaries")


@checked
def open_prompt(
    model: nn.Module,
    prompt: str | Sequence[int] | Int[Tensor, "*one pos"],
    dictionaries: Dictionaries | Sequence[Dictionary] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Prompt:
    """Measures a transformers model on a prompt, and encodes the inputs and outputs of its MLPs.

    The prompt is token ids, or with a `tokenizer` a text, preceded by the beginning-of-sequence token where
    there is one. `dictionaries`, a list or by site, hold the features: those at mlp-out for the outputs of
    MLPs, those at mlp-in or resid-mid for their inputs.

    >>> prompt = open_prompt(model, "Her mom gave her a big", scope, tokenizer=tokenizer)  # doctest: +SKIP

    Raises what `measure` raises, and InputError for a text without a tokenizer, a dictionary that cannot be
    of this model or that attribution cannot follow, and two that describe the input of one MLP.
    """
    by_site = dictionaries_by_site(dictionaries)
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InputError(f"prompt {prompt!r} without a tokenizer; give tokenizer=, or token ids")
        prompt = prompt_ids(model, tokenizer, prompt)
    measured = measure(model, prompt)
    for site, dictionary in by_site.items():
        require_dictionary(site, dictionary, len(measured.layers), measured.resid_final.shape[-1])
    layers = tuple(_layer(model, number, layer, by_site) for number, layer in enumerate(measured.layers))
    W_U = unembedding(model).to(measured.resid_final)
    vocabulary = None if tokenizer is None else Vocabulary.of(tokenizer, W_U.shape[1])
    opened = Prompt(measured, layers, W_U, model_name(model), vocabulary, soft_cap=logit_soft_cap(model))
    is_identity = norm_epsilon(plain(decoder(model).norm)) >= IDENTITY_EPS  # one ε for all norms of a model
    return opened.holding_norms() if is_identity else opened


def _layer(
    model: nn.Module, number: int, measured: MeasuredLayer, dictionaries: Dictionaries
) -> LayerOnPrompt:
    read, written = read_site(dictionaries, number), Site(number, WRITTEN)
    block = block_weights(model, number, measured.resid_mid)
    inputs = outputs = None
    if read is not None:
        x = measured.resid_mid
        if read.point == "mlp-in":
            x = x / measured.ln2_scale.unsqueeze(-1) * block.factor
        inputs = SiteFeatures.of(read, dictionaries[read], x)
    if written in dictionaries:
        outputs = SiteFeatures.of(written, dictionaries[written], measured.mlp_out)
    return LayerOnPrompt(block, measured, inputs, outputs)
