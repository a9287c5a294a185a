"""Sources of one node by the weights alone, in groups of one unit each.

A direction r of the residual stream is written by tokens (W_E[t] · r), by features of earlier MLPs
(decoder · r), by heads, and by MLPs without a dictionary. An output direction u of an MLP is written by pairs
of input features (value · c_i c_j, `analysis.features.interactions`), or by eigenvectors of Q_u (λ (v · x)²).

A head or an MLP is read along r / s, with s its **strength** along r, so that edges show which are strong:
s² = Σ_t (W_E[t] OV_h · r)², the squares of all virtual tokens, for a head; s = ‖Q_r‖ for an MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.circuits.catalogue import Catalogue
from analysis.circuits.readers import (
    BOTTOM,
    Group,
    Limits,
    Linear,
    Quadratic,
    ReadBy,
    Reader,
    Source,
    Stage,
    stage,
)
from analysis.circuits.weights.model import StaticLayer, StaticModel
from analysis.features.dictionaries import feature_reading
from analysis.features.layer import WRITTEN, FeatureLayer
from analysis.graphs.elements import Node, Pruned
from analysis.graphs.nodes import (
    bias_node,
    direction_node,
    eigenvector_node,
    feature_node,
    head_node,
    token_node,
)
from analysis.spectra.eigen import eigendecompose
from analysis.streaming import Strongest
from bilinear_lm.distributed import Worker, gather_rows
from bilinear_lm.numerics.rescaling import are_ordinary
from bilinear_lm.sites import Site

Part = tuple[Source, ...]
"""The sources of one contribution: one, or a pair of them together (twice the same: a square)."""


@dataclass(frozen=True)
class _Whole:
    """Sums over all coefficients of a group."""

    square: float
    signed: float
    absolute: float
    count: int

    @classmethod
    def of(cls, weights: Tensor) -> _Whole:
        weights = weights.double().flatten()
        return cls(
            float(weights @ weights),
            float(weights.sum()),
            float(weights.norm(p=1)),
            int(weights.count_nonzero()),
        )

    @classmethod
    def of_strip(cls, values: Tensor, sizes: Tensor) -> _Whole:
        """The same of a strip and its magnitudes, with zeros below the diagonal, in a twelfth of the time.

        Rows are summed in their precision, which has 1e-6 of the sum of magnitudes as rounding at most, and
        the sums in float64.
        """
        if not are_ordinary(sizes.max()):
            return cls.of(values)
        n, beside = len(values), sizes[:, len(values) :]
        count = int(sizes[:, :n].count_nonzero()) + beside.numel()
        if beside.numel():
            gaps = beside[beside.amin(1) == 0]
            count -= gaps.numel() - int(gaps.count_nonzero())
        rows = torch.linalg.vector_norm(values, dim=1), values.sum(1), sizes.sum(1)
        lengths, signed, absolute = (part.double() for part in rows)
        return cls(float(lengths @ lengths), float(signed.sum()), float(absolute.sum()), count)

    def __add__(self, other: _Whole) -> _Whole:
        return _Whole(
            self.square + other.square,
            self.signed + other.signed,
            self.absolute + other.absolute,
            self.count + other.count,
        )


@dataclass(frozen=True)
class _Listed:
    """The contributions to one node in one unit: the strongest, and the rest of them in numbers."""

    weights: list[float]
    parts: list[Part]
    """One for each weight."""
    pruned: Pruned
    whole: float
    """The sum of the squares of all coefficients, kept or not."""
    pairs_at: Stage = BOTTOM
    name: str = ""

    def numbered(self, catalogue: Catalogue) -> Group:
        """The same in columns."""
        ends = [[catalogue.add(source) for source in part] for part in self.parts]
        weights = np.array(self.weights, dtype=np.float64)
        return Group(
            np.zeros(len(ends), dtype=np.int64),
            np.array([part[0] for part in ends], dtype=np.int64),
            np.array([part[1] if len(part) == 2 else -1 for part in ends], dtype=np.int64),
            weights,
            np.full_like(weights, np.nan),
            weights**2 / self.whole,
            np.array([list(vars(self.pruned).values())], dtype=np.float64),
            self.pairs_at,
            self.name if self.whole else "",
        )


def split_reader(
    model: StaticModel, node: Node, reader: Reader, limits: Limits, catalogue: Catalogue
) -> Iterator[Group]:
    """The groups of a node's sources; biases are a group of their own, and whole."""
    for listed in _listed(model, node, reader, limits):
        yield listed.numbered(catalogue)


def _listed(model: StaticModel, node: Node, reader: Reader, limits: Limits) -> Iterator[_Listed]:
    assert isinstance(reader, Linear | Quadratic)  # the others are of a prompt
    if isinstance(reader, Linear):
        yield from _of_stream(model, node, reader, limits)
    elif model.layers[reader.layer].inputs is None:
        yield from _of_eigenvectors(model.layers[reader.layer], node, reader, limits)
    else:
        yield from _of_pairs(model.layers[reader.layer], reader, limits)


def written_source(layer: StaticLayer, feature: int) -> ReadBy:
    """A feature of an MLP's output."""
    assert layer.outputs is not None  # asked for only where there is one
    site, dictionary = layer.outputs
    return ReadBy(
        feature_node(site, feature),
        stage(layer.number, "out"),
        lambda: Quadratic(layer.number, *feature_reading(dictionary, feature)),
    )


def read_source(layer: StaticLayer, feature: int) -> ReadBy:
    """A feature of an MLP's input."""
    assert layer.inputs is not None  # asked for only where there is one
    site, dictionary = layer.inputs

    def reader() -> Reader:
        direction, constant = feature_reading(dictionary, feature)
        return Linear(2 * layer.number + 1, layer.from_stream(direction, site.point), constant, str(site))

    return ReadBy(feature_node(site, feature), stage(layer.number, "in"), reader)


def _of_stream(model: StaticModel, node: Node, reader: Linear, limits: Limits) -> Iterator[_Listed]:
    w, biases = reader.w, [(bias_node(reader.bias, node.layer), reader.constant)]
    yield _group("tokens", model.W_E @ w, limits, lambda token: Source(token_node(token), BOTTOM))
    attended = model.layers[: (reader.depth + 1) // 2]
    if attended:
        yield _heads(model, attended, node, reader, limits)
    for layer in attended:
        if layer.block.attention_bias is not None:
            number = layer.number
            biases.append((bias_node(f"{number}-attn-out", number), float(layer.block.attention_bias @ w)))
    plain: list[StaticLayer] = []
    for layer in model.layers[: reader.depth // 2]:
        if layer.outputs is None:
            plain.append(layer)
            continue
        site, dictionary = layer.outputs
        yield _group(
            f"features of {site}",
            dictionary.decoder @ w,
            limits,
            partial(written_source, layer),
        )
        if dictionary.b_dec is not None:
            biases.append((bias_node(str(site), layer.number), float(dictionary.b_dec @ w)))
    if plain:
        yield _mlps(plain, node, w, limits)
    yield _bias_group(biases)


def _heads(
    model: StaticModel, layers: Sequence[StaticLayer], node: Node, reader: Linear, limits: Limits
) -> _Listed:
    """The heads below a reader; none is kept where it is the last that may follow another."""
    moved = []
    for layer in layers:
        values = (layer.block.W_O @ reader.w).unflatten(0, (len(layer.block.W_V), -1))
        moved.append((values @ layer.block.W_V.mT).flatten(0, 1))
    n_heads, rows = len(layers[0].block.W_O), torch.cat(moved)
    strengths = model.token_strength(rows)

    def source(index: int) -> ReadBy:
        layer, head = layers[index // n_heads].number, index % n_heads
        w = rows[index] / strengths[index].to(rows)
        onward = Linear(2 * layer, w, heads=reader.heads + 1)
        return ReadBy(head_node(layer, head, node), stage(layer, "head"), lambda: onward)

    at_most = limits.at_most if reader.heads < limits.heads_in_a_row else 0
    return _group("heads", strengths, replace(limits, at_most=at_most), source)


def _mlps(layers: Sequence[StaticLayer], node: Node, w: Tensor, limits: Limits) -> _Listed:
    """The MLPs without a dictionary below a reader."""
    strengths = w.new_tensor([layer.strength(w) for layer in layers], dtype=torch.float64)

    def source(index: int) -> ReadBy:
        layer = layers[index].number
        onward = Quadratic(layer, w / strengths[index].to(w))
        return ReadBy(direction_node(Site(layer, WRITTEN), node), stage(layer, "out"), lambda: onward)

    return _group("MLPs", strengths, limits, source)


def _of_eigenvectors(layer: StaticLayer, node: Node, reader: Quadratic, limits: Limits) -> Iterator[_Listed]:
    eigen = eigendecompose(layer.block.folded, reader.u)
    width = len(layer.block.factor)

    def square(rank: int) -> tuple[Source, Source]:
        direction, constant = eigen.vectors[rank, :width], float(eigen.vectors[rank, width:].sum())
        onward = Linear(2 * layer.number + 1, direction, constant, f"{layer.number}-mlp-in")
        source = ReadBy(eigenvector_node(node, rank), stage(layer.number, "in"), lambda: onward)
        return source, source

    yield _group("eigenvectors", eigen.values, limits, square, stage(layer.number, "pairs"))
    yield _bias_group([(bias_node(f"{layer.number}-mlp", layer.number), reader.constant)])


def _of_pairs(layer: StaticLayer, reader: Quadratic, limits: Limits) -> Iterator[_Listed]:
    features = layer.features
    strongest, whole = strongest_pairs(features, reader.u, limits.at_most)

    def pair(index: int) -> tuple[Source, Source]:
        left, right = divmod(index, features.n_in)
        return read_source(layer, left), read_source(layer, right)

    yield _cut("pairs", strongest, whole, limits.share, pair, stage(layer.number, "pairs"))
    linear = features.linear(reader.u)
    yield _group("features alone", linear, limits, partial(read_source, layer))
    constant = float(features.constant(reader.u)) + reader.constant
    yield _bias_group([(bias_node(f"{layer.number}-mlp", layer.number), constant)])


def strongest_pairs(features: FeatureLayer, u: Tensor, k: int) -> tuple[Strongest, _Whole]:
    """The k strongest interactions along u, at places left · n_in + right, and the sums over all of them.

    The processes of a group share the strips.
    """
    own, sums, n = Strongest(k, u), [u.new_zeros(0, 5, dtype=torch.float64)], features.n_in
    for start, values in features.along(u.unsqueeze(0)).strips(u, Worker.own()):
        values.mul_(2).diagonal().div_(2)
        square = values[:, : len(values)].triu_()
        sizes = values.abs()
        sums.append(sums[0].new_tensor([[start, *vars(_Whole.of_strip(values, sizes)).values()]]))
        below = torch.ones_like(square, dtype=torch.bool).tril_(-1)
        sizes[:, : len(values)].masked_fill_(below, -1)
        row, column = own.candidates_of_rows(sizes)
        own.add(values[row, column], (row + start) * n + column + start)
    everywhere = Strongest(k, u)
    everywhere.add(gather_rows(own.values), gather_rows(own.places))
    whole = _Whole(0.0, 0.0, 0.0, 0)
    for _, square, signed, absolute, count in sorted(gather_rows(torch.cat(sums)).tolist()):
        whole += _Whole(square, signed, absolute, int(count))
    return everywhere, whole


def _group(
    name: str,
    weights: Float[Tensor, " n"],
    limits: Limits,
    source: Callable[[int], Source | Part],
    pairs_at: Stage = BOTTOM,
) -> _Listed:
    """The group of all coefficients of a row."""
    strongest = Strongest(limits.at_most, weights)
    if limits.at_most:
        strongest.add(weights, torch.arange(len(weights), device=weights.device))
    return _cut(name, strongest, _Whole.of(weights), limits.share, source, pairs_at)


def _cut(
    name: str,
    strongest: Strongest,
    whole: _Whole,
    share: float,
    source: Callable[[int], Source | Part],
    pairs_at: Stage = BOTTOM,
) -> _Listed:
    """The fewest of the strongest coefficients that have a share of the whole square."""
    weights, parts, reached = [], [], 0.0
    signed, absolute = whole.signed, whole.absolute
    for weight, index in zip(strongest.values.tolist(), strongest.places.tolist(), strict=True):
        if not weight or reached >= share * whole.square:
            break
        sources = source(index)
        weights.append(weight)
        parts.append((sources,) if isinstance(sources, Source) else sources)
        reached, signed, absolute = reached + weight**2, signed - weight, absolute - abs(weight)
    left = whole.count - len(weights)
    pruned = Pruned(signed, max(absolute, abs(signed)), left) if left else Pruned()
    return _Listed(weights, parts, pruned, whole.square, pairs_at, name)


def _bias_group(biases: list[tuple[Node, float]]) -> _Listed:
    """The group of biases, which is whole, and so has no name among those of which a part is shown."""
    there = [(node, weight) for node, weight in biases if weight]
    weights, parts = [weight for _, weight in there], [(Source(node, BOTTOM),) for node, _ in there]
    return _Listed(weights, list(parts), Pruned(), sum((weight**2 for weight in weights), 0.0))
