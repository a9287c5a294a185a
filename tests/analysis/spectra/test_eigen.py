"""Eigenvectors against scipy in float64, and the rules of order and sign."""

import numpy as np
import pytest
import scipy.linalg
import torch

import bilinear_lm.numerics.memory
from analysis import effective_rank, eigendecompose
from analysis.spectra import fix_signs, strength
from bilinear_lm import BilinearTensor, InputError

D, H, OUT = 12, 30, 7


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tensor():
    return BilinearTensor(draw(D, H), draw(D, H, seed=1), draw(H, OUT, seed=2))


@pytest.mark.parametrize("chunk", [2**28, 1], ids=["whole", "chunked"])
@pytest.mark.parametrize("k", [None, 1, 5])
def test_against_scipy(tensor, k, chunk, monkeypatch):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
    u = draw(2, 3, OUT, seed=3)
    found = eigendecompose(tensor, u, k)
    k = k or D
    assert found.values.shape == (2, 3, k)
    assert found.vectors.shape == (2, 3, k, D)
    dense = torch.einsum("...o,oij->...ij", u, tensor.dense())
    for index in np.ndindex(2, 3):
        values, columns = scipy.linalg.eigh(dense[index].numpy())
        order = np.argsort(-np.abs(values))[:k]
        assert np.abs(found.values[index].numpy() - values[order]).max() <= 1e-8 * np.abs(values).max()
        for ours, theirs in zip(found.vectors[index].numpy(), columns[:, order].T, strict=True):
            assert np.abs(np.outer(ours, ours) - np.outer(theirs, theirs)).max() <= 1e-8


def test_activations_sum_to_the_output(tensor):
    u, x = draw(OUT, seed=3), draw(20, D, seed=4)
    found = eigendecompose(tensor, u)
    assert torch.allclose(found.activations(x).sum(-1), tensor(x) @ u, atol=1e-10)


def test_degenerate_eigenspaces_are_right_as_projectors():
    # Q = diag(2, 2, −2, 1, 0, 0): the eigenvectors are arbitrary within each space, the projectors are not.
    diagonal = torch.tensor([2.0, 2.0, -2.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    rotation = torch.linalg.qr(draw(6, 6)).Q
    tensor = BilinearTensor(rotation * diagonal, rotation, torch.ones(6, 1, dtype=torch.float64))
    found = eigendecompose(tensor, torch.ones(1, dtype=torch.float64))
    assert torch.allclose(found.values.abs(), diagonal.abs(), atol=1e-12)
    for value in (2.0, -2.0, 1.0, 0.0):
        ours = found.vectors[(found.values - value).abs() < 1e-9]
        theirs = rotation[:, diagonal == value]
        assert torch.allclose(ours.mT @ ours, theirs @ theirs.mT, atol=1e-10)


def test_sign_rule(tensor):
    vectors = eigendecompose(tensor, draw(OUT)).vectors
    assert (vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True)) > 0).all()
    assert torch.equal(fix_signs(-vectors), vectors)


def test_effective_rank():
    values = torch.tensor([[3.0, 0, 0, 0], [1, -1, 1, -1], [0, 0, 0, 0]])
    assert effective_rank(values).tolist() == [1.0, 4.0, 0.0]


def test_strength_is_the_norm_of_the_interaction_matrix(tensor, monkeypatch):
    u = draw(5, OUT, seed=3)
    matrices = tensor.interaction_matrix(u)
    assert torch.allclose(strength(tensor, u), matrices.flatten(1).norm(dim=1))
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", 1)
    assert torch.allclose(strength(tensor, u), matrices.flatten(1).norm(dim=1))


@pytest.mark.parametrize(
    ("u", "k", "message"),
    [
        (draw(OUT + 1), None, "output direction of width 8; expected d_out=7"),
        (draw(OUT), D + 1, "k=13 eigenvectors; expected 1 to d_in=12"),
        (draw(OUT) * torch.nan, None, "NaN"),
    ],
)
def test_bad_input(tensor, u, k, message):
    with pytest.raises(InputError, match=message):
        eigendecompose(tensor, u, k)
