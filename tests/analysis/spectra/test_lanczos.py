"""Lanczos' method against scipy, and on spectra that one row cannot see whole."""

import numpy as np
import pytest
import scipy.linalg
import torch

import analysis.spectra.eigen
from analysis import eigendecompose
from analysis.spectra.lanczos import _largest, lanczos_eigenpairs
from bilinear_lm import BilinearTensor

from .layers import ONE, draw, random_layer, with_spectrum

D, H, OUT = 160, 200, 5


def layer(decay=0.0):
    return random_layer(D, H, OUT, decay)


@pytest.fixture
def alone(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Lanczos' method left a direction to another")

    for name in ("_block", "_dense"):
        monkeypatch.setattr(analysis.spectra.eigen, name, refuse)


@pytest.mark.parametrize("k", [1, 12])
@pytest.mark.parametrize("decay", [0.0, 1.5], ids=["random", "decaying"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_scipy(k, decay, dtype, alone):
    tensor, u = layer(decay), draw(2, 2, OUT, seed=3)
    eigen = eigendecompose(tensor.to(dtype), u.to(dtype), k, method="lanczos")
    matrices, atol = tensor.interaction_matrix(u), 1e-8 if dtype == torch.float64 else 2e-5
    assert eigen.vectors.shape == (2, 2, k, D)
    assert eigen.residuals.max() <= torch.finfo(dtype).eps ** 0.7
    for at in np.ndindex(2, 2):
        values, columns = scipy.linalg.eigh(matrices[at].numpy())
        order = np.argsort(-np.abs(values))
        values, rows = values[order], torch.from_numpy(columns.T[order[:k]].copy())
        scale = abs(values[0])
        assert np.abs(eigen.values[at].numpy() - values[:k]).max() <= atol * scale
        assert eigen.gap[at].item() == pytest.approx((abs(values[k - 1]) - abs(values[k])) / scale, abs=atol)
        ours = eigen.vectors[at].double()
        assert torch.allclose(ours @ ours.mT, torch.eye(k).double(), atol=1e-5)
        if dtype == torch.float64:
            assert torch.allclose((ours @ rows.mT).abs(), torch.eye(k).double(), atol=1e-7)


def test_equal_eigenvalues_as_projectors():
    sizes = [3.0] * 5 + [-3.0] * 3 + [2.0] * 2 + [-1.0] * 4 + [0.1] * (D - 14)
    tensor, rotation = with_spectrum(sizes)
    eigen = eigendecompose(tensor, ONE, 14, method="lanczos")
    for value, n in ((3.0, 5), (-3.0, 3), (2.0, 2), (-1.0, 4)):
        ours = eigen.vectors[(eigen.values - value).abs() < 1e-9]
        theirs = rotation[:, torch.tensor(sizes) == value]
        assert len(ours) == n
        assert torch.allclose(ours.mT @ ours, theirs @ theirs.mT, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_second_of_one_eigenvalue_is_not_passed_over(seed, dtype):
    tensor, _ = with_spectrum([1.0, 1.0, *torch.linspace(0.9, -0.9, D - 2).tolist()])
    matrix, tolerance = tensor.interaction_matrix(ONE).to(dtype), torch.finfo(dtype).eps ** 0.7
    single = lanczos_eigenpairs(matrix.unsqueeze(0), 1, tolerance, seed)
    assert not single.converged or float(single.following) == pytest.approx(1, abs=2 * tolerance)
    eigen = eigendecompose(tensor, ONE, 2, method="lanczos", seed=seed)
    assert torch.allclose(eigen.values, torch.ones(1, 2).double(), atol=1e-9)


@pytest.mark.parametrize("missing", [1.0, -0.85, 0.5])
def test_what_the_first_row_has_no_part_of_is_looked_for(missing):
    """The second half is invariant, and the first row has zeros there: ARPACK cannot get to it."""
    halves = [torch.linspace(0.8, -0.8, D).double(), torch.linspace(missing, 0, D).double()]
    turned = [
        rotation @ torch.diag(values) @ rotation.mT
        for values in halves
        for rotation in [torch.linalg.qr(draw(D, D, seed=5)).Q]
    ]
    rows = draw(2, 2 * D, seed=6)
    rows[0, D:] = 0
    matrix = torch.block_diag(*turned).numpy()
    values, _, whole = _largest(matrix, 3, 1e-8, rows.numpy())
    assert np.abs(values).max() == pytest.approx(0.8)
    assert whole == (abs(missing) < 0.8)


def test_a_basis_that_is_complete_goes_on_from_a_fresh_row(alone):
    values = torch.linspace(2, 1, 20).double() * torch.tensor([1.0, -1.0]).repeat(10)
    tensor, rotation = with_spectrum([*values.tolist(), *[0.0] * (D - 20)])
    eigen = eigendecompose(tensor, ONE, 8, method="lanczos")
    assert torch.allclose(eigen.values, values[:8], atol=1e-12)
    assert torch.allclose((eigen.vectors @ rotation).abs(), torch.eye(8, D).double(), atol=1e-8)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_below_k(rank):
    tensor, _ = with_spectrum([5.0, -2.0, 1.0][:rank] + [0.0] * (D - rank))
    eigen = eigendecompose(tensor, ONE, 6, method="lanczos")
    assert torch.allclose(eigen.values, torch.tensor([5.0, -2.0, 1.0][:rank] + [0.0] * (6 - rank)).double())
    assert torch.allclose(eigen.vectors @ eigen.vectors.mT, torch.eye(6).double(), atol=1e-10)


def test_the_same_again_and_from_another_row_and_one_by_one(alone):
    tensor, u = layer(1.0), draw(4, OUT, seed=3)
    eigen, again = (eigendecompose(tensor, u, 3, method="lanczos", seed=1) for _ in range(2))
    assert torch.equal(eigen.vectors, again.vectors)
    other = eigendecompose(tensor, u, 3, method="lanczos", seed=2)
    single = [eigendecompose(tensor, row, 3, method="lanczos", seed=1).vectors for row in u]
    assert torch.allclose(other.vectors, eigen.vectors, atol=1e-8)
    assert torch.allclose(torch.stack(single), eigen.vectors, atol=1e-8)


def test_none_and_more_than_it_can_do():
    assert eigendecompose(layer(), draw(0, OUT), 4, method="lanczos").vectors.shape == (0, 4, D)
    few = BilinearTensor(draw(12, 30), draw(12, 30, seed=1), draw(30, OUT, seed=2))
    eigen, exact = (eigendecompose(few, draw(OUT), 2, method=method) for method in ("lanczos", "dense"))
    assert torch.allclose(eigen.values, exact.values)


def test_auto_takes_it_for_few_of_many(alone):
    wide = BilinearTensor(draw(320, 40), draw(320, 40, seed=1), draw(40, OUT, seed=2))
    assert eigendecompose(wide, draw(OUT), 3).values.shape == (3,)
