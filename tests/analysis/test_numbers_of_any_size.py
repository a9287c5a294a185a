"""Weights, directions and features of any size: the right number by a dense float64 oracle, or a refusal.

A layer with factors c W has c³ times the tensor. Whatever c is, results in float32 are those of numpy on the
dense tensor in float64, and where float32 cannot hold them there is an InputError, never infinity, NaN or 0.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis import (
    as_squares,
    cp_decompose,
    direction_similarity,
    effective_rank,
    eigendecompose,
    gaussian_similarity,
    hosvd,
    match_vectors,
    pairwise_cosine,
    truncate_eigenvectors,
)
from analysis.spectra import best_assignment, cross_gram, strength
from bilinear_lm import BilinearTensor, InputError, approximate_glu, bilinear_approximation

from .any_size import OUT, D, H, any_scale, assert_right_or_refused, dense, draw, layer, refused, scales


@any_scale
@given(c=scales)
@example(c=1e15)
@example(c=1e19)
@example(c=1e-20)
def test_norm_inner_and_cosine(c):
    tensor, other = layer(c), layer(1 / c, seed=3)
    ours, theirs = dense(tensor), dense(other)
    assert_right_or_refused(tensor.norm, np.linalg.norm(ours))
    assert_right_or_refused(lambda: tensor.inner(other), (ours * theirs).sum(), 1e-3)
    cosine = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert float(tensor.cosine(other)) == pytest.approx(cosine, abs=1e-6)
    assert float(pairwise_cosine([tensor], [other])) == pytest.approx(cosine, abs=1e-6)


@any_scale
@given(c=scales, a=scales)
@example(c=1e15, a=1.0)
@example(c=1e-12, a=1e-25)
@example(c=1e-14, a=1e-14)  # of ordinary size, by way of numbers near the end of the range
@example(c=1e-25, a=1e-14)
def test_interaction_matrices_and_pairs(c, a):
    tensor, u = layer(c, 1 / c, 1.0), (draw(3, OUT, seed=5) * a).float()
    Q = np.einsum("ko,oij->kij", u.double().numpy(), dense(tensor))
    assert_right_or_refused(lambda: tensor.interaction_matrix(u), Q)
    left, right = (draw(7, D, seed=6) * c).float(), (draw(4, D, seed=7) / c).float()
    values = left.double().numpy() @ Q @ right.double().numpy().T
    assert_right_or_refused(lambda: tensor.pairwise(u, left, right), values)


@any_scale
@given(c=scales)
@example(c=1e25)
@example(c=1e-25)
def test_a_basis_of_any_size(c):
    tensor, inputs, outputs = layer(c), (draw(6, D, seed=5) / c).float(), (draw(4, OUT, seed=6)).float()
    F, U = inputs.double().numpy(), outputs.double().numpy()
    expected = np.einsum("ao,oij,bi,cj->abc", U, dense(tensor), F, F)
    assert_right_or_refused(lambda: torch.tensor(dense(tensor.change_basis(inputs, outputs))), expected)


@pytest.mark.parametrize("leg", ["output", "input"])
@any_scale
@given(c=scales)
@example(c=1e15)
@example(c=1e30)
@example(c=1e-30)
def test_hosvd(leg, c):
    tensor, axis = layer(c), 0 if leg == "output" else 1
    unfolded = np.moveaxis(dense(tensor), axis, 0)
    unfolded = unfolded.reshape(len(unfolded), -1)
    U, singular, _ = np.linalg.svd(unfolded, full_matrices=False)
    assert_right_or_refused(lambda: hosvd(tensor, leg=leg).spectrum[:OUT], singular[:OUT])
    assert_right_or_refused(lambda: cross_gram(tensor, tensor, leg), unfolded @ unfolded.T)
    cosines = np.abs(np.sum(hosvd(layer(1.0), 3, leg).directions.double().numpy().T * U[:, :3], axis=0))
    assert np.allclose(cosines, 1, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-100, 1e-60, 1e60, 1e100])
def test_hosvd_in_float64(scale):
    tensor = layer(1.0).to(torch.float64)
    plain = hosvd(tensor)
    large = hosvd(BilinearTensor(tensor.W_gate * scale, tensor.W_in * scale, tensor.W_out))
    assert torch.allclose(large.spectrum, plain.spectrum * scale**2, rtol=1e-7)
    assert large.truncation_error(2) == pytest.approx(plain.truncation_error(2), rel=1e-7)


@pytest.mark.parametrize("method", ["dense", "block"])
@any_scale
@given(c=scales, a=scales)
@example(c=1e-12, a=1.0)
@example(c=1e15, a=1e-25)
def test_eigendecompose(method, c, a):
    tensor, u = layer(c), (draw(2, OUT, seed=5) * a).float()
    Q = np.einsum("ko,oij->kij", u.double().numpy(), dense(tensor))
    values = np.linalg.eigvalsh(Q)
    order = np.argsort(-np.abs(values), axis=1)[:, :3]
    expected = np.take_along_axis(values, order, axis=1)
    assert_right_or_refused(lambda: eigendecompose(tensor, u, 3, method=method).values, expected)
    result = refused(lambda: eigendecompose(tensor, u, 3, method=method))
    if result is None:
        return
    assert result.residuals.max() < 2e-5
    plain = eigendecompose(layer(1.0), draw(2, OUT, seed=5).float(), 3, method=method)
    assert torch.allclose((plain.vectors * result.vectors).sum(-1).abs(), torch.ones(2, 3), atol=1e-4)


@any_scale
@given(c=st.floats(-37, 37).map(lambda power: 10.0**power), k=st.integers(1, 30))
@example(c=1e30, k=2)
@example(c=1e-30, k=2)
def test_effective_rank(c, k):
    values = torch.full((k,), c)
    assert float(effective_rank(values)) == pytest.approx(k, rel=1e-6)
    spectrum = (draw(3, k) * c / 100).float()
    sizes = np.abs(spectrum.double().numpy() / c)
    expected = sizes.sum(1) ** 2 / (sizes**2).sum(1)
    assert np.allclose(effective_rank(spectrum).numpy(), expected, rtol=1e-5)


def test_zeros_have_no_rank_and_no_cosine():
    zero, one = BilinearTensor(torch.zeros(D, H), torch.zeros(D, H), torch.zeros(H, OUT)), layer(1.0)
    assert float(effective_rank(torch.zeros(4))) == float(effective_rank(torch.zeros(0))) == 0
    assert float(zero.cosine(one)) == float(zero.cosine(zero)) == float(zero.norm()) == 0
    assert pairwise_cosine([zero, one]).tolist() == [[0, 0], [0, pytest.approx(1)]]
    assert hosvd(zero).rank == 0
    assert hosvd(zero).truncation_error(1) == 0
    assert not eigendecompose(zero, torch.ones(OUT), 3).values.any()
    assert not direction_similarity(zero, one, torch.eye(OUT)).any()


@any_scale
@given(c=scales)
@example(c=1e20)
def test_strength_and_similarity_of_directions(c):
    tensor, other = layer(c), layer(1 / c, seed=3)
    u, v = (draw(4, OUT, seed=5) / c).float(), (draw(3, OUT, seed=6) * c).float()
    Q = np.einsum("ko,oij->kij", u.double().numpy(), dense(tensor)).reshape(4, -1)
    R = np.einsum("ko,oij->kij", v.double().numpy(), dense(other)).reshape(3, -1)
    sizes, other_sizes = np.linalg.norm(Q, axis=1), np.linalg.norm(R, axis=1)
    assert_right_or_refused(lambda: strength(tensor, u), sizes)
    expected = (Q / sizes[:, None]) @ (R / other_sizes[:, None]).T
    assert np.allclose(direction_similarity(tensor, other, u, v).numpy(), expected, atol=1e-5)


@settings(max_examples=4, deadline=None)
@given(c=scales)
@example(c=1e18)
def test_cp_decompose_and_squares(c):
    factor = c ** (1 / 3)
    plain = cp_decompose(layer(1.0, d_in=6), 4, rounds=2)
    tensor = layer(factor, d_in=6)
    result = cp_decompose(tensor, 4, rounds=2)
    assert result.relative_error == pytest.approx(plain.relative_error, abs=1e-5)
    assert result.cosine == pytest.approx(plain.cosine, abs=1e-5)
    assert float(result.tensor.cosine(tensor)) == pytest.approx(plain.cosine, abs=1e-5)
    skew = layer(c, 1 / c, 1.0, d_in=6)
    assert_right_or_refused(lambda: as_squares(skew).dense(), dense(skew))


@any_scale
@given(c=scales)
@example(c=1e-25)
def test_gaussian_similarity(c):
    tensor, other = layer(c ** (1 / 3)), layer(1.0, seed=3)
    ours, theirs = dense(tensor), dense(other)
    expected = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert gaussian_similarity(tensor, other).correlation == pytest.approx(expected, abs=1e-6)
    cov = draw(D, D, seed=8)
    cov = cov @ cov.T
    small = gaussian_similarity(tensor, other, cov=cov * 1e-15)
    assert small.correlation == pytest.approx(gaussian_similarity(tensor, other, cov=cov).correlation)
    with pytest.raises(InputError, match="cov is not symmetric"):
        gaussian_similarity(tensor, other, cov=(cov + torch.eye(D).double().roll(1, 0)) * 1e-20)


@any_scale
@given(c=scales)
@example(c=1e-30)
@example(c=1e30)
def test_matching(c):
    first, second = draw(5, 8), draw(4, 8, seed=1)
    plain = match_vectors(first, second)
    scaled = match_vectors((first * c).float(), (second / c).float())
    assert scaled.first.tolist() == plain.first.tolist()
    assert scaled.second.tolist() == plain.second.tolist()
    assert torch.allclose(scaled.cosines.double(), plain.cosines, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e307])
def test_assignment(scale):
    scores = draw(4, 6)
    totals = {
        p: sum(float(scores[i, j]) for i, j in enumerate(p)) for p in itertools.permutations(range(6), 4)
    }
    rows, columns = best_assignment(scores / scores.abs().max() * scale)
    assert rows.tolist() == [0, 1, 2, 3]
    assert tuple(columns.tolist()) == max(totals, key=totals.__getitem__)


@any_scale
@given(c=scales)
def test_truncation_to_eigenvectors(c):
    factor = c ** (1 / 3)
    plain, scaled = (
        truncate_eigenvectors(layer(1.0, d_in=6), 2),
        truncate_eigenvectors(layer(factor, d_in=6), 2),
    )
    assert float(scaled.cosine(plain)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("activation", ["relu", "linear", "silu"])
@any_scale
@given(c=scales)
@example(c=1e15)
@example(c=1e-20)
def test_polynomials_and_bilinear_layers(activation, c):
    tensor = layer(c, d_in=6)
    weights = tensor.W_gate, tensor.W_in, tensor.W_out
    exact = approximate_glu(*(weight.double() for weight in weights), activation)
    x = draw(50, 6, seed=9)
    expected = exact(x).numpy()
    for approximate in (approximate_glu, bilinear_approximation):
        assert_right_or_refused(
            lambda approximate=approximate: approximate(*weights, activation).to(torch.float64)(x),
            expected,
            1e-4,
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    tensor = layer(1.0).to(dtype)
    B = dense(tensor)
    eps = float(torch.finfo(dtype).eps)
    assert float(tensor.norm()) == pytest.approx(np.linalg.norm(B), rel=eps)
    assert float(tensor.cosine(tensor)) == pytest.approx(1, abs=eps)
    assert hosvd(tensor, 2).singular_values.dtype == dtype
    assert float(effective_rank(torch.ones(1000, dtype=dtype))) == 1000
    with pytest.raises(InputError, match=f"norms of tensors overflow {torch.float16}"):
        layer(100.0).to(torch.float16).norm()
    with pytest.raises(InputError, match=r"convert with tensor\.to\(torch.float32\)"):
        eigendecompose(tensor, torch.ones(OUT, dtype=dtype), 2)
