"""The corner of an interaction matrix where the strongest interactions are, small enough to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.interactions import n_pairs, put_back, strongest_interactions
from analysis.features.layer import FeatureLayer
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_index
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import unit_vectors
from bilinear_lm.shown import shown

Order = Literal["likeness", "strength"]

AT_ONCE = 64
"""Output features whose submatrices are made at once."""


@shown
@dataclass(frozen=True)
class Submatrix:
    """Q_u between the input features that take part in the strongest interactions of an output feature."""

    output: int
    features: Int[Tensor, " k"]
    """The input features, in the order of the rows and columns."""
    matrix: Float[Tensor, "k k"]


@checked
def strongest_submatrix(
    features: FeatureLayer, output: int, k: int = 50, order: Order = "likeness"
) -> Submatrix:
    """The interaction matrix of an output feature between k input features, those of its strongest pairs.

    Features are taken from the strongest interaction down until there are k; of the pair that brings one
    too many, the left is taken. order="strength" leaves them in that order, order="likeness" sets features
    that interact alike side by side.
    """
    require_index(output, features.n_out, "output feature")
    require_count(k, f"a submatrix of {k} features", f"1 to n_in={features.n_in}", most=features.n_in)
    require_choice(order, get_args(Order), "order")
    pairs = strongest_interactions(features, [output], pairs_that_hold(k))
    submatrix = submatrix_of_pairs(features, output, pairs.left, pairs.right, k)
    return _by_likeness(submatrix) if order == "likeness" and k > 2 else submatrix


def pairs_that_hold(k: int) -> int:
    """How many pairs of features there must be for k different features to be sure to be among them.

    Fewer than k features have at most n_pairs(k − 1) pairs, so that one more pair brings in a k-th.
    """
    return n_pairs(k - 1) + 1


def submatrix_of_pairs(
    features: FeatureLayer, output: int, left: Int[Tensor, " n"], right: Int[Tensor, " n"], k: int
) -> Submatrix:
    """The interaction matrix of an output feature between the first k features that occur in pairs.

    Of a pair the left feature comes first. `pairs_that_hold(k)` pairs are enough.
    """
    both = torch.stack([left, right], dim=1).flatten().tolist()
    chosen = torch.tensor(list(dict.fromkeys(both))[:k], device=left.device)
    matrix = features.tensor.pairwise(features.outputs[output], features.inputs[chosen])
    return Submatrix(output, chosen, matrix)


def submatrices_of_pairs(
    features: FeatureLayer, left: Int[Tensor, "n_out n"], right: Int[Tensor, "n_out n"], k: int
) -> tuple[Submatrix, ...]:
    """`submatrix_of_pairs` of every output feature, by a row of `left` and `right` each.

    Input features go through the factors of the layer once for many output features.
    """
    both = torch.stack([left, right], dim=2).flatten(1).tolist()
    chosen = torch.tensor([list(dict.fromkeys(row))[:k] for row in both], device=left.device)  # [n_out, k]
    scaled, *powers = features.scaled(list(range(features.n_out)))
    factors, width = scaled.quadratic, chosen.shape[1]
    at_once = min(AT_ONCE, rows_at_once(4 * width * factors.d_mlp * factors.dtype.itemsize))
    matrices = []
    for some, u in zip(chosen.split(at_once), scaled.outputs.split(at_once), strict=True):
        needed, places = some.unique(return_inverse=True)
        gate, up = (scaled.inputs[needed] @ factor for factor in (factors.W_gate, factors.W_in))
        half = (gate[places] * (u @ factors.W_out.T / 2).unsqueeze(1)) @ up[places].mT  # [n, k, k]
        matrices.append(put_back(half + half.mT, sum(powers)))
    return tuple(
        Submatrix(output, own, matrix)
        for output, (own, matrix) in enumerate(zip(chosen, torch.cat(matrices), strict=True))
    )


def _by_likeness(submatrix: Submatrix) -> Submatrix:
    """The same submatrix, rows of large cosine side by side.

    Spectral seriation: features are sorted along the Fiedler vector of the graph whose edges weigh
    1 + cosine of two rows.
    """
    rows = unit_vectors(submatrix.matrix.double(), dim=1)
    weights = 1 + rows @ rows.T
    laplacian = torch.diag(weights.sum(dim=1)) - weights
    fiedler = torch.linalg.eigh(laplacian).eigenvectors[:, 1]
    # The eigenvector's sign is arbitrary: the strongest feature goes to the first half.
    order = (fiedler if fiedler[0] <= 0 else -fiedler).argsort()
    return Submatrix(submatrix.output, submatrix.features[order], submatrix.matrix[order][:, order])
