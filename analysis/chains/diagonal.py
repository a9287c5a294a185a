"""A chain's legs in coordinates in which they can be cut: orthonormal from below, diagonal from above.

Orthogonalising goes up (arXiv 2504.02667): each leg gets coordinates in which the map from the inputs below
it is an isometry. Its Gram matrix X = RᵀR, taken over the coordinates of the leg below, which are
orthonormal already, becomes the identity when h_l is written as (h_l R⁺) R; the layer above reads R. In the
end the head alone carries the norm of the tree.

Diagonalising goes down. The density matrix of one copy of a leg is the Gram matrix of the whole tree along
it, its sibling and everything else traced out:

    D_L = W_head W_headᵀ,    (D_l-1)_ik = Σ_abj (D_l)_ab (B_l)_aij (B_l)_bkj.

Its trace is ‖T‖² at every leg, and all copies of a leg have the same. Coordinates are its eigenvectors, by
descending eigenvalue: w_li, as a share of ‖T‖². One copy of leg l cut to its first k coordinates costs
exactly Σ_i>k w_li, the least that any k directions cost. All copies of several legs cut to k_l cost

    max_l W_l ≤ ‖T − T'‖² / ‖T‖² ≤ Σ_l 2^(L−l) W_l,    W_l = Σ_i>k_l w_li:

below, because each W_l is the least error of any tensor of that rank along one copy; above, because the cut
tree is T after one orthogonal projection a copy, and each of them adds at most its own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.chains.chain import Chain, chain_error, input_gram
from analysis.spectra.gram import unfolding_gram
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.shown import Words, shown
from bilinear_lm.tensor import BilinearTensor

ROUNDING = torch.finfo(torch.float64).eps
"""Eigenvalues of a d × d Gram matrix below d times this fraction of the largest are 0 to rounding."""


@shown
@dataclass(frozen=True)
class DiagonalChain:
    """A chain in orthonormal, diagonal coordinates, and what each coordinate weighs."""

    chain: Chain
    """The same map; directions of a leg that carry nothing are left out."""
    weights: tuple[Float[Tensor, " k"], ...]
    """w_l of each leg from below, descending; each sums to 1."""
    moment: Float[Tensor, "d_x d_x"] | None
    """The second moment of an input leg that norms are taken with; None for the identity."""
    original_widths: tuple[int, ...]
    """Widths of the legs before."""

    def _first(self) -> dict[str, Any]:
        return {"widths": Words(f"{self.chain.widths} of {self.original_widths}")}

    def truncate(self, ranks: Sequence[int]) -> Chain:
        """The chain with all copies of leg l cut to the first ranks[l] coordinates."""
        self._require(ranks)
        chain, legs = self.chain, list(map(slice, ranks))
        layers = tuple(
            BilinearTensor(layer.W_gate[below], layer.W_in[below], layer.W_out[:, above])
            for layer, below, above in zip(chain.layers, legs[:-1], legs[1:], strict=True)
        )
        return replace(chain, embedding=chain.embedding[:, legs[0]], layers=layers, head=chain.head[legs[-1]])

    def discarded(self, ranks: Sequence[int]) -> tuple[float, ...]:
        """W_l of each leg: the exact cost of cutting one copy of it, as a share of ‖T‖²."""
        self._require(ranks)
        return tuple(
            float(weights.double()[rank:].sum()) for weights, rank in zip(self.weights, ranks, strict=True)
        )

    def predicted(self, ranks: Sequence[int]) -> tuple[float, float]:
        """The least and the largest that ‖T − T'‖² / ‖T‖² can be, from the discarded weights alone."""
        lost = self.discarded(ranks)
        total = sum(copies * each for copies, each in zip(self.chain.copies, lost, strict=True))
        return max(lost), total

    def measured(self, ranks: Sequence[int]) -> float:
        """‖T − T'‖² / ‖T‖² of the truncated tree itself, by inner products of trees."""
        return chain_error(self.chain, self.truncate(ranks), self.moment)

    def ranks_without(self, share: float) -> tuple[int, ...]:
        """The ranks that leave out a share of all inner dimensions, at the least prediction.

        Inner dimensions are those of `original_widths`; the ones that carried nothing count as left out,
        and where they are more than the share, all that are here stay. One stays of each leg.
        """
        require_number(share, f"a share {share} of dimensions", "0 to 1", least=0, most=1)
        costs = torch.cat(
            [
                copies * weights.double()
                for copies, weights in zip(self.chain.copies, self.weights, strict=True)
            ]
        )
        leg = torch.cat([torch.full((len(weights),), at) for at, weights in enumerate(self.weights)])
        first = torch.cat([torch.arange(len(weights)) == 0 for weights in self.weights])
        kept = round((1 - share) * sum(self.original_widths))
        order = torch.where(first, torch.inf, costs.cpu()).argsort(descending=True, stable=True)
        chosen = leg[order[: max(kept, len(self.weights))]]
        return tuple(chosen.bincount(minlength=len(self.weights)).tolist())

    def _require(self, ranks: Sequence[int]) -> None:
        widths = self.chain.widths
        if len(ranks) != len(widths):
            raise InputError(f"{len(ranks)} ranks; expected {len(widths)}, one for each leg from below")
        for at, (rank, width) in enumerate(zip(ranks, widths, strict=True)):
            require_count(rank, f"rank {rank} of leg {at}", f"1 to {width}", most=width)


@checked
def orthogonalise(chain: Chain, moment: Float[Tensor, "d_x d_x"] | None = None) -> Chain:
    """The same map in coordinates of its legs in which the map below each leg is an isometry.

    `moment` is the second moment of an input leg, by default the identity: W_embedᵀ M W_embed becomes the
    identity, and so does the output Gram matrix of each layer. Directions that the map below does not reach
    are left out. ‖T‖ becomes the norm of the head. Computed in float64, returned in the chain's precision.
    InputError for a leg that nothing reaches.
    """
    return _orthogonalise(chain.to(torch.float64), moment).to(chain.dtype)


@checked
def diagonalise(chain: Chain, moment: Float[Tensor, "d_x d_x"] | None = None) -> DiagonalChain:
    """The chain orthogonalised from below, its legs in the eigenvectors of their density matrices.

    Computed in float64, returned in the chain's precision. Without `moment` it is read off the weights
    alone; with the second moment of data, directions of pixels count by how much the data has of them.

    >>> from bilinear_lm.networks import ImageClassifier, ImageSettings
    >>> from analysis.chains.chain import as_chain
    >>> classifier = ImageClassifier(ImageSettings(image_shape=(4, 4), d_model=8, d_mlp=12, n_layers=2))
    >>> diagonal = diagonalise(as_chain(classifier))
    >>> low, high = diagonal.predicted((6, 6, 6))
    >>> low <= diagonal.measured((6, 6, 6)) <= high
    True
    """
    rotated = _orthogonalise(chain.to(torch.float64), moment)
    layers, densities = list(rotated.layers), []
    values, basis = _densest(rotated.head @ rotated.head.T)
    densities.append(values)
    head = basis.T @ rotated.head
    for at in range(len(layers) - 1, -1, -1):
        layer = replace(layers[at], W_out=layers[at].W_out @ basis)
        weighted = replace(layer, W_out=layer.W_out * values.sqrt())
        values, basis = _densest(unfolding_gram(weighted, "input"))
        densities.append(values)
        layers[at] = replace(layer, W_gate=basis.T @ layer.W_gate, W_in=basis.T @ layer.W_in)
    diagonal = replace(rotated, embedding=rotated.embedding @ basis, layers=tuple(layers), head=head)
    weights = tuple((values / values.sum()).to(chain.dtype) for values in reversed(densities))
    return DiagonalChain(diagonal.to(chain.dtype), weights, moment, chain.widths)


def _orthogonalise(chain: Chain, moment: Tensor | None) -> Chain:
    """By two passes: the first one's Gram matrices are the identity up to the rounding of their squares."""
    for _ in range(2):
        R, inverse = _root(input_gram(chain, chain, moment), 0)
        embedding, layers = chain.embedding @ inverse, []
        for at, layer in enumerate(chain.layers):
            layer = replace(layer, W_gate=R @ layer.W_gate, W_in=R @ layer.W_in)
            R, inverse = _root(unfolding_gram(layer), at + 1)
            layers.append(replace(layer, W_out=layer.W_out @ inverse))
        chain = replace(chain, embedding=embedding, layers=tuple(layers), head=R @ chain.head)
    return chain


def _root(gram: Tensor, leg: int) -> tuple[Tensor, Tensor]:
    """R [r, d] with RᵀR = gram, and R⁺ [d, r], over the r directions that are not negligible.

    Coordinates are first brought to length 1, so that units of single coordinates do not matter.
    """
    if not torch.isfinite(gram).all():
        raise InputError(f"leg {leg} of a chain leaves the range of float64; scale the weights below it")
    lengths = gram.diagonal().clamp(min=0).sqrt()
    if not lengths.any():
        raise InputError(f"leg {leg} of a chain is 0 for all inputs; expected weights that are not 0")
    lengths = torch.where(lengths > 0, lengths, 1)
    values, columns = torch.linalg.eigh(gram / lengths / lengths.unsqueeze(1))
    there = values > ROUNDING * len(values) * values[-1]
    values, columns = values[there].sqrt(), columns[:, there]
    return values.unsqueeze(1) * columns.T * lengths, columns / values / lengths.unsqueeze(1)


def _densest(density: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a density matrix, descending, and eigenvectors in columns; those of 0 left out."""
    values, columns = torch.linalg.eigh(density)
    if values[-1] <= 0:
        raise InputError("a chain whose tensor is 0; expected weights that are not 0")
    there = values > ROUNDING * len(values) * values[-1]
    return values[there].flip(0), columns[:, there].flip(1)
