"""Interactions between tokens in the first block, from the weights alone.

A token a reaches the first MLP directly, as W_E[a], or through a head that attends to it, as the virtual
token W_E[a] OV_h. With these as features, what a pair of them adds to the logit of a token t is
W_U[t] · B(f_a, f_b): direct–direct, direct–virtual and virtual–virtual interactions (arXiv 2406.03947,
virtual tokens). There are d_vocab · (d_vocab (1 + n_heads))² of them; they are streamed, never stored.

Scales of norms are taken as 1, and an attention weight as 1: on a prompt the product of the two weights is to
be multiplied with, and the scales to be divided by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.attention.layer import attention_layer
from analysis.features.interactions import Interactions, strongest_interactions
from analysis.features.layer import FeatureLayer
from analysis.paths.components import Component
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.errors import InputError
from bilinear_lm.families import require_plain_blocks
from bilinear_lm.shown import shown
from bilinear_lm.weights import embedding, mlp_tensor, unembedding


@dataclass(frozen=True)
class PathToken:
    """A token, and the path by which it reaches the MLP: the embedding, or a head of layer 0."""

    path: Component
    token: int


@dataclass(frozen=True)
class TokenInteraction:
    """A contribution of two tokens on their paths to an output: value · weight_left · weight_right."""

    output: int
    """The token whose logit is read, or the row of other output directions."""
    left: PathToken
    right: PathToken
    value: float

    @property
    def kind(self) -> str:
        """direct-direct, direct-virtual or virtual-virtual."""
        kinds = ["direct" if part.path.kind == "embedding" else "virtual" for part in (self.left, self.right)]
        return "-".join(sorted(kinds))


@shown
@dataclass(frozen=True)
class TokenPaths:
    """Tokens on their paths as features of the first MLP; made by `token_paths`.

    Feature p · n_tokens + i is token `tokens[i]` on path `paths[p]`. `features` has its matrices, and reads
    along any directions (`features.along`).
    """

    paths: tuple[Component, ...]
    tokens: Int[Tensor, " n_tokens"]
    features: FeatureLayer
    """Outputs are the columns of W_U; its origin is what attention biases write."""

    def linear(self, u: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes n_paths n_tokens"]:
        """Contributions along u of each token on each path alone: past the MLP, and with biases within it."""
        alone = u @ self.features.inputs.T + self.features.linear(u)
        return alone.unflatten(-1, (len(self.paths), -1))

    def constant(self, u: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes"]:
        """The contribution of biases along u without any token."""
        constant, bias = self.features.constant(u), self.features.origin
        return constant if bias is None else constant + u @ bias

    def named(self, interactions: Interactions) -> Iterator[TokenInteraction]:
        """Interactions between the features, with their tokens and paths."""
        for item in interactions:
            yield TokenInteraction(
                item.output, self._path_token(item.left), self._path_token(item.right), item.value
            )

    def _path_token(self, feature: int) -> PathToken:
        path, index = divmod(feature, len(self.tokens))
        return PathToken(self.paths[path], int(self.tokens[index]))


@checked
def token_paths(
    model_or_bridge: nn.Module,
    heads: Sequence[int] | None = None,
    tokens: Sequence[int] | None = None,
    max_bytes: int = 2**32,
) -> TokenPaths:
    """The tokens of a model on their paths into its first MLP, directly and through each head.

    `heads` and `tokens` choose some of them; None: all. Of a deeper model these are the interactions of the
    first block, read by the unembedding directly.

    >>> paths = token_paths(load_pretrained("stories-1l"))  # doctest: +SKIP
    >>> for item in strongest_token_interactions(paths, [target], k=10):  # doctest: +SKIP
    ...     print(item.kind, item.left, item.right, item.value)
    """
    require_plain_blocks(model_or_bridge, "paths of tokens")
    # Values and outputs only: nothing depends on angles, and so on the length of a prompt.
    layer, tensor = attention_layer(model_or_bridge, 0, n_tokens=1), mlp_tensor(model_or_bridge, 0)
    precision = torch.promote_types(tensor.dtype, torch.float32)
    W_E, U = embedding(model_or_bridge).to(precision), unembedding(model_or_bridge).T.to(precision)
    chosen = _chosen(heads, layer.n_heads, "head")
    listed = _chosen(tokens, len(W_E), "token")
    needed = (1 + len(chosen)) * len(listed) * W_E.shape[1] * W_E.element_size()
    if needed > max_bytes:
        raise InputError(
            f"{len(listed)} tokens on {1 + len(chosen)} paths need {needed:,} bytes, more than "
            f"max_bytes={max_bytes:,}; choose fewer heads or tokens, or raise max_bytes"
        )
    x0 = W_E[listed]
    virtual = (x0 @ layer.weights.W_V[chosen]) @ layer.weights.W_O[chosen]
    inputs = torch.cat([x0.unsqueeze(0), virtual]).flatten(0, 1)
    return TokenPaths(
        paths=(Component("embedding"), *(Component("head", 0, head) for head in chosen)),
        tokens=torch.tensor(listed, device=W_E.device),
        features=FeatureLayer(tensor.to(precision), inputs, U, layer.bias),
    )


@checked
def strongest_token_interactions(
    paths: TokenPaths,
    outputs: Sequence[int] | None = None,
    k: int = 50,
    progress: bool = False,
) -> list[TokenInteraction]:
    """The k interactions of largest |value| into the logits of the tokens `outputs`; None: of all tokens.

    Each pair is there once: its value is the coefficient of the product of the two weights, both orders
    together. For other output directions, such as a token against others, give `paths` read along them:
    `strongest_token_interactions(read_along(paths, u))`.
    """
    return list(paths.named(strongest_interactions(paths.features, outputs, k, progress)))


@checked
def read_along(paths: TokenPaths, u: Float[Tensor, "n d_model"]) -> TokenPaths:
    """The same tokens and paths, read along other output directions (`analysis.token_direction`)."""
    return replace(paths, features=paths.features.along(u))


def _chosen(asked: Sequence[int] | None, n: int, what: str) -> list[int]:
    chosen = list(range(n)) if asked is None else list(dict.fromkeys(asked))
    for index in chosen:
        require_index(index, n, what)
    return chosen
