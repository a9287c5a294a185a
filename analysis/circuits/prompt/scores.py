"""Why a head looks where it looks: an attention score split over pairs of parts at two positions.

A score q · k · scale is bilinear in the residual streams at the query's and at the key's position, with the
norms' scales frozen (those of queries and keys too, where they are normalised). Each stream is a sum of the
token's embedding, the outputs of earlier heads, and the outputs of earlier MLPs: features with their error,
or the whole output of an MLP without a dictionary. A pair of these, one from each stream, is an interaction;
biases pair with sources and with each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from analysis.attention.layer import AttentionLayer, rotate
from analysis.circuits.prompt.prompt import LayerOnPrompt, Prompt
from analysis.circuits.prompt.selected import contributions, strongest
from analysis.circuits.prompt.sources import (
    WrittenFeature,
    bias_source,
    token_source,
    whole_head,
    whole_mlp,
    written_error,
)
from analysis.circuits.readers import Group, Limits, Part, Score, Source, stage
from bilinear_lm.families import decoder


def split_score(prompt: Prompt, reader: Score, limits: Limits) -> Group:
    """The parts of an attention score."""
    layer = prompt.layers[reader.layer]
    attention = layer.attention
    bias = bias_source(f"{reader.layer}-attn-in", reader.layer)
    query_sources, query_vectors = _stream(prompt, reader.layer, reader.query)
    queries = _rotated(layer, attention, "Q", reader.head, reader.query, query_vectors)
    key_sources: list[Source] = []
    keys = []
    for key, sign in ((reader.key, 1), (reader.against, -1)):
        if key is not None:
            sources, vectors = _stream(prompt, reader.layer, key)
            keys.append(sign * _rotated(layer, attention, "K", reader.head, key, vectors))
            key_sources += [*sources, bias]
    scores = queries @ torch.cat(keys).T * layer.measured.attention.scale
    (chosen,) = strongest(scores.reshape(1, -1), limits)
    left = [*query_sources, bias]
    weights: dict[tuple[str, ...], float] = {}
    parts: dict[tuple[str, ...], Part] = {}
    for column, weight in zip(chosen.columns, chosen.weights, strict=True):
        pair = left[column // len(key_sources)], key_sources[column % len(key_sources)]
        # Biases change with nothing, so that what they do with a source is linear in it.
        together = tuple(source for source in pair if source.node.kind != "bias") or (bias,)
        name = tuple(sorted(source.node.id for source in together))
        weights[name] = weights.get(name, 0.0) + weight
        parts[name] = together
    pairs_at = stage(reader.layer, "score")
    return contributions(list(weights.values()), list(parts.values()), chosen.pruned, pairs_at)


def _rotated(
    layer: LayerOnPrompt, attention: AttentionLayer, name: str, head: int, position: int, vectors: Tensor
) -> Tensor:
    """Queries or keys of one head at a position, of vectors of the residual stream and, last, of the bias."""
    measured = layer.measured
    projected = attention.project(name, vectors / measured.ln1_scale[position], constant=True)[head]
    scale = measured.attention.q_scale if name == "Q" else measured.attention.k_scale
    if (norm := attention.qk_norm) is not None and scale is not None:
        projected = projected / scale[head, position] * (norm.query if name == "Q" else norm.key)
    rotary: Any = decoder(layer.block.model).rotary_emb
    where = torch.arange(len(measured.resid_pre), device=vectors.device).unsqueeze(0)
    # The model's own angles, which it rounds to float32 and which may depend on the length of the prompt.
    n = len(attention.frequencies)
    cos, sin = (part[0, position, :n].to(projected) for part in rotary(vectors, where))
    return rotate(projected, cos, sin)


def _stream(prompt: Prompt, layer: int, position: int) -> tuple[list[Source], Tensor]:
    """The parts of the residual stream before a layer's attention at a position, and their vectors."""
    sources = [token_source(prompt, position)]
    vectors = [prompt.layers[0].measured.resid_pre[position].unsqueeze(0)]
    for below in prompt.layers[:layer]:
        attention = below.measured.attention
        heads = below.measured.heads[:, position]
        sources += [whole_head(below.number, head, position, vector) for head, vector in enumerate(heads)]
        vectors.append(heads)
        if attention.bias is not None:
            sources.append(bias_source(f"{below.number}-attn-out", below.number))
            vectors.append(attention.bias.unsqueeze(0))
        features = below.outputs
        if features is None:
            written = below.measured.mlp_out[position]
            sources.append(whole_mlp(below.number, position, written))
            vectors.append(written.unsqueeze(0))
            continue
        at = features.at(position)
        sources += [WrittenFeature.at(features, index) for index in range(at.start, at.stop)]
        sources += [written_error(features, position), bias_source(str(features.site), below.number)]
        vectors.append(features.vectors(position))
    return sources, torch.cat(vectors)
