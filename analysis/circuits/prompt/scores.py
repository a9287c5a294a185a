"""Why a head looks where it looks: an attention score split over pairs of parts at two positions.

A score q · k · scale is bilinear in the residual streams at the query's and at the key's position, with the
norms' scales frozen (those of queries and keys too, where they are normalised). Each stream is a sum of the
token's embedding, the outputs of earlier heads, and the outputs of earlier MLPs: features with their error,
or the whole output of an MLP without a dictionary. A pair of these, one from each stream, is an interaction;
biases pair with sources and with each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention.layer import rotate
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.prompt.selected import Selected, contributions, strongest
from analysis.circuits.prompt.sources import (
    WrittenFeature,
    bias_source,
    token_source,
    whole_head,
    whole_mlp,
    written_error,
)
from analysis.circuits.readers import Group, Limits, Part, Score, Source, stage


def split_score(prompt: Prompt, reader: Score, limits: Limits) -> Group:
    """The parts of an attention score.

    A pair has its weight as its slope. What the norms' scales do with a source, at first order, is a slope of
    the source by itself, of weight 0.
    """
    layer, sides = prompt.layers[reader.layer], []
    query_sources, query = _side(prompt, reader, "Q", reader.query)
    left: Part = (*query_sources, bias_source(f"{reader.layer}-attn-in", reader.layer))
    right: Part = ()
    for position, sign in ((reader.key, 1), (reader.against, -1)):
        if position is not None:
            sources, side = _side(prompt, reader, "K", position)
            sides.append(side.times(sign))
            right += (*sources, *left[-1:])
    keys = torch.cat([side.vectors for side in sides])
    scale = layer.measured.attention.scale
    pairs = query.vectors @ keys.T * scale
    of_norms = [(query.tangents - query.vectors) @ keys.sum(dim=0) * scale]
    of_norms += [(side.tangents - side.vectors) @ query.vectors.sum(dim=0) * scale for side in sides]
    alone = left + right
    values = torch.cat([pairs.flatten(), *map(torch.zeros_like, of_norms)])
    slopes = torch.cat([pairs.flatten(), *of_norms])
    (chosen,) = strongest(values.unsqueeze(0), limits, slopes.unsqueeze(0))
    weights: dict[tuple[str, ...], tuple[float, float]] = {}
    parts: dict[tuple[str, ...], Part] = {}
    for column, weight, slope in zip(chosen.columns, chosen.weights, chosen.slopes, strict=True):
        if column < pairs.numel():
            pair = left[column // len(right)], right[column % len(right)]
            # Biases change with nothing, so that what they do with a source is linear in it.
            together = tuple(source for source in pair if source.node.kind != "bias") or left[-1:]
        else:
            together = (alone[column - pairs.numel()],)
        name = tuple(sorted(source.node.id for source in together))
        before = weights.get(name, (0.0, 0.0))
        weights[name] = before[0] + weight, before[1] + slope
        parts[name] = together
    merged = Selected(
        [],
        [weight for weight, _ in weights.values()],
        [slope for _, slope in weights.values()],
        chosen.pruned,
    )
    return contributions(merged, list(parts.values()), limits, stage(reader.layer, "score"))


@dataclass(frozen=True)
class _Side:
    """Queries or keys of one head at a position, by the parts of the stream and, last, the bias."""

    vectors: Float[Tensor, "n d_head"]
    """They sum to the query or the key."""
    tangents: Float[Tensor, "n d_head"]
    """The change of it with each part, relative to the part, with norms free to change."""

    def times(self, sign: int) -> _Side:
        return _Side(sign * self.vectors, sign * self.tangents)


def _side(prompt: Prompt, reader: Score, name: str, position: int) -> tuple[list[Source], _Side]:
    layer = prompt.layers[reader.layer]
    sources, parts = _stream(prompt, reader.layer, position)
    through = layer.gradient_before_attention(parts, position)
    vectors, tangents = (
        layer.attention.project(name, each / layer.measured.ln1_scale[position], constant=True)
        for each in (parts, through)
    )  # [n_heads, n, d_head], last the bias
    scales = layer.measured.attention.q_scale if name == "Q" else layer.measured.attention.k_scale
    if (norm := layer.attention.qk_norm) is not None and scales is not None:
        scale, factor = scales[:, position, None, None], norm.query if name == "Q" else norm.key
        raw = vectors.sum(dim=1, keepdim=True)
        along = (raw * tangents).sum(dim=-1, keepdim=True)
        along = along.mean(dim=0) if norm.is_joint else along
        tangents = tangents - along * raw / (raw.shape[-1] * scale.square())
        vectors, tangents = vectors / scale * factor, tangents / scale * factor
    cos, sin = (part[position] for part in layer.turns)
    rotated = (rotate(each[reader.head], cos, sin) for each in (vectors, tangents))
    return sources, _Side(*rotated)


def _stream(prompt: Prompt, layer: int, position: int) -> tuple[list[Source], Tensor]:
    """The parts of the residual stream before a layer's attention at a position, and their vectors."""
    sources = [token_source(prompt, position)]
    vectors = [prompt.layers[0].measured.resid_pre[position].unsqueeze(0)]
    for below in prompt.layers[:layer]:
        heads, attention_bias = below.measured.heads[:, position], below.measured.attention_bias
        sources += [whole_head(below.number, head, position, vector) for head, vector in enumerate(heads)]
        vectors.append(heads)
        if attention_bias is not None:
            sources.append(bias_source(f"{below.number}-attn-out", below.number))
            vectors.append(attention_bias[position].unsqueeze(0))
        features = below.outputs
        if features is None:
            written = below.measured.mlp_out[position]
            sources.append(whole_mlp(below.number, position, written))
            vectors.append(written.unsqueeze(0))
            continue
        at = features.at(position)
        sources += [WrittenFeature.at(below, features, index) for index in range(at.start, at.stop)]
        sources += [written_error(features, position), bias_source(str(features.site), below.number)]
        vectors.append(features.vectors(position))
    return sources, torch.cat(vectors)
