"""The strongest interactions of every feature of a layer, from both of its sides, in one pass.

Of an output feature u they are the pairs of input features with the largest |value| in u · B(x, x); of an
input feature, the output features and partners that it reaches with the largest |value|. Values are those of
`analysis.features.interactions`: Q_ii of a feature with itself, 2 Q_ij of two.

Each interaction matrix is searched once, tile by tile, and dropped. A tile holds products of fewer digits
with a bound on what the others add (`analysis.features.screening`). The largest of each row and column tells
which of them can hold anything new, for the output feature or for an input feature; only those are searched,
and what they hold gets its value by a sum in float64. So the result is that of a search of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from analysis.features.interactions import Interactions, n_pairs, put_back, strong_first
from analysis.features.layer import FeatureLayer
from analysis.features.screening import Factored, Screen
from analysis.features.tiles import Tile, directions_at_once, largest_of_features, tiles
from analysis.streaming import StrongestOfEach, require_rankable
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_index
from bilinear_lm.distributed import gather_rows, together
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown

AT_ONCE = 32
"""Output directions whose interaction matrices are made at once."""

WIDEST = 512
"""The width up to which whole numbers may screen. There they took 0.8 times what plain rows took, at 1024 1.5
times (2048 random features, one thread): the bound on their rounding leaves more pairs of wide rows."""


@shown
@dataclass(frozen=True)
class InteractionIndex:
    """The strongest interactions of each output feature and of each input feature, strongest first.

    A row has fewer than k of them where the layer has no more; it is then filled up with value 0.
    """

    left: Int[Tensor, "n_out k_out"]
    """Row a: the left input features of output feature a; `right` is at least `left`."""
    right: Int[Tensor, "n_out k_out"]
    values: Float[Tensor, "n_out k_out"]
    reached: Int[Tensor, "n_in k_in"]
    """Row i: the output features that input feature i reaches."""
    partner: Int[Tensor, "n_in k_in"]
    """The input features that i reaches them with; i itself where it needs no other."""
    reach_values: Float[Tensor, "n_in k_in"]

    def into(self, output: int) -> Interactions:
        """The strongest interactions into an output feature."""
        require_index(output, len(self.values), "output feature")
        left, right, values = self.left[output], self.right[output], self.values[output]
        return _present(Interactions(torch.full_like(left, output), left, right, values))

    def of(self, feature: int) -> Interactions:
        """The strongest interactions that an input feature takes part in, into any output feature."""
        require_index(feature, len(self.reach_values), "input feature")
        partner, own = self.partner[feature], torch.full_like(self.partner[feature], feature)
        left, right = torch.minimum(partner, own), torch.maximum(partner, own)
        return _present(Interactions(self.reached[feature], left, right, self.reach_values[feature]))


@checked
def interaction_index(
    features: FeatureLayer, k_out: int = 20, k_in: int = 20, progress: bool = False
) -> InteractionIndex:
    """The `k_out` strongest interactions into each output feature, `k_in` of each input feature.

    Those into an output feature are ranked by |value|, then by left and right feature; those of an input
    feature by |value|, output feature and partner. Time is that of all interaction matrices,
    n_out · n_in² · d; memory that of `AT_ONCE` matrices of the layer at most, three copies of the features,
    and some tiles (`analysis.features.tiles`), besides the result. The processes of a torch.distributed
    group share the output features.

    >>> features = FeatureLayer(tensor, inputs.decoder, outputs.encoder.T)  # doctest: +SKIP
    >>> index = interaction_index(features)  # doctest: +SKIP
    >>> [(item.left, item.right, item.value) for item in index.into(3)]  # doctest: +SKIP
    """
    for k in (k_out, k_in):
        require_count(k, f"k_out={k_out}, k_in={k_in} interactions", "at least 1 of each")
    features, *powers = features.scaled(list(range(features.n_out)))
    n_in, like = features.n_in, features.inputs
    k_out, k_in = min(k_out, n_pairs(n_in)), min(k_in, features.n_out * n_in)
    screen = Screen(features, None if like.shape[1] <= WIDEST else False)
    of = StrongestOfEach(n_in, k_in, like)
    of.at_least(_least(screen, k_in))
    with together() as worker:
        results = [StrongestOfEach(0, k_out, like)]
        at_once = _at_once(features)
        with tqdm(total=features.n_out, desc="interactions", disable=not progress) as bar:
            for outputs, products in _along(screen, worker.of(-(-features.n_out // at_once)), at_once):
                results.append(_search(screen, outputs, products, of, k_out))
                bar.update(len(outputs) * worker.world)
        of.merge()
    values = gather_rows(torch.cat([result.values for result in results]))
    pairs = gather_rows(torch.cat([result.places for result in results]))
    of_values, places = _of_all(of)
    return InteractionIndex(
        left=pairs // n_in,
        right=pairs % n_in,
        values=put_back(values, sum(powers)),
        reached=places // n_in,
        partner=places % n_in,
        reach_values=put_back(of_values, sum(powers)),
    )


def _at_once(features: FeatureLayer) -> int:
    """How many interaction matrices are made together."""
    return min(AT_ONCE, rows_at_once(features.inputs.shape[1] ** 2 * features.inputs.element_size()))


def _least(screen: Screen, k: int) -> Float64[Tensor, " n_in"]:
    """A |value| that k interactions of each input feature have into output features that look strong.

    Without it all pairs would be in reach at first.
    """
    features, right = screen.features, screen.rows
    if k > features.n_in:
        return torch.zeros_like(right.norms)
    strongest = strong_first(features, list(range(features.n_out)))[: _at_once(features)]
    few, largest = directions_at_once(features.n_in, features.inputs), right.norms.new_zeros(features.n_in, k)
    for start in range(0, len(strongest), few):
        some = strongest[start : start + few]
        products = screen.along(features.outputs[some])
        require_rankable(float(products.lengths.max()), screen.right.dtype)
        more = largest_of_features(products.rows, right, len(some), k)
        largest = torch.cat([largest, more], dim=1).topk(k, dim=1).values
    return largest[:, -1]


def _along(screen: Screen, pieces: range, at_once: int) -> Iterator[tuple[range, Factored]]:
    """Output features that share tiles, and the products along them.

    Pieces of `at_once` output features have their interaction matrices made together, as many cost half. They
    are the same whoever computes them, as the rounding depends on what is made together.
    """
    features = screen.features
    few = min(at_once, directions_at_once(features.n_in, features.inputs))
    for piece in pieces:
        outputs = range(piece * at_once, min((piece + 1) * at_once, features.n_out))
        matrices = None
        if features.through_matrix:
            matrices = features.quadratic.interaction_matrix(features.outputs[outputs.start : outputs.stop])
        for start in range(0, len(outputs), few):
            some = outputs[start : start + few]
            if matrices is None:
                yield some, screen.along(features.outputs[some.start : some.stop])
            else:
                yield some, screen.through(matrices[start : start + few])


def _search(
    screen: Screen, outputs: range, products: Factored, of: StrongestOfEach, k: int
) -> StrongestOfEach:
    """The k strongest values into each of some output features, at places left · n_in + right.

    `of` gets what may be among the strongest of an input feature. The k largest sizes that were seen of an
    output feature are a threshold for others.
    """
    require_rankable(float(products.lengths.max()), screen.right.dtype)
    n, n_in, like = len(outputs), products.n, screen.right
    into, left, right = StrongestOfEach(n, k, like), products.rows, screen.rows
    if left.norms.any():
        found, seen = [], like.new_zeros(n, 0)
        for tile in tiles(left, right, n):
            sizes = tile.largest()
            seen = torch.cat([seen, tile.at_least(sizes).view(n, -1).to(seen.dtype)], dim=1)
            seen = seen.topk(min(k, seen.shape[1]), dim=1).values
            least = seen[:, -1].double() if seen.shape[1] == k else of.least.new_zeros(n)
            found.append(_in_reach(tile, sizes.amax(1), least, of.least))
        rows, columns, most = (torch.cat(column) for column in zip(*found, strict=True))
        direction, feature = rows // n_in, rows % n_in
        needed = torch.minimum(least[direction], torch.minimum(of.least[feature], of.least[columns]))
        near = torch.nonzero(most >= needed).squeeze(1)
        if screen.whole:
            near = near[products.at_most(rows[near], columns[near]) >= needed[near]]
        direction, feature, columns = direction[near], feature[near], columns[near]
        values = products.values(rows[near], columns)
        require_rankable(float(values.abs().max()) if len(values) else 0.0, values.dtype)
        into.add(direction, values, feature * n_in + columns)
        output, two = direction + outputs.start, feature != columns
        of.add(feature, values, output * n_in + columns)
        of.add(columns[two], values[two], (output * n_in + feature)[two])
    into.merge()
    _fill_up(into, n_in)
    return into


def _in_reach(
    tile: Tile, largest: Tensor, of_output: Float64[Tensor, " n"], of_input: Float64[Tensor, " n_in"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of L and columns of a tile's values that may be as large as one of their features needs.

    Third comes the most that each |value| can be.
    """
    n_in, n_rows = len(of_input), tile.rows.stop - tile.rows.start
    of_rows = torch.minimum(of_output.unsqueeze(1), of_input[tile.rows]).flatten()
    row, column = tile.in_reach(largest, of_rows, of_input[tile.columns])
    most = tile.at_most(tile.sizes[row, column], row)
    return row // n_rows * n_in + row % n_rows + tile.rows.start, column + tile.columns.start, most


def _fill_up(into: StrongestOfEach, n_in: int) -> None:
    """Pairs of value 0, the first of them, where an output feature has fewer interactions than k."""
    n, k = into.values.shape
    for row in torch.nonzero(into.values[:, -1] == 0).flatten().tolist() if n else []:
        missing = into.values[row] == 0
        first = next(rows for rows in range(1, n_in + 1) if n_pairs(n_in) - n_pairs(n_in - rows) >= k)
        left, right = torch.triu_indices(first, n_in, device=into.places.device)
        others = left * n_in + right
        others = others[~torch.isin(others, into.places[row][~missing])]
        into.places[row, missing] = others[: int(missing.sum())]


def _of_all(of: StrongestOfEach) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The strongest of all processes of a group, each with those of its output features."""
    n, k = of.values.shape
    values, places = (
        gather_rows(column).view(-1, n, k).transpose(0, 1).flatten(1) for column in (of.values, of.places)
    )
    order = places.argsort(dim=1, stable=True)
    by_size = values.gather(1, order).abs().argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, by_size[:, :k])
    return values.gather(1, order), places.gather(1, order)


def _present(row: Interactions) -> Interactions:
    """The interactions without the zeros that fill up a row."""
    kept = row.values != 0
    return Interactions(row.outputs[kept], row.left[kept], row.right[kept], row.values[kept])
