"""Arguments that mean nothing, as users give them: one line of InputError at the call, before any work.

Users have no shape checks, so that here they are off.
"""

import numpy as np
import pytest
import torch

import bilinear_lm as bl
from analysis import (
    FeatureLayer,
    cp_decompose,
    direction_similarity,
    effective_rank,
    eigendecompose,
    eigendecompose_to_folder,
    gaussian_similarity,
    hosvd,
    interaction_index,
    interaction_statistics,
    match_vectors,
    opposing_features,
    pairwise_cosine,
    read_tokens,
    strongest_interactions,
    strongest_patterns,
    strongest_submatrix,
    truncate,
    truncate_eigenvectors,
)
from analysis.features import merged_interactions, split_strongest_interactions
from analysis.interventions import random_interactions
from analysis.spectra import best_assignment, cross_gram, strength, unfolding_gram
from analysis.streaming import PairMoments
from bilinear_lm import BilinearTensor, InputError
from bilinear_lm.polynomials.hermite import hermite_moments

from .arguments import (
    COUNTS,
    INF,
    LAYER,
    NAMES,
    NAN,
    OUT,
    SEEDS,
    SOME,
    TENSORS,
    W_GATE,
    W_IN,
    W_OUT,
    WHOLE,
    D,
    F,
    H,
    T,
    U,
    X,
    draw,
    said,
)

pytestmark = pytest.mark.usefixtures("without_shape_checks")


SETTINGS = {
    "eigendecompose k": (lambda v: eigendecompose(T, U, v), (*COUNTS, D + 1)),
    "eigendecompose method": (lambda v: eigendecompose(T, U, 2, method=v), NAMES),
    "eigendecompose tolerance": (
        lambda v: eigendecompose(T, U, 2, tolerance=v),
        (NAN, INF, 0.0, -1e-3, 1.0, 2, "fine", True),
    ),
    "eigendecompose seed": (lambda v: eigendecompose(T, U, 2, seed=v), SEEDS),
    "eigendecompose_to_folder k": (lambda v: folder(k=v), (*COUNTS, D + 1)),
    "eigendecompose_to_folder method": (lambda v: folder(method=v), NAMES),
    "eigendecompose_to_folder tolerance": (lambda v: folder(tolerance=v), (NAN, -1.0, 0.0, "a")),
    "eigendecompose_to_folder seed": (lambda v: folder(seed=v), SEEDS),
    "eigendecompose_to_folder part_size": (lambda v: folder(part_size=v), COUNTS),
    "hosvd k": (lambda v: hosvd(T, v), (*COUNTS, OUT + 1)),
    "hosvd leg": (lambda v: hosvd(T, 2, v), NAMES),
    "truncation_error k": (lambda v: hosvd(T).truncation_error(v), (*WHOLE, OUT + 1)),
    "truncate k": (lambda v: truncate(T, hosvd(T), v), (*WHOLE, OUT + 1)),
    "truncate_eigenvectors k": (lambda v: truncate_eigenvectors(T, v), (*COUNTS, D + 1)),
    "cross_gram leg": (lambda v: cross_gram(T, T, v), NAMES),
    "unfolding_gram leg": (lambda v: unfolding_gram(T, v), NAMES),
    "cp_decompose d_mlp": (lambda v: cp_decompose(T, v), (*COUNTS, H + 1)),
    "cp_decompose rounds": (lambda v: cp_decompose(T, 3, rounds=v), WHOLE),
    "cp_decompose restarts": (lambda v: cp_decompose(T, 3, restarts=v), WHOLE),
    "cp_decompose tolerance": (lambda v: cp_decompose(T, 3, tolerance=v), (NAN, INF, -1.0, "a", True)),
    "cp_decompose seed": (lambda v: cp_decompose(T, 3, seed=v), SEEDS),
    "strongest_interactions k": (lambda v: strongest_interactions(F, None, v), (*COUNTS, 7 * 36 + 1)),
    "strongest_interactions outputs": (
        lambda v: strongest_interactions(F, [v], 2),
        (-1, 7, 1.0, True, "1", None, torch.tensor(1.0)),
    ),
    "split_strongest_interactions k": (lambda v: split_strongest_interactions(F, None, v), COUNTS),
    "merged_interactions k": (lambda v: merged_interactions([SOME], v), (*COUNTS, 6)),
    "merged_interactions parts": (lambda v: merged_interactions(v, 3), ([], ())),
    "interaction_index k_out": (lambda v: interaction_index(F, v, 2), COUNTS),
    "interaction_index k_in": (lambda v: interaction_index(F, 2, v), COUNTS),
    "interaction_statistics top": (lambda v: interaction_statistics(F, None, v), (*COUNTS, D + 1)),
    "interaction_statistics n_deviations": (
        lambda v: interaction_statistics(F, None, 2, v),
        (NAN, INF, 0, -1, "5", True),
    ),
    "interaction_statistics outputs": (lambda v: interaction_statistics(F, v, 2), ([], [7], [1.0])),
    "strongest_submatrix k": (lambda v: strongest_submatrix(F, 1, v), (*COUNTS, 9)),
    "strongest_submatrix order": (lambda v: strongest_submatrix(F, 1, 3, v), NAMES),
    "strongest_submatrix output": (lambda v: strongest_submatrix(F, v, 3), (-1, 7, 1.0, True, "1")),
    "strongest_patterns pattern": (lambda v: strongest_patterns(F, v), NAMES),
    "strongest_patterns k": (lambda v: strongest_patterns(F, "and", k=v), COUNTS),
    "strongest_patterns ratio": (lambda v: strongest_patterns(F, "and", ratio=v), (NAN, INF, 0.5, -1, "2")),
    "opposing_features k": (lambda v: opposing_features(F, F.outputs, v), COUNTS),
    "opposing_features below": (
        lambda v: opposing_features(F, F.outputs, 3, v),
        (NAN, 0.0, -1.1, 0.5, -INF, "low"),
    ),
    "random_interactions seed": (lambda v: random_interactions(F, SOME, seed=v), SEEDS),
    "random_interactions equal": (lambda v: random_interactions(F, SOME, equal=v), NAMES),
    "random_interactions pools": (lambda v: random_interactions(F, SOME, [v]), ([-1, 2], [8], [1.5, 2.5])),
    "read_tokens k": (lambda v: read_tokens(draw(9), v), (*COUNTS, 10)),
    "hermite_moments order": (lambda v: hermite_moments("relu", draw(2), draw(2).abs(), v), (*WHOLE, 65)),
    "swish beta": (bl.swish, (NAN, INF, "1", None, True)),
    "approximate_mlp degree": (lambda v: bl.approximate_mlp(W_GATE, W_OUT, "relu", degree=v), (*WHOLE, 17)),
    "approximate_glu degree": (lambda v: bl.approximate_glu(*LAYER, "relu", degree=v), (*WHOLE, 17)),
    "approximate_glu activation": (lambda v: bl.approximate_glu(*LAYER, v), NAMES),
    "explained_variance degree": (
        lambda v: bl.explained_variance(bl.GLUWeights(*LAYER), "relu", degree=v),
        (*WHOLE, 33),
    ),
    "explained_variance order": (
        lambda v: bl.explained_variance(bl.GLUWeights(*LAYER), "relu", order=v),
        (*WHOLE, 64),
    ),
    "fit_polynomial degree": (lambda v: bl.fit_polynomial([(X, X)], v), (*WHOLE, 3)),
    "bilinear_approximation activation": (lambda v: bl.bilinear_approximation(*LAYER, v), NAMES),
}


def folder(**changes):
    path = folder.path / "run"
    arguments = {"tensor": T, "u": U, "folder": path, "k": 2} | changes
    try:
        return eigendecompose_to_folder(**arguments)
    finally:
        assert not path.exists()


CASES = [(name, value) for name, (_, values) in SETTINGS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={value!r}" for name, value in CASES])
def test_settings(name, value, tmp_path):
    folder.path = tmp_path
    said(SETTINGS[name][0], value)


TAKES = {
    "eigendecompose u": (lambda v: eigendecompose(T, v, 2), U),
    "interaction_matrix u": (T.interaction_matrix, U),
    "pairwise left": (lambda v: T.pairwise(U, v), X),
    "pairwise u": (lambda v: T.pairwise(v, X), U),
    "change_basis inputs": (lambda v: T.change_basis(inputs=v), X),
    "change_basis outputs": (lambda v: T.change_basis(outputs=v), U),
    "strength u": (lambda v: strength(T, v), U),
    "direction_similarity u": (lambda v: direction_similarity(T, T, v), U),
    "effective_rank": (effective_rank, U),
    "feature layer inputs": (lambda v: FeatureLayer(T, v, U), X),
    "feature layer outputs": (lambda v: FeatureLayer(T, X, v), U),
    "feature layer origin": (lambda v: FeatureLayer(T, X, U, v), X[0]),
    "match_vectors": (lambda v: match_vectors(v, X), X),
    "opposing_features decoder": (lambda v: opposing_features(F, v), F.outputs),
    "correlation": (lambda v: PairMoments.of(v, X), X),
    "gaussian_similarity mean": (lambda v: gaussian_similarity(T, T, mean=v), X[0]),
    "gaussian_similarity cov": (lambda v: gaussian_similarity(T, T, cov=v), X.T @ X),
    "approximate_glu W_gate": (lambda v: bl.approximate_glu(v, W_IN, W_OUT, "relu"), W_GATE),
    "approximate_glu W_out": (lambda v: bl.approximate_glu(W_GATE, W_IN, v, "relu"), W_OUT),
    "approximate_glu mean": (lambda v: bl.approximate_glu(*LAYER, "relu", mean=v), X[0]),
    "approximate_glu cov": (lambda v: bl.approximate_glu(*LAYER, "relu", cov=v), X.T @ X),
    "fit_polynomial x": (lambda v: bl.fit_polynomial([(v, X), (X, X)], 1), X),
    "fit_polynomial y": (lambda v: bl.fit_polynomial([(X, v), (X, X)], 1), X),
    "approximate_mlp W_in": (lambda v: bl.approximate_mlp(v, W_OUT, "relu"), W_GATE),
    "approximate_mlp b_in": (lambda v: bl.approximate_mlp(W_GATE, W_OUT, "relu", v), W_GATE[0]),
    "bilinear_approximation W_in": (lambda v: bl.bilinear_approximation(W_GATE, v, W_OUT, "silu"), W_IN),
    "hermite_moments mean": (lambda v: hermite_moments("relu", v, X.abs()), X),
    "hermite_moments spread": (lambda v: hermite_moments("relu", X, v), X.abs()),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("name", TAKES)
def test_tensors(name, kind):
    call, good = TAKES[name]
    call(good)
    said(call, TENSORS[kind](good))


@pytest.mark.parametrize("kind", ["ints", "bools", "complex", "an array"])
@pytest.mark.parametrize("place", range(3))
def test_weights_that_are_not_floating_point(kind, place):
    factors = [TENSORS[kind](factor) if i == place else factor for i, factor in enumerate(LAYER)]
    text = said(BilinearTensor, *factors)
    assert text.startswith(("W_gate", "W_in", "W_out")[place])
    if kind in ("ints", "bools"):
        assert ".to(torch.float32)" in text


def test_weights_of_integers_are_right_once_converted():
    factors = [(factor * 10).long() for factor in LAYER]
    tensor = BilinearTensor(*(factor.to(torch.float32) for factor in factors))
    gate, into, out = (factor.numpy() for factor in factors)
    B = np.einsum("ih,jh,ho->oij", gate, into, out)
    B = (B + B.transpose(0, 2, 1)) / 2
    assert np.allclose(tensor.dense().numpy(), B)
    assert np.allclose(hosvd(tensor).spectrum, np.linalg.svd(B.reshape(OUT, -1), compute_uv=False), rtol=1e-4)
    with pytest.raises(InputError, match=r"W_gate is in torch.int64"):
        T.to(torch.int64)


NEED_FINITE = {
    "norm": lambda t: t.norm(),
    "inner": lambda t: t.inner(T),
    "cosine": lambda t: t.cosine(T),
    "interaction_matrix": lambda t: t.interaction_matrix(U),
    "dense": lambda t: t.dense(),
    "pairwise": lambda t: t.pairwise(U, X),
    "change_basis": lambda t: t.change_basis(X, U),
    "hosvd": hosvd,
    "hosvd input": lambda t: hosvd(t, leg="input"),
    "unfolding_gram": unfolding_gram,
    "cross_gram": lambda t: cross_gram(T, t),
    "strength": lambda t: strength(t, U),
    "eigendecompose": lambda t: eigendecompose(t, U, 2),
    "cp_decompose": lambda t: cp_decompose(t, 3),
    "pairwise_cosine": lambda t: pairwise_cosine([t, T]),
    "direction_similarity": lambda t: direction_similarity(T, t, U),
    "gaussian_similarity": lambda t: gaussian_similarity(t, T),
    "truncate_eigenvectors": lambda t: truncate_eigenvectors(t, 2),
    "FeatureLayer": lambda t: FeatureLayer(t, X, U),
}


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("name", NEED_FINITE)
def test_weights_that_are_not_finite(name, place, value):
    factors = [factor.clone() for factor in LAYER]
    factors[place][0, 0] = value
    assert "NaN or infinity" in said(NEED_FINITE[name], BilinearTensor(*factors))


@pytest.mark.parametrize(
    "call",
    [
        lambda: BilinearTensor(W_GATE, W_IN.double(), W_OUT),
        lambda: T.interaction_matrix(U.double()),
        lambda: T(X.double()),
        lambda: T.matvec(U[0], X.double()),
        lambda: T.change_basis(X.double()),
        lambda: T.inner(T.to(torch.float64)),
        lambda: cross_gram(T, T.to(torch.float64)),
        lambda: eigendecompose(T, U.double(), 2),
        lambda: FeatureLayer(T, X.double(), U),
        lambda: match_vectors(X, X.double()),
        lambda: bl.approximate_mlp(W_GATE, W_OUT, "relu")(X.double()),
    ],
)
def test_two_precisions(call):
    assert "convert" in said(call)


@pytest.mark.parametrize(
    "call",
    [
        lambda: T.interaction_matrix(U[:, 1:]),
        lambda: T.interaction_matrix(torch.tensor(1.0)),
        lambda: T(X[:, 1:]),
        lambda: eigendecompose(T, U[:, 1:], 2),
        lambda: eigendecompose(T, torch.tensor(1.0), 2),
        lambda: strength(T, U[:, 1:]),
        lambda: effective_rank(torch.tensor(1.0)),
        lambda: match_vectors(X[0], X),
        lambda: match_vectors(X, X[:, 1:]),
        lambda: best_assignment(X[0]),
        lambda: best_assignment(X + 1j),
        lambda: best_assignment(X * NAN),
        lambda: pairwise_cosine([]),
        lambda: pairwise_cosine([BilinearTensor(*(factor[None] for factor in LAYER))]),
        lambda: FeatureLayer(T, X[:0], U),
        lambda: FeatureLayer(T, X, U[:0]),
        lambda: bl.approximate_mlp(W_GATE, W_OUT, "relu")(X[:, 1:]),
    ],
)
def test_shapes(call):
    said(call)


def test_nothing_to_do_is_nothing():
    assert eigendecompose(T, U[:0], 2).values.shape == (0, 2)
    assert T.interaction_matrix(U[:0]).shape == (0, D, D)
    assert T.pairwise(U[:0], X).shape == (0, 4, 4)
    assert T.pairwise(U, X[:0]).shape == (3, 0, 0)
    assert effective_rank(torch.zeros(0, 3)).shape == (0,)
    assert strength(T, U[:0]).shape == (0,)
    assert len(match_vectors(X[:0], X).first) == 0
    assert [len(part) for part in best_assignment(torch.zeros(0, 3))] == [0, 0]
    assert len(strongest_patterns(F, "and", [])) == 0


def test_whole_numbers_of_numpy_and_tensors_of_indices_are_taken():
    assert eigendecompose(T, U, np.int64(2)).values.shape == (3, 2)
    asked = torch.tensor([1, 2, 1])
    result, expected = strongest_interactions(F, asked, 4), strongest_interactions(F, [1, 2], 4)
    assert torch.equal(result.values, expected.values)
