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
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from analysis.circuits.catalogue import Catalogue
from analysis.circuits.prompt.prompt import LayerOnPrompt, Prompt
from analysis.circuits.prompt.selected import contributions, strongest
from analysis.circuits.prompt.sources import Eigenvector, bias_source, read_errors, read_features
from analysis.circuits.readers import Group, Limits, Quadratic, stage
from analysis.graphs.elements import Node
from analysis.paths.mlp import expand_mlp
from analysis.spectra.eigen import eigendecompose
from bilinear_lm.numerics.memory import rows_at_once

Readers = Sequence[tuple[Node, Quadratic]]

_OWN = 0.05
"""An interaction is a node of its own where it has this part of all that the inputs add at its output."""


def split_mlp(prompt: Prompt, readers: Readers, limits: Limits, catalogue: Catalogue) -> Iterator[Group]:
    """The parts of quadratic readers of one layer, sorted by position, of some after the other."""
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
            yield split(layer, position, together[start : start + chunk], limits, catalogue)


def _by_features(
    layer: LayerOnPrompt, position: int, readers: Readers, limits: Limits, catalogue: Catalogue
) -> Group:
    features = layer.inputs
    assert features is not None  # asked for only where there is one
    inputs = read_sources(layer, position, catalogue)
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
    bias = catalogue.add(bias_source(f"{layer.number}-mlp", layer.number))
    chosen = strongest(weights, limits, slopes)
    columns, ends = chosen.columns, [side.cpu().numpy() for side in (left, right)]
    sources = np.concatenate([inputs, [bias], inputs[ends[0]]])[columns]
    partners = np.concatenate([np.full(n + 1, -1), inputs[ends[1]]])[columns]
    of_pairs = None
    if grouped is not None:
        by_column = torch.nn.functional.pad(grouped, (0, pairs.shape[1])).double().cpu().numpy()
        of_pairs = by_column[chosen.rows, columns]
    return contributions(chosen, sources, limits, partners, stage(layer.number, "pairs"), of_pairs)


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


def read_sources(layer: LayerOnPrompt, position: int, catalogue: Catalogue) -> Int[np.ndarray, " n"]:
    """The numbers of the features of an MLP's input that are active at a position, and of the error."""
    inputs = layer.inputs
    assert inputs is not None  # asked for only where there is one
    at, first = inputs.at(position), read_features(catalogue, layer)
    error = read_errors(catalogue, layer) + position
    return np.append(np.arange(first + at.start, first + at.stop), error)


def _by_eigenvectors(
    layer: LayerOnPrompt, position: int, readers: Readers, limits: Limits, catalogue: Catalogue
) -> Group:
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
    bias = catalogue.add(bias_source(f"{layer.number}-mlp", layer.number))
    rows = [torch.cat([each, constants], dim=1) for each in (squares, slopes)]
    chosen = strongest(rows[0], limits, None if slopes is squares else rows[1])
    sources = np.full_like(chosen.columns, bias)
    for row, (node, _) in enumerate(readers):
        here = np.flatnonzero((chosen.rows == row) & (chosen.columns < len(x)))
        ranks = chosen.columns[here].tolist()
        vectors = eigen.vectors[row, ranks]
        sources[here] = [
            catalogue.add(Eigenvector.at(layer, position, node, rank, vectors, index, listed[row][rank]))
            for index, rank in enumerate(ranks)
        ]
    squared = np.where(chosen.columns < len(x), sources, -1)
    return contributions(chosen, sources, limits, squared, stage(layer.number, "pairs"))
