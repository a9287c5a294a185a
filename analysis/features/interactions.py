"""The strongest interactions between features, without the matrices they are entries of.

The value of an interaction is the coefficient of c_i c_j in u · B(x, x), x = Σ_i c_i f_i: Q_ii of a feature
with itself, and 2 Q_ij of two features i < j, both orders together. So its contribution at codes c is
value · c_i · c_j, and those of all pairs i ≤ j sum to the quadratic part of the output (arXiv 2410.08417,
section 3). Interactions are ranked by |value|, then by output, left and right feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.layer import FeatureLayer
from analysis.features.screening import SLACK, Factored, Screen, pairs_in_reach
from analysis.streaming import Strongest, require_rankable
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.distributed import gather_rows, together
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import in_precision
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import Words, shown, shown_by

COLUMNS = 4
"""Tiles of a row that are screened at once."""


@dataclass(frozen=True)
class Interaction:
    """The contribution of two input features' product to an output feature: value · c_left · c_right."""

    output: int
    left: int
    right: int
    """At least `left`; equal to it where a feature interacts with itself."""
    value: float


@shown
@dataclass(frozen=True)
class Interactions:
    """Interactions of a layer as columns, strongest first; iterating gives `Interaction`s."""

    outputs: Int[Tensor, " k"]
    left: Int[Tensor, " k"]
    right: Int[Tensor, " k"]
    values: Float[Tensor, " k"]

    def _told(self) -> dict[str, Any]:
        strongest = ", ".join(
            f"{pair.output} from ({pair.left}, {pair.right}): {pair.value:+.3g}" for pair in islice(self, 3)
        )
        return {"k": len(self), "strongest": Words(strongest or "none")}

    _repr_html_ = shown_by("analysis.report.notebook", "interactions_html")

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Interaction]:
        columns = (column.tolist() for column in (self.outputs, self.left, self.right, self.values))
        return (Interaction(*row) for row in zip(*columns, strict=True))

    def contributions(self, code: Float[Tensor, "*axes n_in"]) -> Float[Tensor, "*axes k"]:
        """value · c_left · c_right of each interaction at codes of the input features."""
        return self.values * code[..., self.left] * code[..., self.right]


def n_pairs(n: int) -> int:
    """How many pairs i ≤ j of n features there are."""
    return n * (n + 1) // 2


@checked
def strongest_interactions(
    features: FeatureLayer, outputs: int | Iterable[int] | None = None, k: int = 50, progress: bool = False
) -> Interactions:
    """The k interactions of largest |value| into `outputs` together; None: into all output features.

    Matrices are searched tile by tile, except for tiles that a bound on their entries rules out, by products
    in whole numbers where these are faster (`analysis.features.screening`). What may be among the k gets its
    value by a sum in float64, so that the result is that of a search of all pairs. For another output
    direction than a feature's, take `features.along(u[None])`.

    >>> features = FeatureLayer(tensor, inputs.decoder, outputs.encoder.T)  # doctest: +SKIP
    >>> for interaction in strongest_interactions(features, [3], k=10):  # doctest: +SKIP
    ...     print(interaction.left, interaction.right, interaction.value)
    """
    selected = list(dict.fromkeys(features.select(outputs)))
    require_as_many(k, len(selected) * n_pairs(features.n_in))
    scaled, *powers = features.scaled(selected)
    strongest = Strongest(k, features.inputs)
    screen = Screen(scaled)
    for output in tqdm(strong_first(scaled, selected), desc="interactions", disable=not progress):
        _offer(strongest, screen, output)
    result = named(strongest, features.n_in)
    return replace(result, values=put_back(result.values, sum(powers)))


@checked
def merged_interactions(parts: Iterable[Interactions], k: int) -> Interactions:
    """The k strongest interactions of several results into different output features."""
    columns = [(part.outputs, part.left, part.right, part.values) for part in parts]
    if not columns:
        raise InputError("no interactions to merge; expected the results of one output feature or more")
    outputs, left, right, values = (torch.cat(column) for column in zip(*columns, strict=True))
    require_as_many(k, len(values))
    n_in = int(right.max()) + 1
    strongest = Strongest(k, values)
    strongest.add(values, (outputs * n_in + left) * n_in + right)
    return named(strongest, n_in)


def require_as_many(k: int, most: int) -> None:
    """Raises InputError unless there are k interactions to be found."""
    require_count(k, f"k={k} interactions", f"1 to the {most:,} that there are", most=most)


def put_back(values: Float[Tensor, "*axes"], power: int) -> Float[Tensor, "*axes"]:
    """Interactions that were computed in units of 2^power. Raises InputError where they cannot be held."""
    return in_precision(values, power, values.dtype, "interactions", "features") if power else values


def named(found: Strongest, n_in: int) -> Interactions:
    """Interactions from places (output · n_in + left) · n_in + right, strongest first."""
    pairs, right = found.places // n_in, found.places % n_in
    return Interactions(pairs // n_in, pairs % n_in, right, found.values)


def _offer(strongest: Strongest, screen: Screen, output: int) -> None:
    """Adds to `strongest` the interactions of one output feature that can still be among the k strongest.

    |L_i · f_j| is at most ‖L_i‖ ‖f_j‖ and ‖L_j‖ ‖f_i‖. Features are sorted by these norms, so that strong
    ones share tiles; tiles that cannot reach the threshold are not computed, the others are screened.
    """
    features = screen.features
    products = screen.along(features.outputs[output])
    require_rankable(float(products.lengths.max()), features.inputs.dtype)
    size, lengths, norms = _tile_size(features), products.lengths, screen.rows.norms
    order = torch.arange(features.n_in, device=lengths.device)
    if features.n_in > size:
        order = (lengths * norms).argsort(descending=True, stable=True)
        lengths, norms = lengths[order], norms[order]
    reach = _reach(lengths, norms, size)
    if reach[0][0] < strongest.threshold:
        return
    left, right = products.rows, screen.rows
    if features.n_in > size:
        left, right = left[order], right[order]
    for row in range(len(reach)):
        column = row
        while column < len(reach):
            stop = _stop(reach[row], column, strongest.threshold, column == row)
            if stop > column:
                rows, columns = slice(row * size, (row + 1) * size), slice(column * size, stop * size)
                found = pairs_in_reach(
                    left[rows], right[columns], strongest.threshold, strongest.k, column == row
                )
                first, second = order[found[0] + rows.start], order[found[1] + columns.start]
                first, second = torch.minimum(first, second), torch.maximum(first, second)
                _add(strongest, products, output, first, second, found[2])
            column = max(stop, column + 1)


def _add(
    strongest: Strongest, products: Factored, output: int, left: Tensor, right: Tensor, reach: Tensor
) -> None:
    """Adds the values of pairs: those that may be largest first, so that others need not be computed."""
    if len(reach) > strongest.k:
        likely = reach.topk(strongest.k, sorted=False).indices
        _add(strongest, products, output, left[likely], right[likely], reach[likely])
        rest = reach >= strongest.threshold
        rest[likely] = False
        left, right = left[rest], right[rest]
    if len(left):
        values, n = products.values(left, right), products.n
        require_rankable(float(values.abs().max()), values.dtype)
        strongest.add(values, (output * n + left) * n + right)


def _stop(reach: list[float], column: int, threshold: float, diagonal: bool) -> int:
    """The end of the tiles from `column` on that are screened at once; `column` where it is out of reach.

    Without a threshold it is found in a tile on the diagonal.
    """
    if reach[column] < threshold:
        return column
    stop = min(column + (1 if diagonal and not threshold else COLUMNS), len(reach))
    while reach[stop - 1] < threshold:
        stop -= 1
    return stop


def _reach(left: Tensor, right: Tensor, size: int) -> list[list[float]]:
    """A bound on |value| in each pair of tiles, from the norms of both sides of the products."""
    L, R = (torch.stack([part.max() for part in norms.split(size)]) for norms in (left, right))
    return (2 * SLACK * torch.minimum(L[:, None] * R, R[:, None] * L)).tolist()


def _tile_size(features: FeatureLayer) -> int:
    """About 16 tiles a side; not too small for fast products, nor larger than a chunk of memory.

    A GPU waits for the host once a tile and more, so that few large ones are faster than the products spared.
    """
    least = 256 if features.inputs.device.type == "cpu" else 4096
    most = math.isqrt(rows_at_once(features.inputs.element_size()))
    return min(max(least, -(-features.n_in // 16)), most)


def strong_first(features: FeatureLayer, outputs: list[int]) -> list[int]:
    """The output features in the order of a guess at their strength, so that the threshold rises early."""
    if len(outputs) < 2:
        return outputs
    tensor = features.tensor
    units = tensor.W_gate.norm(dim=0) * tensor.W_in.norm(dim=0)
    strength = ((features.outputs[outputs] @ tensor.W_out.T) * units).norm(dim=1)
    return [outputs[index] for index in strength.argsort(descending=True, stable=True).tolist()]


@checked
def split_strongest_interactions(
    features: FeatureLayer, outputs: int | Iterable[int] | None = None, k: int = 50, progress: bool = False
) -> Interactions:
    """`strongest_interactions` with the output features split over the processes of a group.

    Every process is to call it with the same arguments, and gets the whole result. Each has the whole layer
    on its own device. The result is that of one process, to the last bit where the device, its number of
    threads and the alignment of the tensors in memory are alike. Without a group, give the `outputs` of each
    part (`Worker.of`) to `strongest_interactions`, and the results to `merged_interactions`.
    """
    selected = list(dict.fromkeys(features.select(outputs)))
    require_as_many(k, len(selected) * n_pairs(features.n_in))
    strongest = named(Strongest(k, features.inputs), features.n_in)
    with together() as worker:
        own = [selected[index] for index in worker.of(len(selected))]
        if own:
            most = min(k, len(own) * n_pairs(features.n_in))
            strongest = strongest_interactions(features, own, most, progress)
    columns = torch.stack([strongest.outputs, strongest.left, strongest.right], dim=1)
    columns, values = gather_rows(columns), gather_rows(strongest.values)
    output, left, right = columns.unbind(1)
    return merged_interactions([Interactions(output, left, right, values)], k)
