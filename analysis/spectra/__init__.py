"""Decompositions of one tensor (eigenvectors, HOSVD, CP, sparse interactions) and similarity of two."""

from analysis.spectra.cp import CPDecomposition, as_squares, cp_decompose
from analysis.spectra.eigen import (
    Eigendecomposition,
    effective_rank,
    eigendecompose,
    fix_signs,
    shares_of_squares,
)
from analysis.spectra.eigen_folder import load_decomposition, save_decomposition
from analysis.spectra.eigen_run import eigendecompose_to_folder
from analysis.spectra.gram import cross_gram, strength, unfolding_gram
from analysis.spectra.hosvd import HOSVD, hosvd, singular_eigenvectors, truncate, truncate_eigenvectors
from analysis.spectra.similarity import (
    GaussianSimilarity,
    Matching,
    best_assignment,
    direction_similarity,
    gaussian_similarity,
    match_vectors,
    pairwise_cosine,
)
from analysis.spectra.sparse import (
    SharedBasis,
    StrongestEigenvectors,
    in_basis,
    keep_pairs,
    shared_basis,
    strongest_eigenvectors,
)

__all__ = [
    "HOSVD",
    "CPDecomposition",
    "Eigendecomposition",
    "GaussianSimilarity",
    "Matching",
    "SharedBasis",
    "StrongestEigenvectors",
    "as_squares",
    "best_assignment",
    "cp_decompose",
    "cross_gram",
    "direction_similarity",
    "effective_rank",
    "eigendecompose",
    "eigendecompose_to_folder",
    "fix_signs",
    "gaussian_similarity",
    "hosvd",
    "in_basis",
    "keep_pairs",
    "load_decomposition",
    "match_vectors",
    "pairwise_cosine",
    "save_decomposition",
    "shared_basis",
    "shares_of_squares",
    "singular_eigenvectors",
    "strength",
    "strongest_eigenvectors",
    "truncate",
    "truncate_eigenvectors",
    "unfolding_gram",
]
