"""Numbers that chance gives, beside which those of features and directions are read.

For the few eigenvectors that explain a feature it is a dictionary whose encoder is turned by one random
rotation of the layer's output: lengths, angles between features, biases and thresholds stay, so that as many
are active; only their place in the layer is random. For directions of tokens it is random directions. For
pairs of opposing features it is the lowest cosine of as many random directions, and the similarity of the
circuits of random pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.features.explained import Explained, Probe
from analysis.features.layer import FeatureLayer
from analysis.features.patterns import OpposingFeatures, circuit_similarity, opposing_features
from analysis.spectra.eigen import effective_rank, eigendecompose, shares_of_squares
from analysis.spectra.spectrum import spectrum
from analysis.streaming import PairMoments
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.numerics.rescaling import unit_vectors
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor

N_RANDOM = 100
"""Features of the rotated dictionary that are decomposed, and random pairs that are compared."""

AT_ONCE = 50
"""Interaction matrices that are decomposed at once."""

N_OPPOSING = 20
"""Opposing pairs of a layer that are kept."""

BELOW = -0.7
"""The highest cosine of an opposing pair."""

SEED = 0


@shown
@dataclass(frozen=True)
class RandomFeatures:
    """Features of the rotated dictionary, as `Spectra` and `Explained` have them."""

    effective_rank: Float[Tensor, " m"]
    values: Float[Tensor, "m k"]
    """The largest eigenvalues by magnitude."""
    explained: Explained


@shown
@dataclass(frozen=True)
class Opposition:
    """Output features of a layer that write in opposite directions, and what chance gives.

    Features are numbered by their order in `Side.features`.
    """

    pairs: OpposingFeatures
    lowest_random: float
    """The lowest cosine among as many random directions of the same width."""
    similarity_of_others: float
    """The median |similarity| of the interaction matrices of random pairs of these features."""


def random_probe(
    tensor: BilinearTensor,
    outputs: Dictionary,
    chosen: Int[Tensor, " n"],
    n_values: int,
    n_vectors: int,
    seed: int = SEED,
) -> tuple[Probe, Float[Tensor, " m"], Float[Tensor, "m k"]]:
    """The largest eigenvectors of the rotated dictionary, effective ranks, and the largest eigenvalues.

    Up to `N_RANDOM` of the `chosen` features are decomposed.
    """
    generator = torch.Generator().manual_seed(seed)
    rotation = random_rotation(outputs.d_in, generator).to(outputs.encoder)
    rotated = replace(outputs, encoder=rotation @ outputs.encoder)
    some = chosen[torch.randperm(len(chosen), generator=generator)[:N_RANDOM].sort().values.to(chosen.device)]
    values, vectors = [], []
    for u in rotated.encoder.T[some].split(AT_ONCE):
        eigen = spectrum(tensor, u, n_vectors)
        values.append(eigen.values)
        vectors.append(eigen.vectors)
    spectra = torch.cat(values)
    probe = Probe(rotated, some, spectra[:, :n_vectors], torch.cat(vectors))
    return probe, effective_rank(spectra), spectra[:, :n_values].clone()


@shown
@dataclass(frozen=True)
class RandomDirections:
    """Random output directions of a layer, read as those of tokens are."""

    share: Float[Tensor, " m"]
    """The share (0 to 1) of the largest eigenvalues in Σ λ², as many as are shown of a direction."""
    effective_rank: Float[Tensor, " m"]
    correlation: Float[Tensor, " m"]
    """Correlation over the text of the output along the direction and what those eigenvectors give."""


def random_directions(
    tensor: BilinearTensor, x: Float[Tensor, "pos width"], n: int, k: int, seed: int = SEED
) -> RandomDirections:
    """n random output directions of a layer, explained by their k largest eigenvectors at inputs x."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(n, tensor.d_out, generator=generator).to(tensor.W_out)
    eigen = eigendecompose(tensor, u)
    point = torch.nn.functional.pad(x, (0, tensor.d_in - x.shape[1]), value=1.0)
    projections = (eigen.vectors[:, :k] @ point.T).square()
    approximation = (projections * eigen.values[:, :k, None]).sum(dim=1)
    return RandomDirections(
        share=shares_of_squares(eigen.values)[:, :k][:, -1],
        effective_rank=effective_rank(eigen.values),
        correlation=PairMoments.of(approximation.T, tensor(x) @ u.T).correlation,
    )


def random_rotation(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """An orthogonal matrix, uniform over all of them: the Q of a Gaussian one, with R's diagonal positive."""
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def opposition(features: FeatureLayer, decoder: Float[Tensor, "n d_out"], seed: int = SEED) -> Opposition:
    """The opposing pairs of the output features of a layer, beside chance."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(decoder.shape, generator=generator).to(decoder)
    return Opposition(
        pairs=opposing_features(features, decoder, k=N_OPPOSING, below=BELOW),
        lowest_random=_lowest_cosine(directions),
        similarity_of_others=_median_similarity(features, generator),
    )


def _lowest_cosine(directions: Float[Tensor, "n d"]) -> float:
    """The lowest cosine of two different rows; 1 of a single row."""
    rows = unit_vectors(directions, dim=1)
    return min(float((part @ rows.T).min()) for part in rows.split(rows_at_once(8 * len(rows))))


def _median_similarity(features: FeatureLayer, generator: torch.Generator) -> float:
    """The median |similarity| of the interaction matrices of random pairs of two output features."""
    n = features.n_out
    if n < 2:
        return float("nan")
    left = torch.randint(n, (N_RANDOM,), generator=generator)
    right = (left + torch.randint(1, n, (N_RANDOM,), generator=generator)) % n
    ends = torch.stack([left, right], dim=1)
    scaled, _, _ = features.scaled(ends.flatten().tolist())
    return float(circuit_similarity(scaled, ends.to(scaled.inputs.device)).abs().median())
