"""Small computations in pairs of features: products, gates, and opposing features.

The contribution of features i and j alone to an output is, with a = Q_ii, b = 2 Q_ij, d = Q_jj, codes c,

    q(c_i, c_j) = a c_i² + b c_i c_j + d c_j²,

the quadratic form of [[a, b/2], [b/2, d]]. Codes are positive, so that its values a at (1, 0), d at (0, 1)
and t = a + b + d at (1, 1) are a truth table. With the ratio r that is asked for, a pair is

- **and**, where |b| ≥ r (|a| + |d|): nothing happens unless both are active;
- **and-not**, where |a| ≥ r |d| and |a| ≥ r |t|, or with i and j exchanged: one, unless the other is active;
- **xor**, where a d > 0 and |a|, |d| ≥ r |t|: one of them but not both, near ± (c_i − c_j)²;
- **saddle**, where the eigenvalues have opposite signs, and magnitudes within a factor of r: a difference of
  two squares. A product is one: c_i c_j = ¼ (c_i + c_j)² − ¼ (c_i − c_j)².

Negation has this form in language models: two features of the output whose decoders are opposite (cosine
−0.975) and whose eigenvalues have opposite signs, each explained by two eigenvectors (arXiv 2410.08417,
section 5). `opposing_features` finds such features.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.features.interactions import named, put_back
from analysis.features.layer import FeatureLayer
from analysis.spectra.eigen import eigendecompose
from analysis.spectra.gram import scaled_gram
from analysis.streaming import Strongest
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_finite_numbers, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import unit_vectors
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown

Pattern = Literal["and", "and-not", "xor", "saddle"]


@shown
@dataclass(frozen=True)
class PairPatterns:
    """Pairs of input features with their effect on an output feature, as columns; largest |b| first."""

    outputs: Int[Tensor, " k"]
    left: Int[Tensor, " k"]
    right: Int[Tensor, " k"]
    """Larger than `left`."""
    left_alone: Float[Tensor, " k"]
    """a = Q_ii, the output at codes (1, 0)."""
    right_alone: Float[Tensor, " k"]
    """d = Q_jj, the output at codes (0, 1)."""
    cross: Float[Tensor, " k"]
    """b = 2 Q_ij, the contribution of both together."""

    def __len__(self) -> int:
        return len(self.cross)

    @property
    def both(self) -> Float[Tensor, " k"]:
        """a + b + d, the output at codes (1, 1)."""
        return self.left_alone + self.cross + self.right_alone

    @property
    def eigenvalues(self) -> Float[Tensor, "k 2"]:
        """The eigenvalues of [[a, b/2], [b/2, d]], the larger first."""
        return _eigenvalues(self.left_alone, self.cross, self.right_alone)

    def are(self, pattern: Pattern, ratio: float = 2.0) -> Bool[Tensor, " k"]:
        """Which of the pairs have a pattern."""
        _require_pattern(pattern, ratio)
        return _matches(pattern, self.left_alone, self.cross, self.right_alone, ratio)


@checked
def strongest_patterns(
    features: FeatureLayer,
    pattern: Pattern,
    outputs: int | Iterable[int] | None = None,
    k: int = 50,
    ratio: float = 2.0,
    progress: bool = False,
) -> PairPatterns:
    """The k pairs i < j of largest |2 Q_ij| among those of a pattern, or all where there are fewer.

    Matrices are searched strip by strip; no more than a strip of them exists at once.

    >>> pairs = strongest_patterns(features, "and-not", [3], k=10)  # doctest: +SKIP
    >>> pairs.left_alone, pairs.right_alone, pairs.both  # doctest: +SKIP
    """
    _require_pattern(pattern, ratio)
    require_count(k, f"k={k} pairs")
    selected = list(dict.fromkeys(features.select(outputs)))
    features, *powers = features.scaled(selected)
    strongest, n = Strongest(k, features.inputs), features.n_in
    for output in tqdm(selected, desc=pattern, disable=not progress):
        u = features.outputs[output]
        alone = features.self_part(u)
        for start, strip in features.strips(u):
            cross = strip * 2
            row, column = _candidates(strongest, pattern, alone[start:], cross, ratio)
            strongest.add(cross[row, column], (output * n + row + start) * n + column + start)
    pairs = named(strongest, n)
    columns = [features.coefficients(pairs.outputs, each, each) for each in (pairs.left, pairs.right)]
    left_alone, right_alone, cross = (put_back(each, sum(powers)) for each in (*columns, pairs.values))
    return PairPatterns(pairs.outputs, pairs.left, pairs.right, left_alone, right_alone, cross)


@shown
@dataclass(frozen=True)
class OpposingFeatures:
    """Pairs of output features that write in opposite directions, as columns; most opposed first."""

    left: Int[Tensor, " k"]
    right: Int[Tensor, " k"]
    """Larger than `left`."""
    cosines: Float[Tensor, " k"]
    """Cosines of what the two write: of their decoder rows."""
    similarity: Float[Tensor, " k"]
    """⟨Q_i, Q_j⟩ / (‖Q_i‖ ‖Q_j‖) of what they read; −1 where one computes the opposite of the other."""
    eigenvalues: Float[Tensor, "k 2 2"]
    """The largest positive eigenvalue (or 0) and the largest negative one (or 0) of each of the two."""
    explained: Float[Tensor, "k 2"]
    """The share of these two eigenvalues in ‖Q‖² = Σ λ²."""

    def __len__(self) -> int:
        return len(self.cosines)


@checked
def opposing_features(
    features: FeatureLayer,
    decoder: Float[Tensor, "n_out d_out"],
    k: int = 20,
    below: float = -0.7,
) -> OpposingFeatures:
    """The k pairs of output features with the lowest cosine of their decoder rows, of those `below` one.

    `decoder` is that of the dictionary whose encoder columns are `features.outputs`. Cosines are computed in
    chunks of rows; interaction matrices are compared, and decomposed, of the pairs that are found alone.

    >>> layer = feature_layer(model, 2, inputs, outputs)  # doctest: +SKIP
    >>> opposing_features(layer, outputs.decoder).cosines  # doctest: +SKIP
    """
    if decoder.shape != features.outputs.shape:
        raise InputError(
            f"decoder of opposing features: got {list(decoder.shape)}; expected "
            f"{list(features.outputs.shape)}, a row for each output feature"
        )
    got, expected = f"k={k}, below={below}", "at least 1 pair, and a cosine from -1 to below 0"
    require_count(k, got, expected)
    require_number(below, got, expected, least=-1, most=-sys.float_info.min)
    require_finite_numbers(decoder, "the decoder of opposing features")
    lowest = _lowest_cosines(decoder.to(features.inputs), k, below)
    left, right, cosines = lowest.places // len(decoder), lowest.places % len(decoder), lowest.values
    ends = torch.stack([left, right], dim=1)
    scaled, power, _ = features.scaled(ends.flatten().tolist())
    eigenvalues, explained = _opposite_eigenvalues(scaled, ends)
    return OpposingFeatures(
        left=left,
        right=right,
        cosines=cosines,
        similarity=circuit_similarity(scaled, ends),
        eigenvalues=put_back(eigenvalues, power),
        explained=explained,
    )


def _eigenvalues(a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    middle, radius = (a + d) / 2, torch.hypot(a - d, b) / 2
    return torch.stack([middle + radius, middle - radius], dim=-1)


def _matches(pattern: Pattern, a: Tensor, b: Tensor, d: Tensor, ratio: float) -> Tensor:
    """Whether the pairs with these coefficients, which broadcast, have a pattern."""
    if pattern == "and":
        return (b.abs() >= ratio * (a.abs() + d.abs())) & (b != 0)
    if pattern == "saddle":
        high, low = _eigenvalues(a, b, d).unbind(-1)
        return (low < 0) & (high > 0) & (torch.maximum(high, -low) <= ratio * torch.minimum(high, -low))
    both = (a + b + d).abs()
    if pattern == "xor":
        return (a * d > 0) & (torch.minimum(a.abs(), d.abs()) >= ratio * both)
    more, less = torch.maximum(a.abs(), d.abs()), torch.minimum(a.abs(), d.abs())
    return (more > 0) & (more >= ratio * torch.maximum(less, both))


def _candidates(
    strongest: Strongest, pattern: Pattern, alone: Tensor, cross: Tensor, ratio: float
) -> tuple[Tensor, ...]:
    """Rows and columns of the pairs of a strip that have a pattern and may be among the strongest."""
    sizes = cross.abs()
    above = torch.ones_like(cross, dtype=torch.bool).triu(1)
    if not strongest.threshold:
        fits = _matches(pattern, alone[: len(cross), None], cross, alone, ratio)
        return strongest.candidates(sizes.masked_fill_(~(fits & above), -1))
    # Few are strong enough, so that few are left to be looked at.
    row, column = strongest.candidates(sizes.masked_fill_(~above, -1))
    fits = _matches(pattern, alone[row], cross[row, column], alone[column], ratio)
    return row[fits], column[fits]


def _lowest_cosines(decoder: Tensor, k: int, below: float) -> Strongest:
    """Cosines of pairs i < j at places i · n + j."""
    rows, n = unit_vectors(decoder, dim=1), len(decoder)
    lowest, chunk = Strongest(k, decoder), rows_at_once(4 * n * decoder.element_size())
    for start in range(0, n, chunk):
        cosines = rows[start : start + chunk] @ rows[start:].T
        fits = (cosines <= below) & torch.ones_like(cosines, dtype=torch.bool).triu(1)
        row, column = lowest.candidates(cosines.abs().masked_fill_(~fits, -1))
        lowest.add(cosines[row, column], (row + start) * n + column + start)
    return lowest


def circuit_similarity(features: FeatureLayer, ends: Int[Tensor, "k 2"]) -> Float[Tensor, " k"]:
    """The cosine of the interaction matrices of pairs of output features, by the Gram matrix of the outputs.

    The layer's numbers are to be of ordinary size (`FeatureLayer.scaled`).
    """
    gram, _ = scaled_gram(features.tensor, features.tensor)
    left, right = features.outputs[ends].unbind(1)
    inner, *norms = (((x @ gram) * y).sum(-1) for x, y in ((left, right), (left, left), (right, right)))
    size = (norms[0].clamp(min=0) * norms[1].clamp(min=0)).sqrt()
    return torch.where(size > 0, inner / size.clamp(min=torch.finfo(size.dtype).tiny), 0)


def _opposite_eigenvalues(features: FeatureLayer, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues at both ends of the interaction matrices of each pair, and the share they explain."""
    chosen, index = ends.unique(return_inverse=True)
    if not len(chosen):
        return features.inputs.new_zeros(0, 2, 2), features.inputs.new_zeros(0, 2)
    values = eigendecompose(features.tensor, features.outputs[chosen]).values
    both = torch.stack([values.amax(-1).clamp(min=0), values.amin(-1).clamp(max=0)], dim=-1)
    square = values.square().sum(-1)
    part = both.square().sum(-1) / square.clamp(min=torch.finfo(values.dtype).tiny)
    return both[index], part[index]


def _require_pattern(pattern: str, ratio: float) -> None:
    require_choice(pattern, get_args(Pattern), "pattern")
    require_number(ratio, f"ratio={ratio}", "1 or more", least=1)
