"""Why a head looks where it looks: an attention score split over pairs of what is at two positions.

A score q · k · scale is bilinear in the residual streams at the query's and at the key's position, with the
norms' scales held (of queries and keys too, where they are normalised). Each stream is a sum of the token's
embedding, what earlier heads wrote there, and what earlier MLPs wrote there: features with their error, or
all of an MLP without a dictionary. A pair of these, one a side, is an interaction; biases pair with sources
and with each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from analysis.attention import rotate
from analysis.attribution_parts import BOTTOM, Limits, Part, Score, Source, Split, Write, stage, strongest
from analysis.attribution_prompt import LayerOnPrompt, Prompt
from analysis.attribution_stream import error_source, token_source, written_feature
from analysis.circuit_features import WRITTEN
from analysis.graph_nodes import bias_node, direction_node, head_node
from bilinear_lm.dictionary import Site
from bilinear_lm.families import decoder


def split_score(model: nn.Module, prompt: Prompt, reader: Score, limits: Limits) -> Split:
    """The parts of an attention score."""
    layer, measured = prompt.layers[reader.layer], prompt.layers[reader.layer].measured.attention
    bias = Source(bias_node(f"{reader.layer}-attn-in", reader.layer), BOTTOM)
    query_sources, query_vectors = _stream(prompt, reader.layer, reader.query)
    queries = _rotated(model, layer, "Q", reader.head, reader.query, query_vectors)
    key_sources: list[Source] = []
    keys = []
    for key, sign in ((reader.key, 1), (reader.against, -1)):
        if key is not None:
            sources, vectors = _stream(prompt, reader.layer, key)
            keys.append(sign * _rotated(model, layer, "K", reader.head, key, vectors))
            key_sources += [*sources, bias]
    scores = queries @ torch.cat(keys).T * measured.scale
    (chosen,) = strongest(scores.reshape(1, -1), limits)
    left = [*query_sources, bias]
    parts: dict[tuple[str, ...], Part] = {}
    for column, weight in zip(chosen.columns, chosen.weights, strict=True):
        pair = left[column // len(key_sources)], key_sources[column % len(key_sources)]
        # Biases change with nothing, so that what they do with a source is linear in it.
        together = tuple(source for source in pair if source.node.kind != "bias") or (bias,)
        name = tuple(sorted(source.node.id for source in together))
        before = parts[name].weight if name in parts else 0.0
        parts[name] = Part(before + weight, together)
    return Split(tuple(parts.values()), chosen.pruned)


def _rotated(
    model: nn.Module, layer: LayerOnPrompt, name: str, head: int, position: int, vectors: Tensor
) -> Tensor:
    """Queries or keys of one head at a position, of vectors of the residual stream and, last, of the bias."""
    attention, measured = layer.attention, layer.measured
    projected = attention.project(name, vectors / measured.ln1_scale[position], constant=True)[head]
    scale = measured.attention.q_scale if name == "Q" else measured.attention.k_scale
    if (norm := attention.qk_norm) is not None and scale is not None:
        projected = projected / scale[head, position] * (norm.query if name == "Q" else norm.key)
    rotary: Any = decoder(model).rotary_emb
    where = torch.tensor([[position]], device=vectors.device)
    # The model's own angles, which it rounds to float32.
    n = len(attention.frequencies)
    cos, sin = (part[0, :, :n].to(projected) for part in rotary(vectors, where))
    return rotate(projected, cos, sin)


def _stream(prompt: Prompt, layer: int, position: int) -> tuple[list[Source], Tensor]:
    """The parts of the residual stream before a layer's attention at a position, and their vectors."""
    sources = [token_source(prompt, position)]
    vectors = [prompt.layers[0].measured.resid_pre[position].unsqueeze(0)]
    for below in prompt.layers[:layer]:
        attention = below.measured.attention
        heads = below.measured.heads[:, position]
        sources += [_whole_head(below.number, head, position, vector) for head, vector in enumerate(heads)]
        vectors.append(heads)
        if attention.bias is not None:
            sources.append(Source(bias_node(f"{below.number}-attn-out", below.number), BOTTOM))
            vectors.append(attention.bias.unsqueeze(0))
        found = below.outputs
        if found is None:
            written = below.measured.mlp_out[position]
            sources.append(_whole_mlp(below.number, position, written))
            vectors.append(written.unsqueeze(0))
            continue
        at = found.at(position)
        sources += [written_feature(found, place) for place in range(at.start, at.stop)]
        sources += [
            error_source(found, position, stage(below.number, "out")),
            Source(bias_node(str(found.site), below.number), BOTTOM),
        ]
        vectors.append(found.vectors(position))
    return sources, torch.cat(vectors)


def _whole_head(layer: int, head: int, position: int, vector: Tensor) -> Source:
    return Source(
        head_node(layer, head, query=position),
        stage(layer, "head"),
        write=lambda: Write(Site(layer, "attn-out"), position, vector),
    )


def _whole_mlp(layer: int, position: int, vector: Tensor) -> Source:
    site = Site(layer, WRITTEN)
    node = direction_node(site, position=position)
    return Source(node, stage(layer, "out"), write=lambda: Write(site, position, vector))
