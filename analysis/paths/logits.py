"""The path expansion of a one-layer model: each logit as a sum over paths from tokens.

With the attention patterns A_h and the scales of norms held at their measured values,

    logits = W_U x0 + Σ_h A_h W_U OV_h x0                              direct path, OV paths
           + W_U B(x0, x0)                                             direct–direct
           + 2 Σ_h W_U B(x0, A_h OV_h x0)                              direct–virtual
           + Σ_hh' W_U B(A_h OV_h x0, A_h' OV_h' x0)                   virtual–virtual
           + what biases do, alone and with tokens,

x0 the embeddings. A norm behind attention or MLP (Gemma 2, OLMo 2) is held at its measured scale too, and a
soft cap c tanh(z / c) of the logits (Gemma 2) at its ratio to z. After arXiv 2305.03452 and Elhage et al.
2021. `expand_logits` gives all terms on a prompt; `analysis.paths.tokens` reads the same interactions between
tokens from the weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.paths.components import Component
from analysis.paths.measured import Measured, measure
from analysis.paths.mlp import PathExpansion, expand_mlp
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.errors import InputError
from bilinear_lm.families import logit_soft_cap
from bilinear_lm.shown import shown
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import mlp_tensor, unembedding


@shown
@dataclass(frozen=True)
class LogitExpansion:
    """Logits of a one-layer model on a prompt, as a sum over paths; the last norm's scale is divided by.

    Components are the embedding, the heads (linear in the embeddings of the tokens that they read) and, where
    there are attention biases, their bias, in this order.
    """

    names: tuple[Component, ...]
    skip: Float[Tensor, "*axes pos n_components"]
    """Contributions of each component past the MLP."""
    mlp: PathExpansion
    """Contributions of components and pairs of them through the MLP."""

    @property
    def direct(self) -> Float[Tensor, "*axes pos"]:
        """The direct path: W_U x0."""
        return self.skip[..., 0]

    @property
    def ov(self) -> Float[Tensor, "*axes pos n_heads"]:
        """The OV path of each head: A_h W_U OV_h x0."""
        return self.skip[..., self._heads]

    @property
    def direct_direct(self) -> Float[Tensor, "*axes pos"]:
        """W_U B(x0, x0)."""
        return self.mlp.quadratic[..., 0, 0]

    @property
    def direct_virtual(self) -> Float[Tensor, "*axes pos n_heads"]:
        """2 W_U B(x0, A_h OV_h x0): both orders together."""
        return 2 * self.mlp.quadratic[..., 0, self._heads]

    @property
    def virtual_virtual(self) -> Float[Tensor, "*axes pos n_heads n_heads"]:
        """W_U B(A_h OV_h x0, A_h' OV_h' x0), symmetric: all entries are to be summed."""
        return self.mlp.quadratic[..., self._heads, self._heads]

    @property
    def biases(self) -> Float[Tensor, "*axes pos"]:
        """All terms of the attention's and the MLP's biases, alone and with tokens; 0 without biases."""
        after = self._heads.stop
        quadratic = self.mlp.quadratic
        with_bias = quadratic.sum(dim=(-2, -1)) - quadratic[..., :after, :after].sum(dim=(-2, -1))
        return (
            self.skip[..., after:].sum(dim=-1) + with_bias + self.mlp.linear.sum(dim=-1) + self.mlp.constant
        )

    @property
    def total(self) -> Float[Tensor, "*axes pos"]:
        """The logits: all terms together."""
        return self.skip.sum(dim=-1) + self.mlp.total

    @property
    def _heads(self) -> slice:
        return slice(1, 1 + sum(name.kind == "head" for name in self.names))


@checked
def expand_logits(
    model: nn.Module, ids: Sequence[int] | Int[Tensor, " pos"], tokens: Sequence[int] | None = None
) -> LogitExpansion:
    """The path expansion of the logits of `tokens` (None: all) at each position of a prompt.

    For a transformers model of one layer. Axes: [token, pos, …]. The terms sum to the logits.

    >>> expansion = expand_logits(load_pretrained("stories-1l"), ids, tokens=[42])  # doctest: +SKIP
    >>> expansion.direct.shape, expansion.direct_virtual.shape  # doctest: +SKIP
    (torch.Size([1, 16]), torch.Size([1, 16, 6]))
    """
    measured, U = measure(model, ids), unembedding(model).T
    if tokens is not None:
        for token in tokens:
            require_index(token, len(U), "token")
        U = U[list(tokens)]
    tensor = mlp_tensor(model, 0)
    precision = measured.logits.dtype
    expansion = expand_along(measured, tensor.to(precision), U.to(precision))
    cap = logit_soft_cap(model)
    if cap is None:
        return expansion
    before = expansion.total
    ratio = torch.where(before == 0, torch.ones_like(before), before / (cap * (before / cap).tanh()))
    return LogitExpansion(expansion.names, expansion.skip / ratio.unsqueeze(-1), expansion.mlp.divided(ratio))


@checked
def expand_along(
    measured: Measured, tensor: BilinearTensor, u: Float[Tensor, "*axes d_model"]
) -> LogitExpansion:
    """The path expansion of a measured one-layer model along output directions u, such as columns of W_U.

    The weights of the norms are folded into `tensor` and u (`mlp_tensor`, `unembedding`).
    """
    if len(measured.layers) != 1:
        raise InputError(
            f"the model has {len(measured.layers)} layers; expected one. For a layer of a deeper model, "
            "expand_mlp splits what its MLP writes"
        )
    components, layer = measured.before_mlp(0), measured.layers[0]
    passage, scale = layer.mlp_passage, measured.final_scale
    through = u if passage is None else u * passage.factor
    mlp = expand_mlp(tensor, components.values, layer.ln2_scale, through)
    mlp = mlp.divided(scale if passage is None else scale * passage.scale)
    skip = torch.einsum("spd,...d->...ps", components.values, u) / measured.final_scale.unsqueeze(-1)
    return LogitExpansion(components.names, skip, mlp)
