"""Whole spectra with a few eigenvectors, against dense eigendecompositions in float64."""

import pytest
import torch

import analysis.spectra.spectrum
from analysis import eigendecompose
from analysis.spectra.spectrum import largest_of_spectra, spectrum
from bilinear_lm import BilinearTensor, InputError


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(d=40, h=60, dtype=torch.float64):
    return BilinearTensor(
        *(draw(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(((d, h), (d, h), (h, 7))))
    )


@pytest.fixture(params=[1, 1000], ids=["tridiagonal", "eigh"])
def way(request, monkeypatch):
    monkeypatch.setattr(analysis.spectra.spectrum, "LEAST", request.param)
    monkeypatch.setattr(analysis.spectra.spectrum, "FEW", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 5, 17])
def test_as_all_eigenvectors(way, k, dtype):
    tensor, u = make(dtype=dtype), draw(6, 7, seed=9, dtype=dtype)
    found, exact = spectrum(tensor, u, k), eigendecompose(tensor.to(torch.float64), u.double())
    close = {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(found.values.double(), exact.values, rtol=close, atol=close)
    torch.testing.assert_close(found.vectors.double(), exact.vectors[:, :k], rtol=0, atol=100 * close)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_of_any_size(way, scale):
    tensor, u = make(), draw(3, 7, seed=9)
    found, plain = spectrum(tensor, u * scale, 3), spectrum(tensor, u, 3)
    torch.testing.assert_close(found.values / scale, plain.values)
    torch.testing.assert_close(found.vectors, plain.vectors)


def test_fewer_eigenvalues_than_eigenvectors(way):
    """Of a matrix of rank 2 the other eigenvectors are any that are orthonormal; of zeros, all."""
    rows = draw(2, 40, seed=5)
    tensor = BilinearTensor(rows.T, rows.T, torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64))
    found = spectrum(tensor, torch.eye(2, dtype=torch.float64), 6)
    Q = tensor.interaction_matrix(torch.eye(2, dtype=torch.float64))
    unit = torch.eye(6, dtype=torch.float64).expand(2, -1, -1)
    torch.testing.assert_close(found.vectors @ found.vectors.mT, unit, rtol=0, atol=1e-9)
    wanted = found.values[:, :6, None] * found.vectors
    torch.testing.assert_close(found.vectors @ Q, wanted, rtol=0, atol=1e-8)
    assert int((found.values[0].abs() > 1e-9).sum()) == 2
    assert not found.values[1].any()


def test_equal_eigenvalues_at_both_ends():
    """±1, each 20 times: orthonormal eigenvectors, or the answer says that they are not."""
    basis = torch.linalg.qr(draw(40, 40, seed=3)).Q
    signs = torch.ones(40, dtype=torch.float64).index_fill(0, torch.arange(20), -1)
    matrix = (basis * signs @ basis.T)[None]
    values, vectors, residuals, sound = largest_of_spectra((matrix + matrix.mT) / 2, 4, 1e-9)
    torch.testing.assert_close(values.abs(), torch.ones(1, 40, dtype=torch.float64))
    assert not sound or float((vectors @ vectors.mT - torch.eye(4)).abs().max()) < 1e-9
    assert residuals.shape == (1, 4)


def test_no_directions(way):
    found = spectrum(make(), torch.zeros(0, 7, dtype=torch.float64), 2)
    assert found.values.shape == (0, 40)
    assert found.vectors.shape == (0, 2, 40)


def test_too_many_eigenvectors():
    with pytest.raises(InputError, match="expected 1 to d_in=40"):
        spectrum(make(), draw(1, 7), 41)
