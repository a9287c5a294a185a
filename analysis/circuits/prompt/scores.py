"""Why a head looks where it looks: an attention score split over pairs of parts at two positions.

A score q · k · scale is bilinear in the residual streams at the query's and at the key's position, with the
norms' scales frozen (those of queries and keys too, where they are normalised). Each stream is a sum of the
token's embedding, the outputs of earlier heads, and the outputs of earlier MLPs: features with their error,
or the whole output of an MLP without a dictionary. A pair of these, one from each stream, is an interaction;
biases pair with sources and with each other.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.attention.layer import rotate
from analysis.circuits.catalogue import Catalogue
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.prompt.selected import Selected, contributions, strongest
from analysis.circuits.prompt.sources import (
    bias_source,
    tokens,
    whole_head,
    whole_mlp,
    written_errors,
    written_features,
)
from analysis.circuits.readers import Group, Limits, Score, stage


def split_score(prompt: Prompt, reader: Score, limits: Limits, catalogue: Catalogue) -> Group:
    """The parts of an attention score.

    A pair has its weight as its slope. What the norms' scales do with a source, at first order, is a slope of
    the source by itself, of weight 0.
    """
    layer, sides = prompt.layers[reader.layer], []
    bias = catalogue.add(bias_source(f"{reader.layer}-attn-in", reader.layer))
    query_sources, query = _side(prompt, reader, "Q", reader.query, catalogue)
    left, right = [*query_sources, bias], []
    for position, sign in ((reader.key, 1), (reader.against, -1)):
        if position is not None:
            sources, side = _side(prompt, reader, "K", position, catalogue)
            sides.append(side.times(sign))
            right += [*sources, bias]
    keys = torch.cat([side.vectors for side in sides])
    scale = layer.measured.attention.scale
    pairs = query.vectors @ keys.T * scale
    of_norms = [(query.tangents - query.vectors) @ keys.sum(dim=0) * scale]
    of_norms += [(side.tangents - side.vectors) @ query.vectors.sum(dim=0) * scale for side in sides]
    values = torch.cat([pairs.flatten(), *map(torch.zeros_like, of_norms)])
    slopes = torch.cat([pairs.flatten(), *of_norms])
    chosen = strongest(values.unsqueeze(0), limits, slopes.unsqueeze(0))
    biases = {number for number in (*left, *right) if catalogue[number].node.kind == "bias"}
    chosen, ends = _merged(chosen, left, right, biases)
    return contributions(chosen, ends[:, 0], limits, ends[:, 1], stage(reader.layer, "score"))


def _merged(
    chosen: Selected, left: list[int], right: list[int], biases: Set[int]
) -> tuple[Selected, Int[np.ndarray, "n 2"]]:
    """The contributions of pairs with those of the same sources as one, and the numbers of these.

    Biases change with nothing, so that what they do with a source is linear in it.
    """
    alone, n_pairs = left + right, len(left) * len(right)
    sums: dict[tuple[int, ...], tuple[float, float]] = {}
    ends: dict[tuple[int, ...], tuple[int, int]] = {}
    columns = (getattr(chosen, name).tolist() for name in ("columns", "weights", "slopes"))
    for column, weight, slope in zip(*columns, strict=True):
        together = [alone[column - n_pairs]] if column >= n_pairs else []
        if column < n_pairs:
            pair = left[column // len(right)], right[column % len(right)]
            together = [number for number in pair if number not in biases] or left[-1:]
        name = tuple(sorted(together))
        before = sums.get(name, (0.0, 0.0))
        sums[name] = before[0] + weight, before[1] + slope
        ends[name] = together[0], together[1] if len(together) == 2 else -1
    weights, slopes = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2).T
    rows = np.zeros(len(sums), dtype=np.int64)
    merged = replace(chosen, rows=rows, columns=rows, weights=weights, slopes=slopes)
    return merged, np.array(list(ends.values()), dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class _Side:
    """Queries or keys of one head at a position, by the parts of the stream and, last, the bias."""

    vectors: Float[Tensor, "n d_head"]
    """They sum to the query or the key."""
    tangents: Float[Tensor, "n d_head"]
    """The change of it with each part, relative to the part, with norms free to change."""

    def times(self, sign: int) -> _Side:
        return _Side(sign * self.vectors, sign * self.tangents)


def _side(
    prompt: Prompt, reader: Score, name: str, position: int, catalogue: Catalogue
) -> tuple[list[int], _Side]:
    layer = prompt.layers[reader.layer]
    sources, parts = _stream(prompt, reader.layer, position, catalogue)
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


def _stream(prompt: Prompt, layer: int, position: int, catalogue: Catalogue) -> tuple[list[int], Tensor]:
    """The numbers of the parts of the residual stream before a layer's attention at a position, and their
    vectors."""
    sources = [tokens(catalogue, prompt) + position]
    vectors = [prompt.layers[0].measured.resid_pre[position].unsqueeze(0)]
    for below in prompt.layers[:layer]:
        heads, attention_bias = below.measured.heads_at(position), below.measured.attention_bias
        for head, vector in enumerate(heads):
            sources.append(catalogue.add(whole_head(below.number, head, position, vector)))
        vectors.append(heads)
        if attention_bias is not None:
            sources.append(catalogue.add(bias_source(f"{below.number}-attn-out", below.number)))
            vectors.append(attention_bias[position].unsqueeze(0))
        features = below.outputs
        if features is None:
            written = below.measured.mlp_out[position]
            sources.append(catalogue.add(whole_mlp(below.number, position, written)))
            vectors.append(written.unsqueeze(0))
            continue
        at, first = features.at(position), written_features(catalogue, below)
        sources += range(first + at.start, first + at.stop)
        sources.append(written_errors(catalogue, features) + position)
        sources.append(catalogue.add(bias_source(str(features.site), below.number)))
        vectors.append(features.vectors(position))
    return sources, torch.cat(vectors)
