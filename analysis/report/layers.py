"""A bilinear layer along output directions, in tokens and on a text.

For an output direction u, u · MLP(x) = Σ λ_i (v_i · x)²: the spectrum says how many input directions
matter, each v_i is read in tokens (directly and through the heads of the attention in front), and
λ_i (v_i · x)² says where it acts on a text (arXiv 2410.08417, section 3; 2406.03947, language models).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.eigen import effective_rank, eigendecompose, shares_of_squares
from analysis.spectra.gram import strength
from analysis.streaming import PairMoments
from analysis.text.tokens import (
    OutputDirection,
    TokenReading,
    direct_scores,
    read_tokens,
    virtual_scores,
)
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@dataclass(frozen=True)
class HeadReading:
    """An eigenvector in tokens, directly (`head` is None) or through the output of a head."""

    head: int | None
    tokens: TokenReading


@shown
@dataclass(frozen=True)
class EigenvectorReading:
    """One term λ (v · x)² of a direction."""

    value: float
    readings: tuple[HeadReading, ...]
    """Direct first, then the heads with the largest scores."""
    constant: float | None
    """The share (0 to 1) of the constant input in v, which carries the biases; None without biases."""
    projections: Float[Tensor, " pos"]
    """v · x at each token of the text."""
    activations: Float[Tensor, " pos"]
    """λ (v · x)² at each token of the text."""


@shown
@dataclass(frozen=True)
class DirectionReading:
    """One output direction of a layer: the whole spectrum, and the largest eigenvectors."""

    direction: OutputDirection
    values: Float[Tensor, " d_in"]
    """All eigenvalues, by magnitude."""
    outputs: Float[Tensor, " pos"]
    """u · MLP(x) at each token of the text."""
    eigenvectors: tuple[EigenvectorReading, ...]

    @property
    def strength(self) -> float:
        """‖λ‖₂, the Frobenius norm of the interaction matrix."""
        return float(self.values.norm())

    @property
    def effective_rank(self) -> float:
        """(‖λ‖₁ / ‖λ‖₂)² of the whole spectrum."""
        return float(effective_rank(self.values))

    @property
    def correlation(self) -> float:
        """Correlation of `outputs` with what the eigenvectors read give together; NaN of a constant."""
        together = torch.stack([part.activations for part in self.eigenvectors]).sum(dim=0)
        return float(PairMoments.of(together, self.outputs).correlation)

    def share(self, k: int) -> float:
        """The share (0 to 1) of the k largest eigenvalues in Σ λ²."""
        return float(shares_of_squares(self.values)[:k][-1])


@shown
@dataclass(frozen=True)
class LayerReader:
    """Reads output directions of one layer at the tokens of a text.

    `x` holds the inputs of the layer, without the constant coordinate.
    """

    tensor: BilinearTensor
    W_E: Float[Tensor, "d_vocab d_model"]
    W_U: Float[Tensor, "d_model d_vocab"]
    W_V: Float[Tensor, "n_heads d_model d_head"]
    W_O: Float[Tensor, "n_heads d_head d_model"]
    x: Float[Tensor, "pos d_model"]
    n_eigenvectors: int = 2
    n_tokens: int = 6
    """Tokens shown at each end of an eigenvector."""
    n_heads: int = 2
    """Heads shown for an eigenvector, those with the largest scores."""

    def read(self, direction: OutputDirection) -> DirectionReading:
        """The spectrum of a direction, and its largest eigenvectors in tokens and on the text."""
        u = direction.vector(self.W_U)
        eigen = eigendecompose(self.tensor, u)
        largest = zip(eigen.values[: self.n_eigenvectors], eigen.vectors, strict=False)
        return DirectionReading(
            direction=direction,
            values=eigen.values,
            outputs=self.tensor(self.x) @ u,
            eigenvectors=tuple(self._eigenvector(float(value), vector) for value, vector in largest),
        )

    def _eigenvector(self, value: float, vector: Float[Tensor, " d_in"]) -> EigenvectorReading:
        d_model = self.W_E.shape[1]
        v, constant = vector[:d_model], vector[d_model:].sum()
        projections = self.x @ v + constant
        return EigenvectorReading(
            value=value,
            readings=self._readings(v),
            constant=float(constant**2) if self.tensor.constant else None,
            projections=projections,
            activations=value * projections.square(),
        )

    def _readings(self, v: Float[Tensor, " d_model"]) -> tuple[HeadReading, ...]:
        heads = virtual_scores(v, self.W_E, self.W_V, self.W_O)
        loudest = heads.abs().amax(dim=1).argsort(descending=True)[: self.n_heads].tolist()
        direct = HeadReading(None, read_tokens(direct_scores(v, self.W_E), self.n_tokens))
        return (direct, *(HeadReading(head, read_tokens(heads[head], self.n_tokens)) for head in loudest))


def strongest(
    tensor: BilinearTensor, U: Float[Tensor, "d_vocab d_out"], n: int
) -> tuple[list[int], Float[Tensor, " d_vocab"]]:
    """The n rows of U along which the layer acts most strongly and that differ, and the strength of all.

    Frequent tokens have much in common: a row whose cosine with one that is already taken exceeds
    `SIMILAR` is passed over.
    """
    strengths = strength(tensor, U)
    taken: list[int] = []
    for row in strengths.argsort(descending=True).tolist():
        if len(taken) == n:
            break
        cosines = torch.cosine_similarity(U[row], U[taken], dim=-1)
        if not (cosines > SIMILAR).any():
            taken.append(row)
    return taken, strengths


SIMILAR = 0.7
"""Output directions with a larger cosine are as good as the same; `strongest` keeps one of them."""
