"""What a bilinear MLP computes along one direction, split into interactions of what it reads.

With an input dictionary, x = origin + Σ_i c_i f_i + error, and u · B(x, x) splits into interactions of two
active features, of features with the error, of each with itself; into what features and the error do
with the origin and the layer's biases; and into what these do alone (`analysis.path_expansion`). Without one,
u · B(x, x) = Σ_r λ_r (v_r · x)² over the eigenvectors of Q_u (`analysis.eigen`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
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
from analysis.attribution_stream import error_source
from analysis.eigen import eigendecompose
from analysis.graph import Node
from analysis.graph_nodes import bias_node, eigenvector_node, feature_node
from analysis.path_expansion import expand_mlp
from bilinear_lm.dictionary import Site
from bilinear_lm.tensor import CHUNK_BYTES

Readers = Sequence[tuple[Node, Quadratic]]
Splits = Iterator[Split]


def split_mlp(prompt: Prompt, readers: Readers, limits: Limits) -> Splits:
    """The parts of quadratic readers of one layer, sorted by position, in their order."""
    for position, group in groupby(readers, key=lambda pair: pair[1].position):
        together = list(group)
        layer = prompt.layers[together[0][1].layer]
        found = layer.inputs
        by_features = found is not None and together[0][1].rank is None
        if found is not None and by_features:
            n = len(found.codes[found.at(position)]) + 2
            numbers_each, split = 8 * n * n, _by_features
        else:
            numbers_each, split = 4 * (layer.at_mlp_in.d_in) ** 2, _by_eigenvectors
        at_once = max(1, CHUNK_BYTES // (numbers_each * prompt.like.element_size()))
        for start in range(0, len(together), at_once):
            yield from split(layer, position, together[start : start + at_once], limits)


def _by_features(layer: LayerOnPrompt, position: int, readers: Readers, limits: Limits) -> Splits:
    found = layer.inputs
    assert found is not None  # asked for only where there is one
    inputs = read_sources(layer, position)
    vectors, n = layer.to_mlp_in(found.vectors(position), position, found.site.point), len(inputs)
    u = torch.stack([reader.u for _, reader in readers])
    expansion = expand_mlp(layer.at_mlp_in, vectors.unsqueeze(1), u.new_ones(1), u)
    quadratic, linear = expansion.quadratic[:, 0], expansion.linear[:, 0]
    left, right = torch.triu_indices(n, n, device=u.device)
    pairs = expansion.pairs[:, 0, left, right]
    alone = 2 * quadratic[:, :n, n] + linear[:, :n]
    constants = u.new_tensor([reader.constant for _, reader in readers])
    constant = quadratic[:, n, n] + linear[:, n] + expansion.constant[:, 0] + constants
    rows = strongest(torch.cat([alone, constant.unsqueeze(1), pairs], dim=1), limits)
    lefts, rights = left.tolist(), right.tolist()
    for chosen in rows:
        parts = []
        for column, weight in zip(chosen.columns, chosen.weights, strict=True):
            if column < n:
                sources: tuple[Source, ...] = (inputs[column],)
            elif column == n:
                sources = (Source(bias_node(f"{layer.number}-mlp", layer.number), BOTTOM),)
            else:
                pair = column - n - 1
                sources = (inputs[lefts[pair]], inputs[rights[pair]])
            parts.append(Part(weight, sources))
        yield Split(tuple(parts), chosen.pruned)


def read_sources(layer: LayerOnPrompt, position: int) -> list[Source]:
    """The features of an MLP's input that are active at a position, and the error."""
    found = layer.inputs
    assert found is not None  # asked for only where there is one
    sources = [
        read_feature(layer, found, feature, position, code)
        for _, feature, code in found.listed[found.at(position)]
    ]
    error = error_source(found, position, stage(layer.number, "in"))
    return [*sources, replace(error, write=_write(layer, found, position, found.error[position]))]


def read_feature(
    layer: LayerOnPrompt, found: SiteFeatures, feature: int, position: int, code: float
) -> Source:
    """An active feature of an MLP's input."""

    def reader() -> Reader:
        direction, constant = found.reading(feature)
        w = layer.from_stream(direction, position, found.site.point)
        return Linear(2 * layer.number + 1, position, w, constant, str(found.site))

    node = feature_node(found.site, feature, position, value=code)
    write = _write(layer, found, position, code * found.dictionary.decoder[feature])
    return Source(node, stage(layer.number, "in"), reader, write)


def _write(layer: LayerOnPrompt, found: SiteFeatures, position: int, vector: Tensor) -> Callable[[], Write]:
    """What is written into the input of the MLP alone: the residual stream beside it is left as it is."""
    return lambda: Write(
        Site(layer.number, "mlp-in"), position, layer.to_mlp_in(vector, position, found.site.point)
    )


def _by_eigenvectors(layer: LayerOnPrompt, position: int, readers: Readers, limits: Limits) -> Splits:
    tensor, measured = layer.normalised, layer.measured
    x = measured.resid_mid[position] / measured.ln2_scale[position]
    if tensor.constant:
        x = torch.nn.functional.pad(x, (0, 1), value=1.0)
    found = eigendecompose(tensor, torch.stack([reader.u for _, reader in readers]))
    values = found.vectors @ x
    contributions, listed = found.values * values.square(), values.tolist()
    for row, (_, reader) in enumerate(readers):
        if reader.rank is not None:
            contributions[row, torch.arange(len(x), device=x.device) != reader.rank] = 0
    constants = contributions.new_tensor([[reader.constant] for _, reader in readers])
    for row, chosen in enumerate(strongest(torch.cat([contributions, constants], dim=1), limits)):
        node = readers[row][0]
        parts = []
        for column, weight in zip(chosen.columns, chosen.weights, strict=True):
            if column == len(x):
                parts.append(Part(weight, (Source(bias_node(f"{layer.number}-mlp", layer.number), BOTTOM),)))
                continue
            vector, value = found.vectors[row, column].clone(), listed[row][column]
            source = _eigenvector(layer, position, node, column, vector, value)
            parts.append(Part(weight, (source, source)))
        yield Split(tuple(parts), chosen.pruned)


def _eigenvector(
    layer: LayerOnPrompt, position: int, node: Node, rank: int, vector: Tensor, value: float
) -> Source:
    """An eigenvector of what `node` reads, itself read as v · x."""
    width = len(layer.factor)
    direction, constant = vector[:width], float(vector[width:].sum())
    name, depth = f"{layer.number}-mlp-in", 2 * layer.number + 1

    def write() -> Write:
        part = layer.to_mlp_in(value * direction / direction.square().sum(), position, "normalised")
        return Write(Site(layer.number, "mlp-in"), position, part)

    return Source(
        eigenvector_node(node, rank, value=value),
        stage(layer.number, "in"),
        lambda: Linear(depth, position, layer.from_stream(direction, position, "normalised"), constant, name),
        write,
    )
