"""Deep chains of bilinear layers as one tensor: cut to fewer dimensions, or read from the outputs down."""

from analysis.chains.chain import Chain, as_chain, chain_error, chain_inner, second_moment
from analysis.chains.diagonal import DiagonalChain, diagonalise, orthogonalise
from analysis.chains.on_data import Agreement, agreement
from analysis.chains.top_down import EigenvectorTree, Level, unfold

__all__ = [
    "Agreement",
    "Chain",
    "DiagonalChain",
    "EigenvectorTree",
    "Level",
    "agreement",
    "as_chain",
    "chain_error",
    "chain_inner",
    "diagonalise",
    "orthogonalise",
    "second_moment",
    "unfold",
]
