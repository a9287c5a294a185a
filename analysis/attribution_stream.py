"""What a direction of the residual stream reads, split over everything that wrote to the stream.

With patterns and scales held, attention is linear, so a direction w read at one position is a direction at
every position of the layers below: g → g + Σ_h Pᵀ_h g OV_hᵀ / s. What embeddings, MLPs, and biases add to
the reading are products with these. Or heads are sources of their own, one for each position that they move
from, and read in turn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attribution_parts import (
    BOTTOM,
    Limits,
    Linear,
    Part,
    Quadratic,
    Reader,
    Source,
    Split,
    Write,
    stage,
    strongest,
)
from analysis.attribution_prompt import LayerOnPrompt, Prompt, SiteFeatures
from analysis.circuit_features import WRITTEN
from analysis.graph import Node
from analysis.graph_nodes import bias_node, direction_node, error_node, feature_node, head_node, token_node
from bilinear_lm.dictionary import Site
from bilinear_lm.tensor import CHUNK_BYTES


def split_stream(prompt: Prompt, readers: Sequence[tuple[Node, Linear]], limits: Limits) -> Iterator[Split]:
    """The parts of linear readers of one depth, in their order; heads are parts where limits say so."""
    if not readers:
        return
    numbers_each = prompt.n_pos * prompt.like.shape[-1] * (2 + prompt.n_layers)
    numbers_each += _n_columns(prompt, limits.split_heads)
    at_once = max(1, CHUNK_BYTES // (4 * numbers_each * prompt.like.element_size()))
    for start in range(0, len(readers), at_once):
        yield from _split(prompt, readers[start : start + at_once], limits)


def _n_columns(prompt: Prompt, split_heads: bool) -> int:
    heads = len(prompt.layers[0].measured.attention.W_O) if split_heads else 0
    active = sum(len(layer.outputs.codes) for layer in prompt.layers if layer.outputs is not None)
    return active + prompt.n_layers * (prompt.n_pos * (1 + heads) + 2)


@dataclass(frozen=True)
class _Block:
    """Contributions [n, columns] of one kind of source of one layer."""

    kind: str
    layer: int
    values: Float[Tensor, "n columns"]
    directions: Float[Tensor, "n pos d_model"] | None = None
    """How each reader reads the positions, where sources need it to be read in turn."""


_OF_ONE_READER = ("constant", "head", "direction")
"""Kinds of sources that belong to the reader that reads them."""


def _split(prompt: Prompt, readers: Sequence[tuple[Node, Linear]], limits: Limits) -> Iterator[Split]:
    blocks = list(_blocks(prompt, [reader for _, reader in readers], limits.split_heads))
    ends = torch.tensor([block.values.shape[1] for block in blocks]).cumsum(0).tolist()
    contributions = torch.cat([block.values for block in blocks], dim=1)
    shared: dict[int, Source] = {}  # by column: most sources are the same for all readers
    for row, chosen in enumerate(strongest(contributions, limits)):
        parts = []
        for column, weight in zip(chosen.columns, chosen.weights, strict=True):
            source = shared.get(column)
            if source is None:
                number = bisect_right(ends, column)
                block = blocks[number]
                place = column - ends[number] + block.values.shape[1]
                source = _source(prompt, block, place, row, *readers[row], weight)
                if block.kind not in _OF_ONE_READER:
                    shared[column] = source
            parts.append(Part(weight, (source,)))
        yield Split(tuple(parts), chosen.pruned)


def _blocks(prompt: Prompt, readers: Sequence[Linear], split_heads: bool) -> Iterator[_Block]:
    """All contributions, from the last layer that was read down to the embeddings."""
    depth, rows = readers[0].depth, torch.arange(len(readers), device=prompt.like.device)
    positions = torch.tensor([reader.position for reader in readers], device=prompt.like.device)
    w = torch.stack([reader.w for reader in readers])
    g = prompt.like.new_zeros(len(readers), *prompt.like.shape)
    g[rows, positions] = w
    yield _Block("constant", -1, g.new_tensor([[reader.constant] for reader in readers]))
    for layer in reversed(prompt.layers[: (depth + 1) // 2]):
        if 2 * layer.number + 1 < depth:
            yield from _written_by_mlp(layer, g)
        attention = layer.measured.attention
        if attention.bias is not None:
            yield _Block("attention bias", layer.number, (g.sum(dim=1) @ attention.bias).unsqueeze(1))
        if split_heads:
            moved = torch.einsum("nd,hed,hke->nhk", w, attention.W_O, attention.values)
            pattern = layer.measured.pattern[:, positions].transpose(0, 1)
            yield _Block("head", layer.number, (moved * pattern).flatten(1))
        else:
            g = g + _through_attention(layer, g)
    yield _Block("token", -1, torch.einsum("npd,pd->np", g, prompt.layers[0].measured.resid_pre))


def _through_attention(layer: LayerOnPrompt, g: Tensor) -> Tensor:
    """Directions at the output of attention as directions at its input, the residual stream before it."""
    attention = layer.measured.attention
    values = layer.measured.pattern.mT @ torch.einsum("nqd,hed->nhqe", g, attention.W_O)
    shared = values.unflatten(1, (len(layer.W_V), -1)).sum(dim=2)
    read = torch.einsum("nhke,hde->nkd", shared, layer.W_V)
    return read / layer.measured.ln1_scale.unsqueeze(-1)


def _written_by_mlp(layer: LayerOnPrompt, g: Tensor) -> Iterator[_Block]:
    found = layer.outputs
    if found is None:
        values = torch.einsum("npd,pd->np", g, layer.measured.mlp_out)
        yield _Block("direction", layer.number, values, g)
        return
    decoder = found.dictionary.decoder
    codes = [
        g[:, position] @ decoder[found.features[found.at(position)]].T * found.codes[found.at(position)]
        for position in range(g.shape[1])
    ]
    yield _Block("feature", layer.number, torch.cat(codes, dim=1))
    yield _Block("error", layer.number, torch.einsum("npd,pd->np", g, found.error))
    yield _Block("origin", layer.number, (g.sum(dim=1) @ found.origin).unsqueeze(1))


def _source(
    prompt: Prompt, block: _Block, place: int, row: int, node: Node, reader: Linear, weight: float
) -> Source:
    """The source of one column of a block, for the reader of one row."""
    if block.kind == "constant":
        return Source(bias_node(reader.bias, node.layer), BOTTOM)
    if block.kind == "token":
        return token_source(prompt, place)
    layer = prompt.layers[block.layer]
    if block.kind == "attention bias":
        return Source(bias_node(f"{block.layer}-attn-out", block.layer), BOTTOM)
    if block.kind == "head":
        head, key = divmod(place, prompt.n_pos)
        return _head(layer, head, key, node, reader, weight)
    if block.kind == "direction":
        assert block.directions is not None  # such blocks have them
        return _direction(layer, place, block.directions[row, place].clone(), node, weight)
    assert layer.outputs is not None  # the other blocks are of its features
    if block.kind == "origin":
        return Source(bias_node(f"{layer.outputs.site}", block.layer), BOTTOM)
    if block.kind == "error":
        return error_source(layer.outputs, place, stage(block.layer, "out"))
    return written_feature(layer.outputs, place)


def token_source(prompt: Prompt, position: int) -> Source:
    """The embedding of the token at a position."""
    embedded = prompt.layers[0].measured.resid_pre[position]
    return Source(
        token_node(int(prompt.measured.ids[position]), position),
        BOTTOM,
        write=lambda: Write(Site(0, "resid-pre"), position, embedded),
    )


def error_source(found: SiteFeatures, position: int, at: tuple[int, int]) -> Source:
    """What a dictionary leaves out at a position."""
    return Source(
        error_node(found.site, position),
        at,
        write=lambda: Write(found.site, position, found.error[position]),
    )


def written_feature(found: SiteFeatures, place: int) -> Source:
    """The active feature with this place in the list of them, at mlp-out."""
    position, feature, code = found.listed[place]

    def reader() -> Reader:
        u, constant = found.reading(feature)
        return Quadratic(found.site.layer, position, u, constant)

    return Source(
        feature_node(found.site, feature, position, value=code),
        stage(found.site.layer, "out"),
        reader,
        lambda: Write(found.site, position, code * found.dictionary.decoder[feature]),
    )


def _direction(layer: LayerOnPrompt, position: int, u: Tensor, node: Node, weight: float) -> Source:
    """What an MLP without a dictionary writes, along the direction in which a reader reads it."""
    site = Site(layer.number, WRITTEN)
    return Source(
        direction_node(site, node, position, value=weight),
        stage(layer.number, "out"),
        lambda: Quadratic(layer.number, position, u),
        lambda: Write(site, position, weight * u / u.square().sum()),
    )


def _head(layer: LayerOnPrompt, head: int, key: int, node: Node, reader: Linear, weight: float) -> Source:
    """What a head moves from a position to that of a reader."""
    attention, query = layer.measured.attention, reader.position

    def onward() -> Reader:
        shared = head * len(layer.W_V) // len(attention.W_O)
        w = layer.W_V[shared] @ (attention.W_O[head] @ reader.w)
        held = layer.measured.pattern[head, query, key] / layer.measured.ln1_scale[key]
        return Linear(2 * layer.number, key, held * w)

    return Source(
        head_node(layer.number, head, node, query, key, value=weight),
        stage(layer.number, "head"),
        onward,
        lambda: Write(Site(layer.number, "attn-out"), query, weight * reader.w / reader.w.square().sum()),
    )
