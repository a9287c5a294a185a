"""A chain read from its outputs down: eigenvectors of a layer are output directions of the layer below.

The class matrix of a logit in the last layer has eigenvectors, v · h each; each of them, as an output
direction of the layer below, has an interaction matrix with eigenvectors of its own, and so on down to the
pixels (arXiv 2406.03947). With two layers

    logit_c = Σ_i λ_ci (v_ci · h)²,    v_ci · h = Σ_j μ_cij (w_cij · x)².

The tree of eigenvectors grows exponentially, so it is pruned. Legs are orthonormal first
(`analysis.chains.diagonal.orthogonalise`), so that eigenvalues are comparable: a unit direction of a leg has
an interaction matrix of norm 1, and an eigenvector weighs its parent's weight times λ². What is kept is a
chain again, its hidden units the eigenvectors; what pruning leaves out of the whole tensor is measured
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.chains.chain import Chain, chain_error
from analysis.chains.diagonal import orthogonalise
from analysis.spectra.eigen import eigendecompose
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class Level:
    """The eigenvectors that are kept of one layer, by descending weight."""

    parents: Int[Tensor, " n"]
    """The index of each one's output direction: a kept eigenvector of the layer above, or an output."""
    values: Float[Tensor, " n"]
    """Eigenvalues λ; for the last layer those of the matrix of a logit."""
    vectors: Float[Tensor, "n width"]
    """Eigenvectors in the orthonormal coordinates of the leg below."""
    weights: Float[Tensor, " n"]
    """Shares of ‖T‖² along one branch: that of the output, times λ² / Σ λ² at each layer down to here."""
    candidates: int
    """Eigenvectors of the directions kept above, before pruning."""

    @property
    def held(self) -> float:
        """The sum of the weights; 1 without pruning."""
        return float(self.weights.double().sum())


@shown
@dataclass(frozen=True)
class EigenvectorTree:
    """A chain as a pruned tree of eigenvectors."""

    levels: tuple[Level, ...]
    """From the last layer to the first."""
    chain: Chain
    """The kept part as a chain, whose hidden units are the eigenvectors."""
    embedding: Float[Tensor, "d_x width"]
    """The embedding to the orthonormal leg that the last level's eigenvectors read."""
    remainder: float
    """‖T − T'‖² / ‖T‖² of what is kept, T'."""

    def _first(self) -> dict[str, Any]:
        return {"kept": tuple(len(level.values) for level in self.levels), "remainder": self.remainder}

    @property
    def inputs(self) -> Float[Tensor, "n d_x"]:
        """The eigenvectors of the first layer as directions of the input: v · h = x · inputs."""
        return self.levels[-1].vectors @ self.embedding.T

    def children(self, level: int, index: int) -> Int[Tensor, " n"]:
        """Indices at `level` of the eigenvectors kept of one output direction; level 0 is the last layer."""
        if not 0 <= level < len(self.levels):
            raise InputError(f"level {level} of a tree; expected 0 to {len(self.levels) - 1}")
        return (self.levels[level].parents == index).nonzero().flatten()


@checked
def unfold(
    chain: Chain,
    share: float = 0.9,
    most: int = 4096,
    moment: Float[Tensor, "d_x d_x"] | None = None,
) -> EigenvectorTree:
    """The tree of eigenvectors under each output, pruned level by level to a share of the weight.

    At each layer, of all eigenvectors of the directions that are kept above, the fewest stay that hold
    `share` of the weight of these candidates together, and at most `most`. share=1 keeps all, and the chain
    is the same. `moment` is the second moment of an input leg, by default the identity. Computed in float64,
    returned in the chain's precision.

    >>> from bilinear_lm.networks import ImageClassifier, ImageSettings
    >>> from analysis.chains.chain import as_chain
    >>> classifier = ImageClassifier(ImageSettings(image_shape=(4, 4), d_model=8, d_mlp=12, n_layers=2))
    >>> tree = unfold(as_chain(classifier), share=0.9)
    >>> tree.inputs.shape[1], tree.levels[0].held >= 0.9 - 1e-6
    (16, True)
    """
    require_number(share, f"a share {share} of the weight", "above 0 and at most 1", least=0, most=1)
    if not share:
        raise InputError("a share 0 of the weight; expected above 0 and at most 1")
    require_count(most, f"at most {most} eigenvectors of a layer")
    orthogonal = orthogonalise(chain.to(torch.float64), moment)
    directions, weights = orthogonal.head.T, orthogonal.head.square().sum(0)
    if not weights.any():
        raise InputError("a chain whose tensor is 0; expected weights that are not 0")
    weights, levels = weights / weights.sum(), []
    for layer in reversed(orthogonal.layers):
        levels.append(_level(layer, directions, weights, share, most))
        directions, weights = levels[-1].vectors, levels[-1].weights
    kept = _as_chain(orthogonal, levels)
    remainder = chain_error(chain, kept, moment)
    embedding = orthogonal.embedding.to(chain.dtype)
    shown_levels = tuple(
        replace(
            level,
            values=level.values.to(chain.dtype),
            vectors=level.vectors.to(chain.dtype),
            weights=level.weights.to(chain.dtype),
        )
        for level in levels
    )
    return EigenvectorTree(shown_levels, kept.to(chain.dtype), embedding, remainder)


def _level(layer: BilinearTensor, directions: Tensor, weights: Tensor, share: float, most: int) -> Level:
    eigen = eigendecompose(layer, directions, method="dense")
    squares = eigen.values.square()
    parts = squares / squares.sum(-1, keepdim=True).clamp(min=torch.finfo(squares.dtype).tiny)
    candidates = (weights.unsqueeze(-1) * parts).flatten()
    ordered, order = candidates.sort(descending=True, stable=True)
    held = ordered.cumsum(0)
    n = len(held) if share == 1 else int((held < share * held[-1]).sum()) + 1
    chosen = order[: min(n, most, len(held))]
    return Level(
        parents=chosen // layer.d_in,
        values=eigen.values.flatten()[chosen],
        vectors=eigen.vectors.flatten(0, 1)[chosen],
        weights=candidates[chosen],
        candidates=len(candidates),
    )


def _as_chain(orthogonal: Chain, levels: list[Level]) -> Chain:
    """The chain whose hidden units are the eigenvectors: each layer hands on the directions kept above it."""
    layers: list[BilinearTensor] = []
    n_out = n_parents = orthogonal.head.shape[1]
    for depth, level in enumerate(levels):
        n = len(level.values)
        read = torch.eye(n).to(level.vectors) if depth < len(levels) - 1 else level.vectors.T
        to_parent = torch.nn.functional.one_hot(level.parents, n_parents).to(level.vectors)
        layers.insert(0, BilinearTensor(read * level.values, read, to_parent))
        n_parents = n
    head = torch.eye(n_out).to(orthogonal.head)
    return Chain(orthogonal.embedding, tuple(layers), head, orthogonal.constant)
