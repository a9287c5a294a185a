"""The strongest interactions of every feature of a layer, from both of its sides, in one pass.

Of an output feature u they are the pairs of input features with the largest |value| in u · B(x, x); of an
input feature, the output features and partners that it reaches with the largest |value|. Values are those of
`analysis.features.interactions`: Q_ii of a feature with itself, 2 Q_ij of two.

Each interaction matrix is computed once, strip by strip, and dropped. The largest entry of each row tells
which rows can hold anything new, so that only those are searched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.interactions import Interactions, n_pairs, put_back
from analysis.features.layer import FeatureLayer
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_index
from bilinear_lm.distributed import gather_rows, together
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown


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

    Time is that of all interaction matrices, n_out · n_in² · d; memory that of one strip. The processes of a
    torch.distributed group share the output features.

    >>> features = FeatureLayer(tensor, inputs.decoder, outputs.encoder.T)  # doctest: +SKIP
    >>> index = interaction_index(features)  # doctest: +SKIP
    >>> [(item.left, item.right, item.value) for item in index.into(3)]  # doctest: +SKIP
    """
    for k in (k_out, k_in):
        require_count(k, f"k_out={k_out}, k_in={k_in} interactions", "at least 1 of each")
    features, *powers = features.scaled(list(range(features.n_out)))
    k_out = min(k_out, n_pairs(features.n_in))
    k_in = min(k_in, features.n_out * features.n_in)
    reach = _Reach.none(features, k_in)
    rows: list[tuple[Tensor, Tensor]] = []
    none = features.inputs.new_zeros(0)
    with together() as worker:
        for output in tqdm(worker.of(features.n_out), desc="interactions", disable=not progress):
            best = none, none.long()
            for start, strip in features.strips(features.outputs[output]):
                values = strip.mul_(2)
                values.diagonal().div_(2)
                sizes = values.abs()
                of_row = sizes.amax(dim=1)
                best = _strongest_pairs(best, values, sizes, of_row, start, features.n_in, k_out)
                reach.offer(output, start, start, values, sizes, of_row)
                # Right of its square on the diagonal a strip also holds what its columns have with its rows.
                beside = slice(len(strip), None)
                if strip.shape[1] > len(strip):
                    across = sizes[:, beside].T
                    reach.offer(
                        output, start + len(strip), start, values[:, beside].T, across, across.amax(1)
                    )
            rows.append(best)
    values, pairs = (gather_rows(column) for column in _stacked(rows, reach.values.new_zeros(0, k_out)))
    reach = reach.of_all()
    return InteractionIndex(
        left=pairs // features.n_in,
        right=pairs % features.n_in,
        values=put_back(values, sum(powers)),
        reached=reach.pairs // features.n_in,
        partner=reach.pairs % features.n_in,
        reach_values=put_back(reach.values, sum(powers)),
    )


def _stacked(rows: list[tuple[Tensor, Tensor]], none: Tensor) -> tuple[Tensor, Tensor]:
    """Values and pairs of the output features that a process had; `none` are those of no feature."""
    if not rows:
        return none, none.long()
    values, pairs = zip(*rows, strict=True)
    return torch.stack(values), torch.stack(pairs)


def _strongest_pairs(
    best: tuple[Tensor, Tensor],
    values: Tensor,
    sizes: Tensor,
    of_row: Tensor,
    start: int,
    n_in: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The k strongest pairs of those so far and those of a strip: values, and left · n_in + right.

    A pair fills entries of at most two rows, so that where 2k rows reach a size, k pairs do. The two halves
    of a matrix differ by rounding, which the factor allows for.
    """
    reached = float(of_row.topk(2 * k).values[-1]) * 0.999 if len(of_row) >= 2 * k else 0.0
    if len(best[0]) == k:
        reached = max(reached, float(best[0][-1].abs()))
    rows = torch.nonzero(of_row >= reached).squeeze(1)
    at, column = torch.nonzero(sizes[rows] >= reached, as_tuple=True)
    row = rows[at]
    upper = row <= column
    row, column = row[upper], column[upper]
    strongest = torch.cat([best[0], values[row, column]])
    pairs = torch.cat([best[1], (row + start) * n_in + column + start])
    order = strongest.abs().sort(descending=True, stable=True).indices[:k]
    return strongest[order], pairs[order]


@dataclass
class _Reach:
    """The k strongest interactions of each input feature so far; `pairs` are reached · n_in + partner."""

    values: Tensor
    pairs: Tensor
    least: Tensor
    """|value| of the last of each."""

    @classmethod
    def none(cls, features: FeatureLayer, k: int) -> _Reach:
        values = features.inputs.new_zeros(features.n_in, k)
        return cls(values, values.long(), values[:, -1].clone())

    def of_all(self) -> _Reach:
        """The strongest of all processes of a group, each with those of its output features."""
        n_in, k = self.values.shape
        values, pairs = (
            gather_rows(column).view(-1, n_in, k).transpose(0, 1).flatten(1)
            for column in (self.values, self.pairs)
        )
        order = values.abs().sort(dim=1, descending=True, stable=True).indices[:, :k]
        values, pairs = values.gather(1, order), pairs.gather(1, order)
        return _Reach(values, pairs, values[:, -1].abs())

    def offer(
        self, output: int, first: int, beside: int, values: Tensor, sizes: Tensor, of_row: Tensor
    ) -> None:
        """Takes rows of input features from `first` on, beside partners from `beside` on."""
        block = slice(first, first + len(values))
        new = torch.nonzero(of_row > self.least[block]).squeeze(1)
        if not len(new):
            return
        k, n_in = self.values.shape[1], len(self.values)
        strong = sizes[new].topk(min(k, values.shape[1]), dim=1).indices
        rows = new + first
        strongest = torch.cat([self.values[rows], values[new[:, None], strong]], dim=1)
        pairs = torch.cat([self.pairs[rows], strong + (output * n_in + beside)], dim=1)
        order = strongest.abs().sort(dim=1, descending=True, stable=True).indices[:, :k]
        self.values[rows] = strongest.gather(1, order)
        self.pairs[rows] = pairs.gather(1, order)
        self.least[rows] = self.values[rows, -1].abs()


def _present(row: Interactions) -> Interactions:
    """The interactions without the zeros that fill up a row."""
    kept = row.values != 0
    return Interactions(row.outputs[kept], row.left[kept], row.right[kept], row.values[kept])
