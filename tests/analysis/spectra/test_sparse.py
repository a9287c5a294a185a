"""Pairs of a shared basis: their weights and what is kept, against dense tensors; planted sparse bases."""

from functools import partial

import numpy as np
import pytest
import torch

from analysis.spectra.sparse import fewest, in_basis, keep_pairs, shared_basis, strongest_eigenvectors
from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor

D, H, OUT = 6, 9, 4


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(seed: int = 0, constant: bool = False) -> BilinearTensor:
    shapes = (D, H), (D, H), (H, OUT)
    return BilinearTensor(*(draw(*shape, seed=seed + i) for i, shape in enumerate(shapes)), constant=constant)


def rotation(seed: int = 9, d: int = D) -> torch.Tensor:
    return torch.linalg.qr(draw(d, d, seed=seed)).Q


def planted(seed: int = 0) -> tuple[BilinearTensor, torch.Tensor]:
    """A tensor that one basis makes diagonal, but whose HOSVD leaves every basis: all entries are ±1."""
    basis, signs = rotation(seed), draw(D, 5, seed=seed + 1).sign()
    return BilinearTensor(basis.T, basis.T, signs), basis


def test_weights_are_shares_of_the_dense_tensor():
    tensor, basis = layer(), rotation()
    C = np.einsum("pi,aij,qj->apq", basis.numpy(), tensor.dense().numpy(), basis.numpy())
    expected, total = np.zeros((D, D)), (C**2).sum()
    for i in range(D):
        for j in range(i, D):
            expected[i, j] = ((C[:, i, j] ** 2).sum() + (i != j) * (C[:, j, i] ** 2).sum()) / total
    np.testing.assert_allclose(in_basis(tensor, basis).weights.numpy(), expected, atol=1e-14)


def test_needed_and_strongest_count_the_largest_weights():
    found = in_basis(layer(), rotation())
    weights = np.sort(found.weights.numpy()[np.triu_indices(D)])[::-1]
    for share in (0.0, 0.5, 0.9, 1.0):
        n = found.needed(share)
        assert weights[:n].sum() >= share - 1e-12
        assert n == 1 or weights[: n - 1].sum() < share
    pairs = found.strongest(7)
    assert [float(found.weights[i, j]) for i, j in pairs.tolist()] == pytest.approx(weights[:7].tolist())
    assert fewest(torch.tensor([0.5, 0.5, 0.0]), 1.0) == 2


@pytest.mark.parametrize("constant", [False, True])
def test_the_error_of_what_is_kept_is_the_weight_that_is_not(constant):
    tensor = layer(constant=constant)
    found = in_basis(tensor, rotation())
    for n in (1, 5, D * (D + 1) // 2):
        pairs = found.strongest(n)
        kept = keep_pairs(tensor, found.directions, pairs)
        assert (kept.constant, kept.d_mlp) == (constant, n)
        lost = (tensor.dense() - kept.dense()).square().sum() / tensor.dense().square().sum()
        left = 1 - float(found.weights[pairs[:, 0], pairs[:, 1]].sum())
        assert float(lost) == pytest.approx(left, abs=1e-12)
    torch.testing.assert_close(kept.dense(), tensor.dense())


@pytest.mark.parametrize("objective", ["absolute", "diagonal"])
def test_a_planted_basis_is_found(objective):
    tensor, basis = planted()
    start = torch.linalg.qr(basis + draw(D, D, seed=3) / 4).Q  # far, but nearer than another local optimum
    assert in_basis(tensor, start).needed(0.99) > 2 * D
    found = shared_basis(tensor, objective, start=start, steps=300)
    assert found.needed(0.9) == D
    cosines = (found.directions @ basis.T).abs()
    torch.testing.assert_close(cosines.amax(1), torch.ones(D).double(), atol=1e-2, rtol=0)


def test_rotations_only_ever_lower_the_objective():
    tensor = layer()
    start = shared_basis(tensor, steps=0)
    C = [tensor.dense()]

    def value(basis: torch.Tensor, objective: str) -> float:
        P = (basis @ C[0] @ basis.T).square().sum(0) / C[0].square().sum()
        return float(P.sqrt().sum() if objective == "absolute" else -P.diagonal().sum())

    for objective in ("absolute", "diagonal"):
        values = [value(start.directions, objective)]
        for steps in (1, 5, 50):
            found = shared_basis(tensor, objective, steps=steps)
            values.append(value(found.directions, objective))
            torch.testing.assert_close(
                found.directions @ found.directions.T, torch.eye(D).double(), atol=1e-12, rtol=0
            )
        assert values == sorted(values, reverse=True)
        assert values[-1] < values[0] - 1e-3


def test_a_settled_search_is_a_critical_point():
    """No small rotation of two directions lowers the objective: its slopes are 0."""
    tensor = layer()
    basis = shared_basis(tensor, "diagonal", steps=2000).directions
    C = basis @ tensor.dense() @ basis.T
    for i in range(D):
        for j in range(i):
            values = []
            for angle in (-1e-3, 1e-3):
                turn = torch.eye(D).double()
                turn[i, i] = turn[j, j] = np.cos(angle)
                turn[i, j], turn[j, i] = np.sin(angle), -np.sin(angle)
                values.append(float((turn @ C @ turn.T).diagonal(dim1=1, dim2=2).square().sum()))
            assert abs(values[1] - values[0]) / 2e-3 < 0.02 * float(C.square().sum())


def test_order_scale_and_exchange_of_hidden_units_do_not_matter():
    tensor, order = layer(), torch.randperm(H, generator=torch.Generator().manual_seed(1))
    other = BilinearTensor(7 * tensor.W_in[:, order], tensor.W_gate[:, order], tensor.W_out[order])
    ours, theirs = (shared_basis(each, steps=20) for each in (tensor, other))
    torch.testing.assert_close(ours.weights, theirs.weights, atol=1e-8, rtol=0)


def test_strongest_eigenvectors_are_the_largest_terms_of_the_dense_tensor():
    tensor = layer()
    B = tensor.dense().numpy()
    _, sigma, V = np.linalg.svd(B.reshape(OUT, -1), full_matrices=False)
    values = sigma[:, None] * np.linalg.eigvalsh(V.reshape(OUT, D, D))
    expected = np.sort((values**2).ravel() / (B**2).sum())[::-1]
    for share in (0.5, 0.9, 1.0):
        found = strongest_eigenvectors(tensor, share)
        n = len(found.weights)
        np.testing.assert_allclose(found.weights.numpy(), expected[:n], atol=1e-12)
        assert expected[:n].sum() >= share - 1e-12
        lost = (tensor.dense() - found.tensor.dense()).square().sum() / tensor.dense().square().sum()
        assert float(lost) == pytest.approx(1 - expected[:n].sum(), abs=1e-12)
    assert found.tensor.d_mlp == OUT * D == len(found.outputs)


def test_what_has_no_interactions_is_refused():
    tensor = layer()
    zero = BilinearTensor(tensor.W_gate, tensor.W_in, 0 * tensor.W_out)
    for analysis in (shared_basis, strongest_eigenvectors, partial(in_basis, directions=rotation())):
        with pytest.raises(InputError, match="tensor that is 0"):
            analysis(zero)
    with pytest.raises(InputError, match="expected 6 orthonormal rows"):
        in_basis(tensor, 2 * rotation())
    with pytest.raises(InputError, match="expected 6 orthonormal rows"):
        shared_basis(tensor, start=rotation(d=5))
    with pytest.raises(InputError, match="22 pairs; expected 1 to 21"):
        in_basis(tensor, rotation()).strongest(22)
    with pytest.raises(InputError, match="pairs of directions 0 to 6; expected 0 to 5"):
        keep_pairs(tensor, rotation(), torch.tensor([[0, 6]]))
    with pytest.raises(InputError, match="given twice"):
        keep_pairs(tensor, rotation(), torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(InputError, match="width 5"):
        keep_pairs(tensor, rotation()[:, :5], torch.tensor([[0, 1]]))
    with pytest.raises(InputError, match="max_bytes"):
        shared_basis(tensor, max_bytes=100)
    with pytest.raises(InputError, match=r"share 2\.0 of the tensor"):
        strongest_eigenvectors(tensor, 2.0)
    with pytest.raises(InputError, match="float32 or float64"):
        shared_basis(tensor.to(torch.bfloat16))
    batch = BilinearTensor(tensor.W_gate[None], tensor.W_in[None], tensor.W_out[None])
    with pytest.raises(InputError, match="one by one"):
        strongest_eigenvectors(batch)


@pytest.mark.usefixtures("without_shape_checks")
def test_objectives_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="objective 'sparse'; expected one of absolute, diagonal"):
        shared_basis(layer(), "sparse")
