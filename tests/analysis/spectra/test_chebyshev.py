"""The block method against scipy, on spectra with and without gaps, and on what it has to give up."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch

import analysis.spectra.chebyshev
import analysis.spectra.eigen
from analysis import eigendecompose
from analysis.spectra.chebyshev import block_width, largest_eigenpairs, orthonormal
from bilinear_lm import BilinearTensor, InputError

from .layers import ONE, draw, random_layer, with_spectrum

D, H, OUT = 96, 160, 6


def layer(decay=0.0):
    return random_layer(D, H, OUT, decay)


@pytest.fixture
def never_dense(monkeypatch):
    def refuse(*_):
        raise AssertionError("the block method fell back to eigh")

    monkeypatch.setattr(analysis.spectra.eigen, "_dense", refuse)


@pytest.mark.parametrize("decay", [0.0, 1.5], ids=["random", "decaying"])
@pytest.mark.parametrize("k", [1, 4, 16])
def test_against_scipy(decay, k, never_dense):
    tensor, u = layer(decay), draw(2, 2, OUT, seed=3)
    found = eigendecompose(tensor, u, k, method="block")
    assert found.values.shape == found.residuals.shape == (2, 2, k)
    assert found.vectors.shape == (2, 2, k, D)
    matrices = tensor.interaction_matrix(u)
    for at in np.ndindex(2, 2):
        values, columns = scipy.linalg.eigh(matrices[at].numpy())
        order = np.argsort(-np.abs(values))
        values, rows = values[order], columns.T[order]
        scale = abs(values[0])
        assert np.abs(found.values[at].numpy() - values[:k]).max() <= 1e-8 * scale
        assert found.gap[at] == pytest.approx((abs(values[k - 1]) - abs(values[k])) / scale, abs=1e-8)
        for ours, theirs in zip(found.vectors[at].numpy(), rows, strict=False):
            assert np.abs(np.outer(ours, ours) - np.outer(theirs, theirs)).max() <= 1e-8
        errors = found.vectors[at] @ matrices[at] - found.values[at].unsqueeze(-1) * found.vectors[at]
        assert torch.allclose(found.residuals[at] * scale, errors.norm(dim=-1), atol=1e-13 * scale)
        assert found.residuals[at].max() <= 2e-11


def test_against_eigsh():
    tensor, u = layer(1.0), draw(OUT, seed=3)
    found = eigendecompose(tensor, u, 6, method="block")
    values = scipy.sparse.linalg.eigsh(
        tensor.interaction_matrix(u).numpy(), k=6, which="LM", tol=1e-12, return_eigenvectors=False
    )
    assert np.abs(np.sort(found.values.numpy()) - np.sort(values)).max() <= 1e-8 * np.abs(values).max()


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_float32(decay, never_dense):
    tensor, u = layer(decay), draw(5, OUT, seed=3)
    found = eigendecompose(tensor.to(torch.float32), u.float(), 8, method="block")
    exact = eigendecompose(tensor, u, 8, method="block")
    assert found.values.dtype == torch.float32
    scale = exact.values[:, :1].abs()
    assert ((found.values - exact.values).abs() <= 2e-5 * scale).all()
    assert found.residuals.max() <= 1.5e-5
    assert torch.allclose(found.vectors @ found.vectors.mT, torch.eye(8), atol=1e-5)


def test_the_same_in_pieces_and_again_and_from_another_start(monkeypatch):
    tensor, u = layer(1.0), draw(7, OUT, seed=3)
    whole = eigendecompose(tensor, u, 3, method="block", seed=1)
    again = eigendecompose(tensor, u, 3, method="block", seed=1)
    assert torch.equal(whole.vectors, again.vectors)
    other_start = eigendecompose(tensor, u, 3, method="block", seed=2)
    monkeypatch.setattr(analysis.spectra.eigen, "CACHE_BYTES", 1)
    pieces = eigendecompose(tensor, u, 3, method="block", seed=1)
    for other, atol in ((pieces, 1e-13), (other_start, 1e-8)):
        assert torch.allclose(other.values, whole.values, rtol=0, atol=atol * whole.values.abs().max())
        assert torch.allclose(other.vectors, whole.vectors, atol=atol)


def test_a_gpu_takes_pieces_of_a_size_with_its_memory(monkeypatch):
    properties = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert analysis.spectra.eigen._block_bytes(torch.device("cuda")) == 5 * 2**30
    assert analysis.spectra.eigen._block_bytes(torch.device("cpu")) == analysis.spectra.eigen.CACHE_BYTES


def test_constant_coordinate():
    tensor = BilinearTensor.from_layer(
        draw(D, H), draw(D, H, seed=1), draw(H, OUT, seed=2), draw(H, seed=6), draw(H, seed=7), draw(OUT)
    )
    u = draw(3, OUT, seed=3)
    found, exact = (eigendecompose(tensor, u, 5, method=method) for method in ("block", "dense"))
    assert found.vectors.shape == (3, 5, D + 1)
    assert torch.allclose(found.vectors, exact.vectors, atol=1e-8)


def test_one_eigenvalue_far_above_a_flat_rest(never_dense):
    rest = torch.linspace(1, 0.5, D - 1) * torch.tensor([1.0, -1.0]).repeat(D)[: D - 1]
    tensor, rotation = with_spectrum([1e6, *rest.tolist()])
    found = eigendecompose(tensor, ONE, 6, method="block")
    assert torch.allclose(found.values, torch.tensor([1e6, *rest[:5].tolist()]).double(), rtol=1e-5)
    assert torch.allclose((found.vectors @ rotation).abs(), torch.eye(6, D).double(), atol=1e-3)


def test_degenerate_spaces_as_projectors(never_dense):
    sizes = [3.0] * 5 + [-3.0] * 3 + [2.0] * 2 + [-1.0] * 4 + [0.1] * (D - 14)
    tensor, rotation = with_spectrum(sizes)
    found = eigendecompose(tensor, ONE, 14, method="block")
    for value, n in ((3.0, 5), (-3.0, 3), (2.0, 2), (-1.0, 4)):
        ours, theirs = (
            found.vectors[(found.values - value).abs() < 1e-9],
            rotation[:, torch.tensor(sizes) == value],
        )
        assert len(ours) == n
        assert torch.allclose(ours.mT @ ours, theirs @ theirs.mT, atol=1e-8)
    assert found.gap == pytest.approx(0.3)


@pytest.mark.parametrize("method", ["dense", "block"])
@pytest.mark.parametrize("sizes", [[3.0, 3.0, 3.0], [3.0, -3.0, 3.0]], ids=["equal", "opposite"])
def test_a_cut_through_equal_magnitudes_is_told(sizes, method):
    tensor, _ = with_spectrum([*sizes, *[0.5] * (D - 3)])
    found = eigendecompose(tensor, ONE, 2, method=method)
    assert torch.allclose(found.values.abs(), torch.tensor(3.0).double())
    assert found.gap.item() == pytest.approx(0, abs=1e-12)
    assert found.residuals.max() < 1e-10


def test_a_space_of_both_signs_wider_than_the_block_is_done_densely(monkeypatch):
    # Even polynomials of Q cannot tell +1 from −1, and a part of their common space is not invariant.
    tensor, _ = with_spectrum([1.0] * 20 + [-1.0] * 20 + [0.1] * (D - 40))
    u = torch.tensor([[1.0]]).double()
    monkeypatch.setattr(analysis.spectra.chebyshev, "CYCLES", 6)
    start = draw(block_width(4), D)
    assert not largest_eigenpairs(tensor.interaction_matrix(u), start, 4, 1e-10).converged.any()
    found = eigendecompose(tensor, u, 4, method="block")
    assert torch.allclose(found.values.abs(), torch.ones(1, 4).double())
    assert found.residuals.max() < 1e-12


def test_only_what_does_not_converge_is_done_densely(monkeypatch):
    tensor, u = layer(), draw(5, OUT, seed=3)
    exact = eigendecompose(tensor, u, 4, method="dense")
    u[2] = 0  # converges at once; the others have one cycle
    monkeypatch.setattr(analysis.spectra.chebyshev, "CYCLES", 1)
    found = eigendecompose(tensor, u, 4, method="block")
    others = torch.arange(5) != 2
    assert torch.allclose(found.values[others], exact.values[others], rtol=1e-12)
    assert torch.allclose(found.vectors[others], exact.vectors[others], atol=1e-10)
    assert (found.values[2] == 0).all()


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_below_k(rank):
    tensor, rotation = with_spectrum([5.0, -2.0, 1.0][:rank] + [0.0] * (D - rank))
    found = eigendecompose(tensor, ONE, 6, method="block")
    assert torch.allclose(found.values, torch.tensor([5.0, -2.0, 1.0][:rank] + [0.0] * (6 - rank)).double())
    assert torch.allclose(found.vectors @ found.vectors.mT, torch.eye(6).double(), atol=1e-10)
    ours, theirs = found.vectors[:rank], rotation.mT[:rank]
    assert torch.allclose(ours.mT @ ours, theirs.mT @ theirs, atol=1e-8)
    assert found.gap < 1e-10


@pytest.mark.parametrize("factor", [1e-30, 1e15])
def test_very_small_and_very_large_numbers(factor):
    tensor, u = layer(1.0).to(torch.float32), draw(3, OUT, seed=3).float()
    plain, scaled = (eigendecompose(tensor, u * size, 4, method="block") for size in (1.0, factor))
    assert torch.allclose(scaled.values / factor, plain.values, rtol=1e-4)
    assert scaled.residuals.max() <= 1.5e-5
    with pytest.raises(InputError, match="overflow"):
        eigendecompose(tensor, u * 1e38, 4, method="block")


@pytest.mark.parametrize("k", [D - 20, D - 1, D])
def test_k_near_d(k):
    tensor, u = layer(), draw(2, OUT, seed=3)
    found, exact = (eigendecompose(tensor, u, k, method=method) for method in ("block", "dense"))
    assert torch.allclose(found.values, exact.values, atol=1e-8 * exact.values.abs().max())
    assert torch.allclose(found.gap, exact.gap, atol=1e-8)


def test_auto_takes_all_only_for_many(monkeypatch):
    used = []
    for name in ("_block", "_dense", "_lanczos"):
        plain = getattr(analysis.spectra.eigen, name)
        monkeypatch.setattr(
            analysis.spectra.eigen, name, lambda *a, name=name, plain=plain: used.append(name) or plain(*a)
        )
    wide = BilinearTensor(draw(256, 40), draw(256, 40, seed=1), draw(40, OUT, seed=2))
    for k in (1, 200, None):
        eigendecompose(wide, draw(OUT), k)
    assert used == ["_lanczos", "_dense", "_dense"]


def test_no_directions():
    assert eigendecompose(layer(), draw(0, OUT), 4, method="block").vectors.shape == (0, 4, D)


def test_orthonormal_rows_keep_their_order():
    X = draw(1, 6, D)
    X[:, 3] = X[:, 2] + 1e-9 * X[:, 3]  # as good as parallel
    rows = orthonormal(X)
    assert torch.allclose(rows @ rows.mT, torch.eye(6).double(), atol=1e-13)
    assert torch.allclose(rows[0, 0], X[0, 0] / X[0, 0].norm())
    assert torch.allclose(X - X @ rows.mT @ rows, torch.zeros(()).double(), atol=1e-12)


@pytest.mark.parametrize("tolerance", [0.0, 1e-20, 2.0, float("nan")])
def test_bad_tolerance(tolerance):
    with pytest.raises(InputError, match="tolerance"):
        eigendecompose(layer(), draw(OUT), 2, tolerance=tolerance)
