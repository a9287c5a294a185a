"""Which products of two features can be large, by fewer digits and a bound on what the others add.

Interactions along u are Q_ij = f_i · Q f_j, the products of rows L_i = Q f_i and f_j. A **screen** has rows
L̃_i, R̃_j of fewer digits with known distances from the true ones, so that

    |L_i · R_j − L̃_i · R̃_j| ≤ ‖L_i − L̃_i‖ ‖R_j‖ + ‖L̃_i‖ ‖R_j − R̃_j‖        (Cauchy–Schwarz).

What this rules out is not computed further; a pair that is left gets its value by a sum in float64
(`Factored.values`). So results do not depend on how they were screened. Rows are whole numbers of −127 to 127
times a step each: products of these are exact, and several times as fast as in float32 where a CPU has
instructions for them. Whether they are is measured once a process and width; else, where there are too few
products to make up for the rounding, and on GPUs, which search products longer than they multiply, rows are
plain.

Rounding of sums of w products is at most w · eps of the product of the norms (Higham, Accuracy and Stability
of Numerical Algorithms, section 3.1; twice the bound there); measured distances and norms have `SLACK`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Float64, Int, Int8
from torch import Tensor

from analysis.features.layer import FeatureLayer
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import norms, sizes

SLACK = 1 + 2.0**-18
"""The factor that norms, distances and thresholds are widened by, for their own rounding."""

MOST = 127
"""The largest whole number of a rounded row."""

LEAST_FEATURES, LEAST_WIDTH = 2048, 192
"""From here on whole numbers measured at least as fast as plain rows (one thread of a processor with VNNI,
random features): 1.0 times at both, 1.1 to 1.2 at 2048 features of width 1024 and 512, 1.4 at 4096 of width
512. At 1024 features they measured 0.9 to 1.03 times, at width 128 0.8 times."""


@dataclass(frozen=True)
class Rows:
    """Rows of fewer digits, and how far they are from the true ones."""

    numbers: Int8[Tensor, "n w"] | Float[Tensor, "n w"]
    steps: Float64[Tensor, " n"]
    """The unit of each row's numbers."""
    norms: Float64[Tensor, " n"]
    """At least the norms of the true rows and of these."""
    distances: Float64[Tensor, " n"]
    """At least the norms of their differences."""

    def __getitem__(self, index: slice | Tensor) -> Rows:
        return Rows(self.numbers[index], self.steps[index], self.norms[index], self.distances[index])


def plain_rows(rows: Float[Tensor, "n w"]) -> Rows:
    """Rows as they are."""
    length = norms(rows, 1).double() * SLACK
    return Rows(rows, torch.ones_like(length), length, torch.zeros_like(length))


def rounded_rows(rows: Float[Tensor, "n w"], distances: Float64[Tensor, " n"] | float = 0.0) -> Rows:
    """Rows as whole numbers, where `rows` are at most `distances` from the true ones."""
    n, width = rows.shape
    numbers = rows.new_zeros(-(-n // 32) * 32, -(-width // 8) * 8, dtype=torch.int8)[:n]
    steps, length, away = (rows.new_zeros(n, dtype=torch.float64) for _ in range(3))
    at_once = max(1, rows_at_once(2**10 * width))  # stays in the processor's cache
    for start in range(0, n, at_once):
        part = slice(start, start + at_once)
        piece = rows[part].to(torch.promote_types(rows.dtype, torch.float32))
        step = sizes(piece, 1) / MOST
        whole = (piece / torch.where(step > 0, step, 1).unsqueeze(1)).round_().clamp_(-MOST, MOST)
        numbers[part, :width] = whole
        steps[part] = step
        length[part] = norms(piece, 1)
        away[part] = norms(whole.mul_(step.unsqueeze(1)).sub_(piece), 1)
    away = away + (SLACK - 1) * length + distances
    return Rows(numbers, steps, length * SLACK + away, away)


class Screen:
    """The side of a layer's products that all output directions share."""

    def __init__(self, features: FeatureLayer, whole: bool | None = None):
        """`whole`: rows of whole numbers, or of the layer's precision; None: what is faster."""
        self.features = features
        self.right = features.inputs if features.through_matrix else torch.cat(features.hidden[::-1], dim=1)
        device, dtype, width = self.right.device, self.right.dtype, self.right.shape[1]
        if whole is None:
            enough = len(self.right) >= LEAST_FEATURES and width >= LEAST_WIDTH
            whole = enough and device.type == "cpu" and whole_numbers_are_faster(dtype, width)
        self.whole = whole
        self.rows = (rounded_rows if self.whole else plain_rows)(self.right)

    def along(self, u: Float[Tensor, "*n d_out"]) -> Factored:
        """The products along an output direction, or along several, rows of one after those of the other."""
        if self.features.through_matrix:
            return self.through(self.features.quadratic.interaction_matrix(u))
        left = torch.cat([self.features.factors(each)[0] for each in u.reshape(-1, u.shape[-1])])
        return Factored(self, left, self.rounding * norms(left, 1).double())

    def through(self, Q: Float[Tensor, "*n width width"]) -> Factored:
        """`along` directions whose interaction matrices are there, for a layer `through_matrix`."""
        away = self.rounding * norms(Q.flatten(-2), -1).double()
        left = self.features.inputs @ Q
        return Factored(self, left.flatten(0, -2), (away.unsqueeze(-1) * self.rows.norms).flatten())

    @property
    def rounding(self) -> float:
        """How far a sum over a row may be from the true one, as a share of the product of the norms."""
        return 2 * self.right.shape[1] * torch.finfo(self.right.dtype).eps


class Factored:
    """The products along output directions: bounds, a screen, and values.

    A value is that of `analysis.features.interactions`: Q_ii, and 2 Q_ij of two features.
    """

    def __init__(self, screen: Screen, left: Float[Tensor, "n w"], distances: Float64[Tensor, " n"]):
        """Rows within `distances` of L."""
        self._screen, self._left, self._distances = screen, left, distances
        self.lengths = norms(left, 1).double() * SLACK + distances
        """At least the norms of L."""
        self.n = len(screen.right)
        """How many features."""

    @property
    def rows(self) -> Rows:
        """The rows L as they are screened."""
        if self._screen.whole:
            return rounded_rows(self._left, self._distances)
        return Rows(self._left, torch.ones_like(self.lengths), self.lengths, self._distances)

    def values(self, left: Int[Tensor, " k"], right: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Values of pairs, left ≤ right: products of the rows L_left and R_right, summed in float64.

        Along the second of several directions `left` is n more than the feature, and so on.
        """
        values = self._products(left, right, torch.float64) * torch.where(left % self.n == right, 1.0, 2.0)
        return values.to(self._left.dtype)

    def at_most(self, left: Int[Tensor, " k"], right: Int[Tensor, " k"]) -> Float64[Tensor, " k"]:
        """The most that |values| of pairs can be, by products summed in the precision of the rows."""
        away = self._screen.rounding * self.lengths[left] * self._screen.rows.norms[right]
        products = self._products(left, right, self._left.dtype).abs().double()
        return torch.where(left % self.n == right, 1.0, 2.0) * (products + away) * SLACK

    def _products(self, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
        L, R = self._left, self._screen.right
        at_once = rows_at_once(4 * 8 * L.shape[1])
        products = [
            (L[some].to(dtype) * R[others].to(dtype)).sum(1)
            for some, others in zip(left.split(at_once), right.split(at_once), strict=True)
        ]
        return torch.cat(products)


def pairs_in_reach(
    left: Rows, right: Rows, least: float, k: int, diagonal: bool
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Rows and columns of products whose |value| may be `least` or more and among the k largest of them.

    Third comes the most that each |value| can be.
    On the diagonal the first columns are the features of the rows: each pair of them counts once.
    """
    products = products_of(left.numbers, right.numbers)
    if diagonal:
        products[:, : len(left.numbers)].triu_()
    search = _whole_in_reach if products.dtype == torch.int32 else _plain_in_reach
    return search(products, left, right, least, k, diagonal)


def _plain_in_reach(
    products: Tensor, left: Rows, right: Rows, least: float, k: int, diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The search in products in the precision of the rows, all within one small distance of the true ones."""
    n, sizes = len(products), products.abs_()
    if diagonal:
        sizes.diagonal().div_(2)
    away = float((left.distances * right.norms.max() + left.norms * right.distances.max()).max()) * SLACK
    away += torch.finfo(sizes.dtype).tiny * left.numbers.shape[1]
    bound, largest = (least / 2 - away) / SLACK, sizes.amax(1)
    if not least and sizes.numel() > k:
        strong = largest if n > k else sizes.flatten()  # where rows suffice, the largest of each
        bound = float(strong.topk(k, sorted=False).values.min()) / SLACK - 2 * away
    hot = torch.nonzero(largest >= bound).squeeze(1)
    at, column = torch.nonzero(sizes[hot] >= bound, as_tuple=True)
    row = hot[at]
    if diagonal and bound <= 0:
        upper = (row <= column) | (column >= n)
        row, column = row[upper], column[upper]
    return row, column, 2 * (sizes[row, column].double() * SLACK + away)


def _whole_in_reach(
    products: Tensor, left: Rows, right: Rows, least: float, k: int, diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The search in products in whole numbers, whose rows have steps and distances of their own."""
    n = len(products)
    widest, longest, farthest = (float(part.max()) for part in (right.steps, right.norms, right.distances))
    tiny = torch.finfo(torch.float32).tiny * left.numbers.shape[1]
    away = left.distances * longest + left.norms * farthest + tiny
    units = (left.steps * widest).clamp(min=torch.finfo(torch.float64).tiny)
    # A row is searched where its largest product may be in reach, for products that may be.
    if not least and n > k:
        least = _least_of_rows(products, left, right, away, k, diagonal)
    bounds = (least / 2 - away * SLACK) / (units * SLACK)
    largest = torch.maximum(products.amax(1), -products.amin(1))
    hot = torch.nonzero(largest >= bounds).squeeze(1)
    near = products[hot].abs_() >= bounds[hot, None].clamp(0, 2.0**31 - 1).floor().to(products.dtype)
    if diagonal:
        near[:, :n] &= torch.arange(n, device=hot.device) >= hot[:, None]
    at, column = torch.nonzero(near, as_tuple=True)
    row = hot[at]
    factor = torch.where(row == column, 1.0, 2.0) if diagonal else 2.0
    found = factor * products[row, column].double().abs() * left.steps[row] * right.steps[column]
    away = left.distances[row] * right.norms[column] + left.norms[row] * right.distances[column]
    away = factor * (away + tiny) + (SLACK - 1) * found
    reach = found + away
    if len(row) > k:
        least = max(least, float((found - away).topk(k, sorted=False).values.min()))
    in_reach = reach >= least
    return row[in_reach], column[in_reach], reach[in_reach]


def _least_of_rows(products: Tensor, left: Rows, right: Rows, away: Tensor, k: int, diagonal: bool) -> float:
    """A size that k of the values have: the largest product of each row, of k rows."""
    row, column = torch.arange(len(products), device=products.device), products.abs().argmax(1)
    found = products[row, column].double().abs() * left.steps * right.steps[column]
    factor = torch.where(row == column, 1.0, 2.0) if diagonal else 2.0
    sure = factor * (found * (2 - SLACK) - away)
    return max(0.0, float(sure.topk(k, sorted=False).values.min()))


def products_of(left: Tensor, right: Tensor) -> Tensor:
    """The products of the numbers of two sides, whole ones in int32."""
    return torch._int_mm(left, right.T) if left.dtype == torch.int8 else left @ right.T


@cache
def whole_numbers_are_faster(dtype: torch.dtype, width: int) -> bool:
    """Whether a CPU multiplies whole numbers faster than those of a precision, at this width of rows."""
    sides = [torch.ones(512, -(-width // 8) * 8, dtype=dtype) for _ in range(2)]
    whole = [side.to(torch.int8) for side in sides]
    try:
        return _seconds(lambda: products_of(*whole)) < _seconds(lambda: sides[0] @ sides[1].T)
    except RuntimeError:
        return False


def _seconds(call: Callable[[], Tensor]) -> float:
    """The shortest of three calls, after one that warms up."""
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
