"""The reading of a residual-stream direction, split over everything that wrote to the stream.

With patterns and scales frozen, attention is linear, so a direction w read at one position is a direction at
every position of the layers below: g → g + Σ_h Pᵀ_h g OV_hᵀ / s. Embeddings, MLPs, and biases contribute
their products with these directions: the weights. The derivative is such a direction too, which goes through
the norms in front of reader and attention as well (`bilinear_lm.norms.norm_gradient`): it gives the slopes.
Or heads are sources of their own, one for each position that they move from, and are split in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from analysis.circuits.catalogue import Catalogue
from analysis.circuits.prompt.attention import AttentionScore, score_slopes
from analysis.circuits.prompt.prompt import LayerOnPrompt, Prompt
from analysis.circuits.prompt.selected import contributions, strongest
from analysis.circuits.prompt.sources import (
    Moved,
    WrittenDirection,
    bias_source,
    tokens,
    written_errors,
    written_features,
)
from analysis.circuits.readers import Group, Limits, Linear, ListedScores, Source, Spread, stage
from analysis.graphs.elements import Node
from bilinear_lm.numerics.memory import rows_at_once

Readers = Sequence[tuple[Node, Linear | Spread]]


def split_stream(prompt: Prompt, readers: Readers, limits: Limits, catalogue: Catalogue) -> Iterator[Group]:
    """The parts of linear readers of one depth, of some after the other; heads and scores by the limits.

    Readings of more than one position go through heads in any case, summed over all ways.
    """
    if not readers:
        return
    if any(isinstance(reader, Spread) for _, reader in readers):
        limits = replace(limits, heads_in_a_row=0)
    chunk = rows_at_once(_numbers_each(prompt, limits) * prompt.like.element_size())
    for start in range(0, len(readers), chunk):
        yield _split(prompt, readers[start : start + chunk], limits, catalogue)


def _numbers_each(prompt: Prompt, limits: Limits) -> int:
    """How many numbers there are on the way for each reader at the most."""
    # Those on the way through heads, and directions kept where an MLP has no dictionary.
    n_kept = sum(layer.outputs is None for layer in prompt.layers)
    numbers = prompt.n_pos * prompt.like.shape[-1] * (10 + n_kept)
    # Contributions, their order, and their sums in that order, in float64.
    numbers += 16 * _n_columns(prompt, bool(limits.heads_in_a_row))
    numbers *= 1 if _is_one_sided(prompt, limits) else 2
    if limits.scores is not None:
        numbers += 4 * sum(len(listed) for listed in limits.scores.values()) + 8 * prompt.n_pos**2
    return numbers


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
    first: int | None = None
    """The number of the first column's source in the catalogue, which those of the others follow; None: the
    columns are other sources for each reader."""
    directions: Float[Tensor, "sides n pos d_model"] | None = None
    """Each reader's direction at each position, kept where sources need it for their own readers."""
    attended: Float[Tensor, "n columns"] | None = None
    """The attention pattern of heads."""
    rest: Float[Tensor, "n 3"] | None = None
    """Contributions that are not among the columns: sum of slopes, of their magnitudes, and number."""

    @property
    def numbers(self) -> Int[np.ndarray, " columns"]:
        """The number of each column's source; -1 where readers do not share them."""
        n = self.values.shape[-1]
        return np.full(n, -1) if self.first is None else np.arange(self.first, self.first + n)


def _split(prompt: Prompt, readers: Readers, limits: Limits, catalogue: Catalogue) -> Group:
    blocks = list(_blocks(prompt, [reader for _, reader in readers], limits, catalogue))
    sides = torch.cat([block.values for block in blocks], dim=-1)
    slopes = sides[1] if len(sides) > 1 else None
    rests = [block.rest for block in blocks if block.rest is not None]
    unlisted = torch.stack(rests).sum(dim=0) if rests else None
    chosen = strongest(sides[0], limits, slopes, unlisted)
    sources = np.concatenate([block.numbers for block in blocks])[chosen.columns]
    side, values = (0, chosen.weights) if limits.by == "weight" else (-1, chosen.slopes)
    ends = np.cumsum([block.values.shape[-1] for block in blocks])
    for place in np.flatnonzero(sources < 0).tolist():
        row, column = int(chosen.rows[place]), int(chosen.columns[place])
        number = int(np.searchsorted(ends, column, side="right"))
        block = blocks[number]
        index = column - int(ends[number]) + block.values.shape[-1]
        source = _source(prompt, block, index, side, row, *readers[row], float(values[place]))
        sources[place] = catalogue.add(source)
    return contributions(chosen, sources, limits)


def _blocks(
    prompt: Prompt, readers: Sequence[Linear | Spread], limits: Limits, catalogue: Catalogue
) -> Iterator[_Block]:
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
            yield from _written_by_mlp(layer, g, catalogue)
        attention, of_output = layer.measured.attention, g
        if layer.measured.attention_passage is not None:
            of_output = torch.stack(
                [layer.behind_attention(own, slice(None), bool(side)) for side, own in enumerate(g)]
            )
        if attention.bias is not None:
            bias = catalogue.add(bias_source(f"{layer.number}-attn-out", layer.number))
            values = (of_output.sum(dim=2) @ attention.bias).unsqueeze(-1)
            yield _Block("attention bias", layer.number, values, bias)
        if limits.scores is not None:
            yield _scores(layer, limits.scores[layer.number], of_output[1], catalogue)
        if split_heads:
            yield _heads(layer, readers, of_output)
        else:
            g = g + _through_attention(layer, of_output)
    values = torch.einsum("snpd,pd->snp", g, prompt.layers[0].measured.resid_pre)
    yield _Block("token", -1, values, tokens(catalogue, prompt))


def _heads(layer: LayerOnPrompt, readers: Sequence[Linear | Spread], g: Tensor) -> _Block:
    """Contributions that each head moves to the reader's position from each other."""
    attention = layer.measured.attention
    positions = g.new_tensor([reader.position for reader in readers if isinstance(reader, Linear)]).long()
    rows = torch.arange(len(readers), device=g.device)
    moved = torch.einsum("snd,hed,hke->snhk", g[:, rows, positions], attention.W_O, attention.values)
    pattern = attention.pattern_rows(positions).transpose(0, 1)  # [n, n_heads, pos]
    return _Block("head", layer.number, (moved * pattern).flatten(2), attended=pattern.flatten(1))


def _scores(layer: LayerOnPrompt, listed: ListedScores, g: Tensor, catalogue: Catalogue) -> _Block:
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
    at = stage(layer.number, "attention")
    first = catalogue.family(
        f"scores of {layer.number}",
        at,
        len(listed),
        lambda index: AttentionScore.at(layer, *listed.at(index)),
    )
    return _Block("score", layer.number, values, first, rest=rest)


def _signed_and_absolute(values: Tensor) -> Tensor:
    """Sums and sums of magnitudes of rows."""
    return torch.stack([values.double().sum(dim=1), values.double().abs().sum(dim=1)])


def _through_attention(layer: LayerOnPrompt, g: Tensor) -> Tensor:
    """Directions at the output of attention as directions at its input, the residual stream before it.

    Those of the second side are derivatives, which go through the norm.
    """
    attention = layer.measured.attention
    values = g.new_zeros(*g.shape[:2], *attention.values.shape)
    for queries in attention.query_pieces():
        if (read := g[:, :, queries]).any():  # a reading has none behind its position
            pattern = attention.pattern_at(queries)
            of_heads = rearrange(
                read @ attention.W_O.flatten(0, 1).T, "s n q (h e) -> h q (s n e)", h=len(pattern)
            )
            gathered = rearrange(pattern.mT @ of_heads, "h k (s n e) -> s n h k e", s=len(g), n=g.shape[1])
            values[:, :, :, : pattern.shape[-1]] += gathered
    shared = values.unflatten(2, (len(layer.block.W_V), -1)).sum(dim=3)
    read = torch.einsum("snhke,hde->snkd", shared, layer.block.W_V)
    read = read / layer.measured.ln1_scale.unsqueeze(-1)
    if layer.norms_held:
        return read
    return torch.stack([read[0], layer.gradient_before_attention(read[1], slice(None))])


def _written_by_mlp(layer: LayerOnPrompt, g: Tensor, catalogue: Catalogue) -> Iterator[_Block]:
    active = layer.outputs
    if active is None:
        values = torch.einsum("snpd,pd->snp", g, layer.measured.mlp_out)
        yield _Block("direction", layer.number, values, directions=g)
        return
    decoder = active.dictionary.decoder
    codes = [
        g[:, :, position]
        @ decoder[active.features[active.at(position)]].T
        * active.codes[active.at(position)]
        for position in range(g.shape[2])
    ]
    yield _Block("feature", layer.number, torch.cat(codes, dim=-1), written_features(catalogue, layer))
    errors = torch.einsum("snpd,pd->snp", g, active.error)
    yield _Block("error", layer.number, errors, written_errors(catalogue, active))
    origin = catalogue.add(bias_source(str(active.site), layer.number))
    yield _Block("origin", layer.number, (g.sum(dim=2) @ active.origin).unsqueeze(-1), origin)


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
    """The source of one column of a block without numbers, for the reader of one row, read as one side reads
    it."""
    if block.kind == "constant":
        return bias_source(reader.bias, node.layer)
    layer = prompt.layers[block.layer]
    if block.kind == "head":
        assert block.attended is not None  # such blocks have it
        assert isinstance(reader, Linear)  # and read one position
        head, key = divmod(index, prompt.n_pos)
        attended = float(block.attended[row, index])
        return Moved.at(layer, head, key, attended, node, reader, bool(side), value)
    assert block.directions is not None  # the other blocks have them
    u = block.directions[side, row, index].clone()
    return WrittenDirection.at(layer, index, u, node, value)
