"""The reading of a residual-stream direction, split over everything that wrote to the stream.

With patterns and scales frozen, attention is linear, so a direction w read at one position is a direction at
every position of the layers below: g → g + Σ_h Pᵀ_h g OV_hᵀ / s. Embeddings, MLPs, and biases contribute
their products with these directions: the weights. The derivative is such a direction too, which goes through
the norms in front of reader and attention as well (`bilinear_lm.norms.norm_gradient`): it gives the slopes.
Or heads are sources of their own, one for each position that they move from, and are split in turn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.circuits.prompt.attention import AttentionScore, score_slopes
from analysis.circuits.prompt.prompt import LayerOnPrompt, Prompt
from analysis.circuits.prompt.selected import contributions, strongest
from analysis.circuits.prompt.sources import (
    Moved,
    WrittenDirection,
    WrittenFeature,
    bias_source,
    token_source,
    written_error,
)
from analysis.circuits.readers import Group, Limits, Linear, ListedScores, Part, Source, Spread
from analysis.graphs.elements import Node
from bilinear_lm.numerics.memory import rows_at_once

Readers = Sequence[tuple[Node, Linear | Spread]]


def split_stream(prompt: Prompt, readers: Readers, limits: Limits) -> Iterator[Group]:
    """The parts of linear readers of one depth, in their order; heads and scores are parts by the limits.

    Readings of more than one position go through heads in any case, summed over all ways.
    """
    if not readers:
        return
    if any(isinstance(reader, Spread) for _, reader in readers):
        limits = replace(limits, heads_in_a_row=0)
    numbers_each = prompt.n_pos * prompt.like.shape[-1] * (2 + prompt.n_layers)
    numbers_each += _n_columns(prompt, bool(limits.heads_in_a_row))
    numbers_each *= 1 if _is_one_sided(prompt, limits) else 2
    if limits.scores is not None:
        numbers_each += 2 * sum(len(listed) for listed in limits.scores.values()) + 4 * prompt.n_pos**2
    chunk = rows_at_once(4 * numbers_each * prompt.like.element_size())
    for start in range(0, len(readers), chunk):
        yield from _split(prompt, readers[start : start + chunk], limits)


def _is_one_sided(prompt: Prompt, limits: Limits) -> bool:
    """Whether slopes are weights."""
    return prompt.norms_held and limits.scores is None and prompt.soft_cap is None


def _n_columns(prompt: Prompt, split_heads: bool) -> int:
    heads = len(prompt.layers[0].measured.attention.W_O) if split_heads else 0
    active = sum(len(layer.outputs.codes) for layer in prompt.layers if layer.outputs is not None)
    return active + prompt.n_layers * (prompt.n_pos * (1 + heads) + 2)


@dataclass(frozen=True)
class _Block:
    """Contributions [n, columns] of one kind of source of one layer."""

    kind: str
    layer: int
    values: Float[Tensor, "sides n columns"]
    """Weights and slopes; one side where they are the same."""
    directions: Float[Tensor, "sides n pos d_model"] | None = None
    """Each reader's direction at each position, kept where sources need it for their own readers."""
    attended: list[list[float]] | None = None
    """The attention pattern of heads, by reader and column."""
    scores: ListedScores | None = None
    """The attention scores of the columns."""
    rest: Float[Tensor, "n 3"] | None = None
    """Contributions that are not among the columns: sum of slopes, of their magnitudes, and number."""


_OF_ONE_READER = ("constant", "head", "direction")
"""Kinds of sources whose columns are other sources for each reader."""


def _split(prompt: Prompt, readers: Readers, limits: Limits) -> Iterator[Group]:
    blocks = list(_blocks(prompt, [reader for _, reader in readers], limits))
    ends = torch.tensor([block.values.shape[-1] for block in blocks]).cumsum(0).tolist()
    sides = torch.cat([block.values for block in blocks], dim=-1)
    side = 0 if limits.by == "weight" else -1
    shared: dict[int, Part] = {}  # by column: most sources are the same for all readers
    slopes = sides[1] if len(sides) > 1 else None
    rests = [block.rest for block in blocks if block.rest is not None]
    unlisted = torch.stack(rests).sum(dim=0) if rests else None
    for row, chosen in enumerate(strongest(sides[0], limits, slopes, unlisted)):
        values = chosen.weights if limits.by == "weight" else chosen.slopes
        parts = []
        for column, value in zip(chosen.columns, values, strict=True):
            part = shared.get(column)
            if part is None:
                number = bisect_right(ends, column)
                block = blocks[number]
                index = column - ends[number] + block.values.shape[-1]
                part = (_source(prompt, block, index, side, row, *readers[row], value),)
                if block.kind not in _OF_ONE_READER:
                    shared[column] = part
            parts.append(part)
        yield contributions(chosen, parts, limits)


def _blocks(prompt: Prompt, readers: Sequence[Linear | Spread], limits: Limits) -> Iterator[_Block]:
    """All contributions, from the last layer that was read down to the embeddings."""
    depth, split_heads = readers[0].depth, bool(limits.heads_in_a_row)
    sides = ("w",) if _is_one_sided(prompt, limits) else ("w", "gradient")
    g = prompt.like.new_zeros(len(sides), len(readers), *prompt.like.shape)  # [sides, n, pos, d_model]
    constants = g.new_zeros(len(sides), len(readers), 1)
    for row, reader in enumerate(readers):
        at = slice(None) if isinstance(reader, Spread) else reader.position
        for side, name in enumerate(sides):
            g[side, row, at] = getattr(reader, name)
            constants[side, row] = reader.constant_gradient if side else reader.constant
    yield _Block("constant", -1, constants)
    for layer in reversed(prompt.layers[: (depth + 1) // 2]):
        if 2 * layer.number + 1 < depth:
            yield from _written_by_mlp(layer, g)
        attention, of_output = layer.measured.attention, g
        if layer.measured.attention_passage is not None:
            of_output = torch.stack(
                [layer.behind_attention(own, slice(None), bool(side)) for side, own in enumerate(g)]
            )
        if attention.bias is not None:
            yield _Block(
                "attention bias", layer.number, (of_output.sum(dim=2) @ attention.bias).unsqueeze(-1)
            )
        if limits.scores is not None:
            yield _scores(layer, limits.scores[layer.number], of_output[1])
        if split_heads:
            yield _heads(layer, readers, of_output)
        else:
            g = g + _through_attention(layer, of_output)
    yield _Block("token", -1, torch.einsum("snpd,pd->snp", g, prompt.layers[0].measured.resid_pre))


def _heads(layer: LayerOnPrompt, readers: Sequence[Linear | Spread], g: Tensor) -> _Block:
    """Contributions that each head moves to the reader's position from each other."""
    attention = layer.measured.attention
    positions = g.new_tensor([reader.position for reader in readers if isinstance(reader, Linear)]).long()
    rows = torch.arange(len(readers), device=g.device)
    moved = torch.einsum("snd,hed,hke->snhk", g[:, rows, positions], attention.W_O, attention.values)
    pattern = attention.pattern[:, positions].transpose(0, 1)
    attended = pattern.flatten(1).tolist()
    return _Block("head", layer.number, (moved * pattern).flatten(2), attended=attended)


def _scores(layer: LayerOnPrompt, listed: ListedScores, g: Tensor) -> _Block:
    """The scores that move what the heads of a layer write: those that are listed, the rest in numbers."""
    n_heads, n_pos = len(layer.measured.attention.W_O), g.shape[1]
    sums, slopes = g.new_zeros(2, len(g), dtype=torch.float64), g.new_zeros(len(g), len(listed))
    for head in range(n_heads):
        of_head, _ = score_slopes(layer, g, head)
        sums += _signed_and_absolute(of_head.flatten(1))
        own = listed.heads == head
        slopes[:, own] = of_head[:, listed.queries[own], listed.keys[own]]
    left, count = sums - _signed_and_absolute(slopes), n_heads * n_pos**2 - len(listed)
    rest = torch.cat([left, torch.full_like(left[:1], count)]).T if count else None
    values = torch.stack([torch.zeros_like(slopes), slopes])
    return _Block("score", layer.number, values, scores=listed, rest=rest)


def _signed_and_absolute(values: Tensor) -> Tensor:
    """Sums and sums of magnitudes of rows."""
    return torch.stack([values.double().sum(dim=1), values.double().abs().sum(dim=1)])


def _through_attention(layer: LayerOnPrompt, g: Tensor) -> Tensor:
    """Directions at the output of attention as directions at its input, the residual stream before it.

    Those of the second side are derivatives, which go through the norm.
    """
    attention = layer.measured.attention
    values = layer.measured.pattern.mT @ torch.einsum("snqd,hed->snhqe", g, attention.W_O)
    shared = values.unflatten(2, (len(layer.block.W_V), -1)).sum(dim=3)
    read = torch.einsum("snhke,hde->snkd", shared, layer.block.W_V)
    read = read / layer.measured.ln1_scale.unsqueeze(-1)
    if layer.norms_held:
        return read
    return torch.stack([read[0], layer.gradient_before_attention(read[1], slice(None))])


def _written_by_mlp(layer: LayerOnPrompt, g: Tensor) -> Iterator[_Block]:
    active = layer.outputs
    if active is None:
        values = torch.einsum("snpd,pd->snp", g, layer.measured.mlp_out)
        yield _Block("direction", layer.number, values, g)
        return
    decoder = active.dictionary.decoder
    codes = [
        g[:, :, position]
        @ decoder[active.features[active.at(position)]].T
        * active.codes[active.at(position)]
        for position in range(g.shape[2])
    ]
    yield _Block("feature", layer.number, torch.cat(codes, dim=-1))
    yield _Block("error", layer.number, torch.einsum("snpd,pd->snp", g, active.error))
    yield _Block("origin", layer.number, (g.sum(dim=2) @ active.origin).unsqueeze(-1))


def _source(
    prompt: Prompt,
    block: _Block,
    index: int,
    side: int,
    row: int,
    node: Node,
    reader: Linear | Spread,
    value: float,
) -> Source:
    """The source of one column of a block, for the reader of one row, read as one side reads it."""
    if block.kind == "constant":
        return bias_source(reader.bias, node.layer)
    if block.kind == "token":
        return token_source(prompt, index)
    layer = prompt.layers[block.layer]
    if block.kind == "attention bias":
        return bias_source(f"{block.layer}-attn-out", block.layer)
    if block.kind == "head":
        assert block.attended is not None  # such blocks have it
        assert isinstance(reader, Linear)  # and read one position
        head, key = divmod(index, prompt.n_pos)
        return Moved.at(layer, head, key, block.attended[row][index], node, reader, bool(side), value)
    if block.kind == "score":
        assert block.scores is not None  # such blocks have them
        return AttentionScore.at(layer, *block.scores.at(index))
    if block.kind == "direction":
        assert block.directions is not None  # such blocks have them
        u = block.directions[side, row, index].clone()
        return WrittenDirection.at(layer, index, u, node, value)
    assert layer.outputs is not None  # the other blocks are of its features
    if block.kind == "origin":
        return bias_source(str(layer.outputs.site), block.layer)
    if block.kind == "error":
        return written_error(layer.outputs, index)
    return WrittenFeature.at(layer, layer.outputs, index)
