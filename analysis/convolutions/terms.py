"""A number read off a bilinear convolution, as a sum of terms: spatial parts times squares of filters.

A vector of interest V [c, h, w] reads the layer's output as ⟨V, y⟩: an eigenvector of a policy's logit, the
gradient of a value, a probe. Its singular value decomposition splits channels from places,

    V = Σ_j S_j u_j s_jᵀ,        u_j [c], s_j [h, w]

and the eigenfilters of each channel part u_j (`analysis.convolutions.filters`) make it a sum,

    ⟨V, y(x)⟩ = Σ_ji  S_j λ_ji Σ_place s_j(place) (f_ji ∗ x)²(place)  +  direct(x)

with direct(x) the residual path and what biases give, linear in x. The sum is exact, so that any of its terms
are a claim with an exact rest: a term is dropped by putting its mean over data in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.convolutions.filters import ConvolutionalLayer, eigenfilters
from analysis.convolutions.interest import SplitDirection, split_direction
from analysis.streaming import PairMoments
from bilinear_lm.arguments import checked
from bilinear_lm.checks import (
    require_choice,
    require_index,
    require_seed,
)
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolution import Placing, require_images
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.shown import shown

Energy = Literal["spectrum", "variance"]


@shown
@dataclass(frozen=True)
class Terms:
    """The terms of ⟨V, y⟩, part by part and within a part by |λ| descending; and what is direct."""

    eigenvalues: Float[Tensor, " terms"]
    """λ of each term; of a block its gain is in it."""
    filters: Float[Tensor, "terms c_in kh kw"]
    """The eigenfilter of each term."""
    part: Int[Tensor, " terms"]
    """The index of each term's part j."""
    parts: SplitDirection
    """Channel and spatial parts of V."""
    linear: Float[Tensor, "parts c_in kh kw"]
    """The linear filter of each part."""
    constant: Float[Tensor, " parts"]
    """The constant of each part at a place."""
    placing: Placing

    def __len__(self) -> int:
        """The number of terms."""
        return len(self.eigenvalues)

    def __getitem__(self, index: slice | Sequence[int] | Int[Tensor, " n"]) -> Terms:
        """Some of the terms, beside the same direct part: what is left out is the rest of the sum."""
        chosen = {name: getattr(self, name)[index] for name in ("eigenvalues", "filters", "part")}
        return replace(self, **chosen)

    @property
    def weights(self) -> Float[Tensor, " terms"]:
        """S_j |λ_ji| of each term."""
        return self.parts.sizes[self.part] * self.eigenvalues.abs()

    @property
    def by_weight(self) -> Int[Tensor, " terms"]:
        """The indices of the terms by S|λ| descending."""
        return self.weights.argsort(descending=True, stable=True)

    def values(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n terms"]:
        """S λ Σ_place s (f ∗ x)² of each term at images x, the layer's inputs."""
        spatial = self.parts.spatial.flatten(1)[self.part]  # [terms, places]
        scale = self.parts.sizes[self.part] * self.eigenvalues
        pieces = [
            torch.einsum("ntp,tp->nt", self._laid(piece, self.filters).square(), spatial) * scale
            for piece in self._pieces(x, len(self))
        ]
        return torch.cat(pieces)

    def direct(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, " n"]:
        """The residual path and what biases give, linear in x."""
        spatial = self.parts.sizes[:, None] * self.parts.spatial.flatten(1)
        pieces = [
            (self._laid(piece, self.linear, self.constant) * spatial).sum((-2, -1))
            for piece in self._pieces(x, len(self.linear))
        ]
        return torch.cat(pieces)

    def on(self, x: Float[Tensor, "n c_in h w"]) -> TermValues:
        """The values of the terms, and what is direct, at images x."""
        return TermValues(self.values(x), self.direct(x))

    def maps(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n terms h_out w_out"]:
        """S λ s(place) (f ∗ x)²(place): what each place adds to each term."""
        squares = self._laid(x, self.filters).square()
        scale = self.parts.sizes[self.part] * self.eigenvalues
        maps = squares * (scale[:, None] * self.parts.spatial.flatten(1)[self.part])
        return maps.unflatten(-1, tuple(self.parts.spatial.shape[1:]))

    def moments(self, batches: Iterable[Float[Tensor, "n c_in h w"]]) -> TermMoments:
        """Means and variances of the terms over batches of images, which stream by."""
        total = None
        for x in batches:
            values = self.on(x)
            seen = PairMoments.of(values.values, values.total.unsqueeze(1))
            total = seen if total is None else total + seen
        if total is None:
            raise InputError("no batches of images; expected one or more")
        count, like = total.count, self.eigenvalues
        return TermMoments(
            total.mean_x.to(like), (total.xx / count).to(like), (total.xy / total.yy).nan_to_num().to(like)
        )

    def _pieces(self, x: Tensor, n_filters: int) -> Iterable[Tensor]:
        require_images(x, self.filters.shape[1])
        if x.ndim != 4:
            raise InputError(f"images {list(x.shape)}; expected [n, {self.filters.shape[1]}, h, w]")
        places = self.parts.spatial[0].numel()
        return x.split(rows_at_once(2 * max(1, n_filters) * places * x.element_size()))

    def _laid(
        self, x: Tensor, filters: Tensor, bias: Tensor | None = None
    ) -> Float[Tensor, "n terms places"]:
        laid, expected = self.placing.lay(x, filters, bias), tuple(self.parts.spatial.shape[1:])
        if tuple(laid.shape[-2:]) != expected:
            raise InputError(
                f"images {list(x.shape)}, on which the layer has {list(laid.shape[-2:])} places; expected "
                f"the {list(expected)} of the vector of interest"
            )
        return laid.flatten(-2)


@shown
@dataclass(frozen=True)
class TermMoments:
    """Means and variances of terms over data."""

    mean: Float[Tensor, " terms"]
    variance: Float[Tensor, " terms"]
    share: Float[Tensor, " terms"]
    """Cov(term, whole) / Var(whole): with that of what is direct they sum to 1. Below 0: it cancels."""

    @property
    def by_variance(self) -> Int[Tensor, " terms"]:
        """The indices of the terms by variance descending."""
        return self.variance.argsort(descending=True, stable=True)


@shown
@dataclass(frozen=True)
class TermValues:
    """The terms of ⟨V, y⟩ on n inputs, and what is direct."""

    values: Float[Tensor, "n terms"]
    direct: Float[Tensor, " n"]

    @property
    def total(self) -> Float[Tensor, " n"]:
        """⟨V, y⟩."""
        return self.values.sum(1) + self.direct

    def drop(
        self,
        indices: Sequence[int] | Int[Tensor, " k"],
        means: Float[Tensor, " terms"] | None = None,
        *,
        control: TermValues | None = None,
    ) -> Float[Tensor, " n"]:
        """The whole, with the mean of each dropped term in its place; by default that over these inputs.

        With `control`, its terms of these indices are taken from the whole instead, less their means.
        """
        of = self if control is None else control
        dropped, means = of._chosen(indices, means)
        return self.total - (of.values[:, dropped] - means[dropped]).sum(1)

    def keep(
        self, indices: Sequence[int] | Int[Tensor, " k"], means: Float[Tensor, " terms"] | None = None
    ) -> Float[Tensor, " n"]:
        """The kept terms and what is direct, with the mean of every other term in its place."""
        kept, means = self._chosen(indices, means)
        return self.direct + means.sum() + (self.values[:, kept] - means[kept]).sum(1)

    def _chosen(self, indices: Sequence[int] | Tensor, means: Tensor | None) -> tuple[Tensor, Tensor]:
        listed = indices.tolist() if isinstance(indices, Tensor) else list(indices)
        for index in listed:
            require_index(index, self.values.shape[1], "term")
        if len({*listed}) < len(listed):
            raise InputError(f"terms {listed[:8]}; expected each once")
        means = self.values.mean(0) if means is None else means
        if means.shape != self.values.shape[1:]:
            raise InputError(f"means {list(means.shape)} for {self.values.shape[1]} terms; expected one each")
        return torch.tensor(listed, dtype=torch.long, device=self.values.device), means


@checked
def decompose_terms(conv: ConvolutionalLayer, vector: Float[Tensor, "c h w"]) -> Terms:
    """All terms of ⟨V, y⟩ for a vector of interest V [c_out, h_out, w_out] of a layer's output y.

    Of a `BilinearBlock` y is the whole block, and what is direct holds its residual path.

    >>> conv = BilinearConv2d(3, 8, 3, padding=1)
    >>> V, x = torch.randn(8, 6, 6), torch.rand(20, 3, 6, 6)
    >>> terms = decompose_terms(conv, V)
    >>> torch.allclose(terms.on(x).total, (conv(x) * V).sum((1, 2, 3)), atol=1e-3)
    True

    InputError for a vector of another number of channels, and one that is not finite.
    """
    parts = split_direction(vector)
    eigen = eigenfilters(conv, parts.channels)
    n_parts, k = eigen.values.shape
    part = torch.arange(n_parts, device=vector.device).repeat_interleave(k)
    filters, values = eigen.filters.flatten(0, 1), eigen.values.flatten()
    return Terms(values, filters, part, parts, eigen.linear, eigen.constant, eigen.placing)


@checked
def random_terms(
    terms: Terms,
    seed: int = 0,
    *,
    energy: Energy = "spectrum",
    x: Float[Tensor, "n c_in h w"] | None = None,
) -> Terms:
    """Control terms of the same support and energy, random one beside each term: they decompose nothing.

    Within each part the filters are turned by a random rotation of the space they span, the range of its
    interaction matrix: random filters of all patches would mostly fall where the layer reads nothing, which
    makes a weak control. Sizes, spatial parts and eigenvalues stay. With energy "variance" each eigenvalue is
    scaled so that its term has the variance on images x that the term in whose place it stands has.

    `terms` are all that `decompose_terms` gives; choose some of the result by index, as of theirs.
    """
    require_seed(seed)
    require_choice(energy, get_args(Energy), "energy")
    if (x is None) == (energy == "variance"):
        raise InputError(f"energy {energy!r} {'without' if x is None else 'with'} images; variance needs x")
    draws = torch.Generator().manual_seed(seed)
    rows, filters = terms.filters.flatten(1), torch.empty_like(terms.filters.flatten(1))
    for part in terms.part.unique().tolist():
        here = (terms.part == part).nonzero().squeeze(1)
        normal = torch.randn(len(here), len(here), generator=draws, dtype=torch.float64)
        rotation = torch.linalg.qr(normal).Q.to(rows)
        filters[here] = rotation @ rows[here]
    turned = replace(terms, filters=filters.view_as(terms.filters))
    if x is None:
        return turned
    aimed, got = (each.values(x).var(0) for each in (terms, turned))
    scale = (aimed / got.clamp(min=torch.finfo(got.dtype).tiny)).sqrt()
    return replace(turned, eigenvalues=turned.eigenvalues * scale)
