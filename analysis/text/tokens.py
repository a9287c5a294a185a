"""Reading directions of the residual stream in tokens: as output directions and as inputs.

An input direction is read **directly**, through the embedding, and through each attention head's OV
circuit, as **virtual tokens**: [W_E; W_E OV_h] (arXiv 2406.03947, language models). Scales of norms are
taken as 1, so scores compare tokens within one reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.text.vocabulary import Vocabulary
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_index
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown


@checked
def token_direction(
    W_U: Float[Tensor, "d_model d_vocab"], token: int, against: list[int] | None = None
) -> Float[Tensor, " d_model"]:
    """The output direction of a token's logit against the mean logit of others.

    u = W_U[token] − mean(W_U[against]); without `against` the mean is over the whole vocabulary, which
    leaves the probabilities unchanged. A token against its like (swim against run, climb, eat, …) shows
    what is particular to it (arXiv 2406.03947, swim).
    """
    for index in [token, *(against or [])]:
        require_index(index, W_U.shape[1], "token")
    mean = W_U.mean(dim=1) if against is None else W_U[:, against].mean(dim=1)
    return W_U[:, token] - mean


@checked
def direct_scores(
    vectors: Float[Tensor, "*axes d_model"], W_E: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "*axes d_vocab"]:
    """How much each token's embedding lies along a direction: v · W_E[t]."""
    _require_width(vectors, W_E.shape[-1])
    return vectors @ W_E.T


@checked
def virtual_scores(
    vectors: Float[Tensor, "*axes d_model"],
    W_E: Float[Tensor, "d_vocab d_model"],
    W_V: Float[Tensor, "n_heads d_model d_head"],
    W_O: Float[Tensor, "n_heads d_head d_model"],
) -> Float[Tensor, "*axes n_heads d_vocab"]:
    """How much of a direction each head writes when it attends to a token: v · (W_E[t] W_V W_O)."""
    _require_width(vectors, W_E.shape[-1])
    read = torch.einsum("...d,hed->...he", vectors, W_O)
    return torch.einsum("...he,hde->...hd", read, W_V) @ W_E.T


@shown
@dataclass(frozen=True)
class TokenReading:
    """The tokens at the two ends of a direction, strongest first."""

    top: Int[Tensor, "*axes k"]
    top_scores: Float[Tensor, "*axes k"]
    bottom: Int[Tensor, "*axes k"]
    bottom_scores: Float[Tensor, "*axes k"]


@checked
def read_tokens(scores: Float[Tensor, "*axes d_vocab"], k: int = 8) -> TokenReading:
    """The k tokens with the highest and the k with the lowest scores.

    The sign of an eigenvector is a convention: its two ends are one pair of opposite meanings.
    """
    require_count(k, f"k={k} tokens", f"1 to {scores.shape[-1]}", most=scores.shape[-1])
    top, bottom = scores.topk(k), scores.topk(k, largest=False)
    return TokenReading(top.indices, top.values, bottom.indices, bottom.values)


def _require_width(vectors: Tensor, d_model: int) -> None:
    if not vectors.ndim or vectors.shape[-1] != d_model:
        raise InputError(f"vectors of shape {list(vectors.shape)}; expected [..., {d_model}], as embeddings")


@dataclass(frozen=True)
class OutputDirection:
    """The logit of a token against the mean logit of others; against all tokens where `against` is empty."""

    token: int
    against: tuple[int, ...] = ()

    def vector(self, W_U: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, " d_model"]:
        """u = W_U[token] − mean(W_U[against])."""
        return token_direction(W_U, self.token, list(self.against) or None)


@checked
def parse_direction(text: str, vocabulary: Vocabulary) -> OutputDirection:
    """The direction that a text asks for: `A`, or `A - B, C, D` for A against the mean of B, C and D.

    The hyphen of a difference has a blank on both sides. Each token is looked up by `Vocabulary.find`:
    as it stands, else with a blank in front; `␣` can be written for a blank that must be there.
    """
    name, separator, others = text.partition(" - ")
    if not separator:
        return OutputDirection(vocabulary.find(text))
    direction = OutputDirection(
        vocabulary.find(name), tuple(vocabulary.find(other.strip()) for other in others.split(","))
    )
    if set(direction.against) == {direction.token}:
        raise InputError(f"direction {text!r} is a token against itself, which is 0; expected another token")
    return direction
