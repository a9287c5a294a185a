"""Pure functions of weights: what bilinear layers compute, and how it is put together."""

from analysis.eigen import Eigendecomposition, effective_rank, eigendecompose, fix_signs
from analysis.gram import output_gram, strength
from analysis.tokens import TokenReading, direct_scores, read_tokens, token_direction, virtual_scores

__all__ = [
    "Eigendecomposition",
    "TokenReading",
    "direct_scores",
    "effective_rank",
    "eigendecompose",
    "fix_signs",
    "output_gram",
    "read_tokens",
    "strength",
    "token_direction",
    "virtual_scores",
]
