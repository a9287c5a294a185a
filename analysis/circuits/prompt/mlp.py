"""The output of a bilinear MLP along one direction, split into interactions of the parts of its input.

With an input dictionary, x = origin + Σ_i c_i f_i + error, and u · B(x, x) splits into three parts
(`analysis.paths.mlp`): interactions of two active features, of features with the error, and of each with
itself; terms of features and the error with the origin and the layer's biases; and terms of the origin and
the biases alone. Interactions may be **grouped by their inputs**: one that has less than `_OWN` of what the
inputs add at an output is half in the contribution of either input. Without a dictionary,
u · B(x, x) = Σ_r λ_r (v_r · x)² over the eigenvectors of Q_u (`analysis.spectra.eigen`).

Where a norm lies behind the MLP, slopes are those of another direction u′, the
derivative through it: u′ · B(x, x) splits over the same parts, or over eigenvectors as
Σ_r (v_r · x) (v_r · Q′ x).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from analysis.circuits.prompt.prompt import LayerOnPrompt, Prompt
from analysis.circuits.prompt.selected import contributions, strongest
from analysis.circuits.prompt.sources import Eigenvector, ReadFeature, bias_source, read_error
from analysis.circuits.readers import Group, Limits, Part, Quadratic, Source, stage
from analysis.graphs.elements import Node
from analysis.paths.mlp import expand_mlp
from analysis.spectra.eigen import eigendecompose
from bilinear_lm.numerics.memory import rows_at_once

Readers = Sequence[tuple[Node, Quadratic]]

Groups = Iterator[Group]

_OWN = 0.05
"""An interaction is a node of its own where it has this part of all that the inputs add at its output."""


def split_mlp(prompt: Prompt, readers: Readers, limits: Limits) -> Groups:
    """The parts of quadratic readers of one layer, sorted by position, in their order."""
    for position, group in groupby(readers, key=lambda pair: pair[1].position):
        together = list(group)
        layer = prompt.layers[together[0][1].layer]
        features = layer.inputs
        by_features = features is not None and together[0][1].rank is None
        if features is not None and by_features:
            n = len(features.codes[features.at(position)]) + 2
            numbers_each, split = 8 * n * n, _by_features
        else:
            numbers_each, split = 4 * (layer.block.at_mlp_in.d_in) ** 2, _by_eigenvectors
        chunk = rows_at_once(numbers_each * prompt.like.element_size())
        for start in range(0, len(together), chunk):
            yield from split(layer, position, together[start : start + chunk], limits)


def _by_features(layer: LayerOnPrompt, position: int, readers: Readers, limits: Limits) -> Groups:
    features = layer.inputs
    assert features is not None  # asked for only where there is one
    inputs = read_sources(layer, position)
    vectors, n = layer.to_mlp_in(features.vectors(position), position, features.site.point), len(inputs)
    left, right = torch.triu_indices(n, n, device=vectors.device)
    constants = vectors.new_tensor([reader.constant for _, reader in readers])

    def parts_along(u: Tensor, of_norm: bool) -> tuple[Tensor, Tensor]:
        """Contributions along directions u, inputs alone and the constant; and the interactions."""
        expansion = expand_mlp(layer.block.at_mlp_in, vectors.unsqueeze(1), u.new_ones(1), u)
        quadratic, linear = expansion.quadratic[:, 0], expansion.linear[:, 0]
        alone = 2 * quadratic[:, :n, n] + linear[:, :n]
        constant = quadratic[:, n, n] + linear[:, n] + expansion.constant[:, 0] + constants
        along = torch.cat([alone, constant.unsqueeze(1)], dim=1)
        if of_norm:
            read = 2 * quadratic.sum(dim=(-2, -1)) + linear.sum(dim=-1)
            along -= read.unsqueeze(1) * _of_norm(layer, position)
        return along, expansion.pairs[:, 0, left, right]

    norm_between = features.site.point == "resid-mid" and not layer.norms_held and layer.block.has_norms
    alone, pairs = parts_along(torch.stack([reader.u for _, reader in readers]), of_norm=False)
    alone_slopes, pair_slopes = alone, pairs
    if norm_between or layer.measured.mlp_passage is not None:
        u = torch.stack([reader.gradient for _, reader in readers])
        alone_slopes, pair_slopes = parts_along(u, of_norm=norm_between)
    grouped = None
    if limits.grouped:
        sizes = pair_slopes if limits.by == "slope" else pairs
        inputs_add = _of_inputs(sizes, left, right, n)
        own = sizes.abs() >= _OWN * inputs_add.abs().sum(dim=1, keepdim=True)
        grouped = of_slopes = _of_inputs(pairs.masked_fill(own, 0), left, right, n)
        if pair_slopes is not pairs:
            of_slopes = _of_inputs(pair_slopes.masked_fill(own, 0), left, right, n)
        alone, alone_slopes = alone + grouped, alone_slopes + 2 * of_slopes
        pairs, pair_slopes = pairs.masked_fill(~own, 0), pair_slopes.masked_fill(~own, 0)
    weights, slopes = torch.cat([alone, pairs], dim=1), None
    if alone_slopes is not alone:
        slopes = torch.cat([alone_slopes, pair_slopes], dim=1)
    bias, lefts, rights = bias_source(f"{layer.number}-mlp", layer.number), left.tolist(), right.tolist()

    @cache
    def part(column: int) -> Part:
        if column < n:
            return (inputs[column],)
        pair = column - n - 1
        return (bias,) if column == n else (inputs[lefts[pair]], inputs[rights[pair]])

    for row, chosen in enumerate(strongest(weights, limits, slopes)):
        parts = [part(column) for column in chosen.columns]
        of_pairs = None
        if grouped is not None:
            of_pairs = torch.nn.functional.pad(grouped[row], (0, pairs.shape[1]))[chosen.columns].tolist()
        yield contributions(chosen, parts, limits, stage(layer.number, "pairs"), of_pairs)


def _of_inputs(pairs: Tensor, left: Tensor, right: Tensor, n: int) -> Tensor:
    """The pairs' contributions by input, half of each with either, squares whole; 0 of the constant."""
    by_input = pairs.new_zeros(len(pairs), n + 1)
    return by_input.index_add_(1, left, pairs / 2).index_add_(1, right, pairs / 2)


def _of_norm(layer: LayerOnPrompt, position: int) -> Tensor:
    """x·a / (d s²) of each part a of the MLP's input x before its norm: by how much, at first order and
    relative to itself, the norm's scale changes with the part."""
    features, measured = layer.inputs, layer.measured
    assert features is not None  # asked for only where there is one
    x, scale = measured.resid_mid[position], measured.ln2_scale[position]
    return features.vectors(position) @ x / (len(x) * scale.square())


def read_sources(layer: LayerOnPrompt, position: int) -> list[Source]:
    """The features of an MLP's input that are active at a position, and the error."""
    inputs = layer.inputs
    assert inputs is not None  # asked for only where there is one
    at = inputs.at(position)
    features = [ReadFeature.at(layer, inputs, index) for index in range(at.start, at.stop)]
    return [*features, read_error(layer, inputs, position)]


def _by_eigenvectors(layer: LayerOnPrompt, position: int, readers: Readers, limits: Limits) -> Groups:
    x = layer.normalised_input(position)
    eigen = eigendecompose(layer.block.folded, torch.stack([reader.u for _, reader in readers]))
    values = eigen.vectors @ x
    squares, listed = eigen.values * values.square(), values.tolist()
    slopes = squares
    if layer.measured.mlp_passage is not None:
        u = torch.stack([reader.gradient for _, reader in readers])
        read = layer.block.folded.matvec(u, x)  # [n, d_in]
        slopes = values * torch.einsum("nre,ne->nr", eigen.vectors, read)
    for row, (_, reader) in enumerate(readers):
        if reader.rank is not None:
            for each in (squares, slopes):
                each[row, torch.arange(len(x), device=x.device) != reader.rank] = 0
    constants = squares.new_tensor([[reader.constant] for _, reader in readers])
    bias: Part = (bias_source(f"{layer.number}-mlp", layer.number),)
    rows = [torch.cat([each, constants], dim=1) for each in (squares, slopes)]
    for row, chosen in enumerate(strongest(rows[0], limits, None if slopes is squares else rows[1])):
        ranks = [column for column in chosen.columns if column < len(x)]
        vectors, indices = eigen.vectors[row, ranks], {rank: index for index, rank in enumerate(ranks)}
        parts = []
        for column in chosen.columns:
            if column not in indices:
                parts.append(bias)
                continue
            value, node = listed[row][column], readers[row][0]
            source = Eigenvector.at(layer, position, node, column, vectors, indices[column], value)
            parts.append((source, source))
        yield contributions(chosen, parts, limits, stage(layer.number, "pairs"))
