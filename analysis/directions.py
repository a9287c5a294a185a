"""Output directions named by tokens: one token, or one against its like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.products import strength
from analysis.tokens import token_direction
from analysis.vocabulary import Vocabulary
from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor

SIMILAR = 0.7
"""Output directions with a larger cosine are as good as the same; `strongest` keeps one of them."""


@dataclass(frozen=True)
class OutputDirection:
    """The logit of a token against the mean logit of others; against all tokens where `against` is empty."""

    token: int
    against: tuple[int, ...] = ()

    def vector(self, W_U: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, " d_model"]:
        """u = W_U[token] − mean(W_U[against])."""
        return token_direction(W_U, self.token, list(self.against) or None)


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
