"""Deep chains of bilinear layers as one tensor: a binary tree of the layers' tensors.

    logits = h_L W_head,    h_l = B_l(h_l-1, h_l-1),    h_0 = x W_embed

is a polynomial of degree 2^L in x. Its tensor T has 2^L input legs: each of the two legs of B_L takes the
output of its own copy of B_L-1, and so on down to copies of the embedding. Each B_l is symmetrised in its
inputs, the tree as a whole is not made symmetric in all of its legs: that is the tensor whose norms and
inner products are given here. With biases or residual connections x ends with a constant coordinate, and
each layer has one output more that hands it on.

The legs inside are counted from below: leg l holds h_l, and 2^(L−l) copies of it are in the tree. What two
trees have in common follows from their Gram matrices, level by level from below and without the trees:

    X_0 = W_embedᵀ M W'_embed,    (X_l)_ab = Σ_ijkl (B_l)_aij (B'_l)_bkl (X_l-1)_ik (X_l-1)_jl,

and ⟨T, T'⟩ = Σ_ab (X_L)_ab (W_head W'_headᵀ)_ab, in O(d_mlp² d) time a layer. M is the identity, or a second
moment E[x xᵀ] of inputs: then ⟨T, T⟩ is the mean square of T at 2^L inputs that are drawn one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from analysis.spectra.gram import cross_gram
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_finite_numbers
from bilinear_lm.errors import InputError
from bilinear_lm.networks.image import ImageClassifier, with_linear
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor


@shown
@dataclass(frozen=True)
class Chain:
    """Bilinear layers one after another, with an embedding in front and a head behind.

    >>> from bilinear_lm.networks import ImageClassifier, ImageSettings
    >>> classifier = ImageClassifier(ImageSettings(image_shape=(4, 4), d_model=8, d_mlp=12, n_layers=3))
    >>> chain, x = as_chain(classifier), torch.rand(5, 16)
    >>> chain.widths, torch.allclose(chain(x), classifier(x), atol=1e-5)
    ((8, 8, 8, 8), True)
    """

    embedding: Float[Tensor, "d_x d_first"]
    """W_embed; with the constant coordinate, its row is the last one."""
    layers: tuple[BilinearTensor, ...]
    """The layers, the first one first; what is constant is a coordinate like others to them."""
    head: Float[Tensor, "d_last d_out"]
    constant: bool = False
    """Whether the last input is a constant 1."""

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        ends = [self.embedding.shape[1], *(layer.d_out for layer in self.layers)]
        starts = [*(layer.d_in for layer in self.layers), self.head.shape[0]]
        if not self.layers or ends != starts or any(layer.batch_shape for layer in self.layers):
            raise InputError(
                f"a chain of {len(self.layers)} layers that write widths {ends} and read widths {starts}; "
                "expected one layer or more, without a batch, each as wide as what is read after it"
            )
        factors = [self.embedding, *(layer.W_out for layer in self.layers), self.head]
        if len({(factor.dtype, factor.device) for factor in factors}) > 1:
            raise InputError(
                f"a chain in {', '.join(str(factor.dtype) for factor in factors)}; expected one precision "
                "and device, convert with .to"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the legs inside, from the one above the embedding to the one below the head."""
        return (*(layer.d_in for layer in self.layers), self.head.shape[0])

    @property
    def copies(self) -> tuple[int, ...]:
        """How many copies of each leg are in the tree: 2^L of the lowest, one of the highest."""
        return tuple(2**above for above in range(len(self.layers), -1, -1))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the factors."""
        return self.embedding.dtype

    def to(self, *args: Any, **kwargs: Any) -> Chain:
        """The same chain on another device or in another precision; arguments as for `torch.Tensor.to`."""
        layers = tuple(layer.to(*args, **kwargs) for layer in self.layers)
        embedding, head = (factor.to(*args, **kwargs) for factor in (self.embedding, self.head))
        return replace(self, embedding=embedding, layers=layers, head=head)

    def __call__(self, x: Float[Tensor, "*axes x_width"]) -> Float[Tensor, "*axes d_out"]:
        """The logits of points x [..., d_x], which may leave the constant coordinate out."""
        return self.hidden(x)[-1] @ self.head

    def hidden(self, x: Float[Tensor, "*axes x_width"]) -> list[Float[Tensor, "*axes _"]]:
        """The vectors h_0 to h_L that the legs hold at points x, from below."""
        d_x = self.embedding.shape[0]
        if self.constant and x.ndim and x.shape[-1] == d_x - 1:
            x = F.pad(x, (0, 1), value=1.0)
        if x.ndim == 0 or x.shape[-1] != d_x:
            raise InputError(f"points of shape {list(x.shape)}; expected a last axis of {d_x}")
        legs = [x @ self.embedding]
        for layer in self.layers:
            legs.append(layer(legs[-1]))
        return legs

    def through(
        self, write: Sequence[Float[Tensor, "d_leg k"]], read: Sequence[Float[Tensor, "k d_leg"]]
    ) -> Chain:
        """The chain with h_l replaced by (h_l write_l) read_l at every leg, its legs as wide as k.

        Matrices that are inverse to each other leave the chain the same in other coordinates; an
        orthonormal basis in columns, and its transpose, projects onto its space.
        """
        for name, matrices, widths in (
            ("write", write, [each.shape[0] for each in write]),
            ("read", read, [each.shape[1] for each in read]),
        ):
            if widths != [*self.widths]:
                raise InputError(
                    f"{name}: matrices {[list(each.shape) for each in matrices]} for legs of widths "
                    f"{[*self.widths]}; expected one for each leg"
                )
        layers = tuple(
            BilinearTensor(below @ layer.W_gate, below @ layer.W_in, layer.W_out @ above)
            for layer, below, above in zip(self.layers, read[:-1], write[1:], strict=True)
        )
        return replace(self, embedding=self.embedding @ write[0], layers=layers, head=read[-1] @ self.head)


@checked
def as_chain(classifier: ImageClassifier) -> Chain:
    """The chain of an image classifier, of the pixels [n_pixels] of its images.

    With biases or a residual connection it has the constant coordinate, as an input and as the last of each
    leg. InputError for a kind that is not bilinear.
    """
    settings, d_model = classifier.settings, classifier.settings.d_model
    embedding, head = classifier.W_embed.detach(), classifier.W_head.detach()
    layers = [classifier.tensor(layer) for layer in range(settings.n_layers)]
    if not settings.bias and not settings.residual:
        return Chain(embedding, tuple(layers), head)
    passed_on = torch.eye(d_model).to(embedding) * settings.residual
    b_head = head.new_zeros(head.shape[1]) if classifier.b_head is None else classifier.b_head.detach()
    return Chain(
        torch.block_diag(embedding, embedding.new_ones(1, 1)),
        tuple(_hands_on(with_linear(layer, passed_on)) for layer in layers),
        torch.cat([head, b_head[None]]),
        constant=True,
    )


def _hands_on(tensor: BilinearTensor) -> BilinearTensor:
    """The tensor with one output more, the constant; the constant is a coordinate like others to it."""
    one = F.pad(tensor.W_gate.new_ones(1, 1), (0, 0, tensor.d_in - 1, 0))
    return BilinearTensor(
        torch.cat([tensor.W_gate, one], dim=1),
        torch.cat([tensor.W_in, one], dim=1),
        torch.block_diag(tensor.W_out, one[-1:]),
    )


@checked
def chain_inner(chain: Chain, other: Chain, moment: Float[Tensor, "d_x d_x"] | None = None) -> float:
    """⟨T, T'⟩ of the trees of two chains with the same inputs, outputs and number of layers, in float64.

    `moment` is the M of each input leg, by default the identity. The widths of the chains may differ.
    InputError where the numbers leave the range of float64.
    """
    ours, theirs = (
        (len(each.layers), each.embedding.shape[0], each.head.shape[1], each.constant)
        for each in (chain, other)
    )
    if ours != theirs:
        raise InputError(
            f"chains of (layers, inputs, outputs, constant) {ours} and {theirs}; expected the same"
        )
    chain, other = chain.to(torch.float64), other.to(torch.float64)
    gram = input_gram(chain, other, moment)
    for layer, twin in zip(chain.layers, other.layers, strict=True):
        read = BilinearTensor(gram @ twin.W_gate, gram @ twin.W_in, twin.W_out)
        gram = cross_gram(layer, read)
    inner = float((gram * (chain.head @ other.head.T)).sum())
    if not math.isfinite(inner):
        raise InputError("the norm of a chain's tensor leaves the range of float64; scale its weights")
    return inner


def input_gram(chain: Chain, other: Chain, moment: Tensor | None) -> Float[Tensor, "d_first other_d_first"]:
    """W_embedᵀ M W'_embed of two chains in float64; M is checked."""
    if moment is None:
        return chain.embedding.T @ other.embedding
    d_x = chain.embedding.shape[0]
    require_finite_numbers(moment, "the second moment of the inputs")
    if moment.shape != (d_x, d_x):
        raise InputError(
            f"a second moment {list(moment.shape)} of the inputs; expected {[d_x, d_x]}, the constant "
            "coordinate counted"
        )
    moment = moment.to(chain.embedding)
    return chain.embedding.T @ ((moment + moment.T) / 2) @ other.embedding


@checked
def chain_error(chain: Chain, other: Chain, moment: Float[Tensor, "d_x d_x"] | None = None) -> float:
    """‖T − T'‖² / ‖T‖² of the trees of two chains, from three inner products; T is the first one's.

    Its own error is about 1e-15: it is a difference of numbers that are near 1. InputError for T = 0.

    >>> chain_error(chain, diagonalise(chain).truncate((4, 4, 4, 4)))  # doctest: +SKIP
    0.0312
    """
    whole = chain_inner(chain, chain, moment)
    if not whole:
        raise InputError("the error of a chain whose tensor is 0; expected one that is not")
    cross, part = chain_inner(chain, other, moment), chain_inner(other, other, moment)
    return max(0.0, 1 - 2 * cross / whole + part / whole)


@checked
def second_moment(x: Float[Tensor, "n d"], constant: bool = False) -> Float[Tensor, "d_x d_x"]:
    """E[x xᵀ] over points x, in float64; with the constant coordinate if `constant`."""
    require_finite_numbers(x, "points")
    if not len(x):
        raise InputError("no points to take a second moment of; expected one or more")
    x = F.pad(x.double(), (0, int(constant)), value=1.0)
    return x.T @ x / len(x)
