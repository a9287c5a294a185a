"""Claims against brute force, samples and other closed forms."""

import numpy as np
import pytest
import torch

from analysis import (
    cp_decompose,
    eigendecompose,
    eigenvectors_needed,
    gaussian_similarity,
    hosvd,
    pairs_matrix,
    truncate,
    verify,
)
from analysis.features import Interaction
from analysis.guarantees import QuadraticForm
from bilinear_lm import BilinearTensor, InputError
from bilinear_lm.polynomials.gaussian import Gaussian

from .test_certify import OUT, D, draw, layer


def test_the_largest_eigenvectors():
    tensor, u = layer(constant=False), draw(3, OUT, seed=3)
    eigen = eigendecompose(tensor, u)
    for k in (1, 3, D - 1):
        verdict = verify(tensor, u, eigendecompose(tensor, u, k))
        rest = eigen.values[:, k:]
        assert torch.allclose(verdict.worst, D * rest[:, 0].abs())
        assert torch.allclose(
            verdict.low, D * rest.amin(1).clamp(max=0)
        )  # the k themselves are without error
        assert torch.allclose(verdict.largest, D * eigen.values[:, 0].abs())
        missed = 2 * rest.square().sum(1) + rest.sum(1).square()
        assert torch.allclose(verdict.r_squared, 1 - missed / 2 / eigen.values.square().sum(1))
        z = verdict.counterexample
        terms = eigen.values * (eigen.vectors @ z.unsqueeze(-1))[..., 0] ** 2
        error = (tensor(z) * u).sum(-1) - terms[:, :k].sum(1)
        assert torch.allclose(error.abs(), verdict.worst)


@pytest.mark.parametrize("over", ["sphere", "ball"])
def test_another_layer(over):
    tensor, u = layer(), draw(2, OUT, seed=3)
    other = cp_decompose(layer(constant=False), 3, rounds=1).tensor
    verdict = verify(tensor, u, other, over=over)
    z = D**0.5 * torch.nn.functional.normalize(draw(20_000, D, seed=8), dim=-1)
    error = (tensor(z) - other(z)) @ u.T
    assert (error <= verdict.high + 1e-9).all()
    assert (error >= verdict.low - 1e-9).all()
    assert (error.abs().amax(0) > 0.7 * verdict.worst).all()
    at = ((tensor(verdict.counterexample) - other(verdict.counterexample)) * u).sum(-1)
    assert torch.allclose(at.abs(), verdict.worst)
    assert torch.allclose(verdict.with_constant, (verdict.high - verdict.low) / 2)


def test_gaussian_r_squared_is_that_of_similarity_and_of_samples():
    tensor = layer()
    other = truncate(tensor, hosvd(tensor, 2), 2)
    root, mean = draw(D, D, seed=11) / 2, draw(D, seed=12)
    cov = root.T @ root
    for at in range(OUT):
        u = torch.eye(OUT)[at].double()
        verdict = verify(tensor, u, other, mean=mean, cov=cov)
        ours, theirs = (each.change_basis(outputs=u[None]) for each in (tensor, other))
        assert float(verdict.r_squared) == pytest.approx(
            1 - gaussian_similarity(ours, theirs, mean, cov).unexplained, rel=1e-9
        )
    z = mean + draw(200_000, D, seed=13) @ root
    exact, error = tensor(z) @ u, (tensor(z) - other(z)) @ u
    ratio = error.square() - (1 - verdict.r_squared) * (exact - exact.mean()).square()
    spread = (exact - exact.mean()).square().mean()
    standard_error = float(ratio.std() / spread) / len(z) ** 0.5
    sampled = 1 - float(error.square().mean() / spread)
    assert abs(sampled - float(verdict.r_squared)) < 4 * standard_error
    on_points = verify(tensor, u, other, points=z[:1000]).r_squared_on_points
    few, missed = exact[:1000].numpy(), error[:1000].numpy()
    assert float(on_points) == pytest.approx(1 - (missed**2).mean() / few.var())


def test_moments_of_forms_by_quadrature():
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    x, y = np.meshgrid(nodes, nodes)
    z = torch.tensor(np.stack([x.ravel(), y.ravel()], axis=1))
    w = torch.tensor(np.outer(weights, weights).ravel() / (2 * np.pi))
    f, g = (QuadraticForm.of(layer(d=2, seed=seed), torch.eye(OUT).double()) for seed in (0, 10))
    root, mean = draw(2, 2, seed=5), draw(2, seed=6)
    at, points = Gaussian(mean, root.T @ root), mean + z @ root
    left, right = (form(points.expand(OUT, -1, -1)) for form in (f, g))
    assert torch.allclose(f.mean(at), left @ w)
    centred = (left - (left @ w)[:, None]) * (right - (right @ w)[:, None])
    assert torch.allclose(f.covariance(g, at), centred @ w)


def test_pairs_of_features():
    reads, bias = draw(5, D, seed=20), draw(5, seed=21)
    pairs = [(0, 1, 2.0), (3, 3, -1.0), (2, 4, 0.5)]
    matrix = pairs_matrix([Interaction(7, *pair) for pair in pairs], reads, bias)
    z = draw(6, D, seed=22)
    code = z @ reads.T + bias
    expected = sum(value * code[:, i] * code[:, j] for i, j, value in pairs)
    assert torch.allclose(QuadraticForm.of_matrix(matrix, constant=True)(z), expected)
    # A layer that is these pairs is claimed without error.
    units = torch.cat([reads, bias[:, None]], dim=1).T
    left, right, values = zip(*pairs, strict=True)
    tensor = BilinearTensor(
        units[:, left], units[:, right], torch.tensor(values).double()[:, None], constant=True
    )
    verdict = verify(tensor, torch.ones(1).double(), matrix)
    assert float(verdict.worst) < 1e-12 * float(verdict.largest)
    assert float(verdict.r_squared) == pytest.approx(1)


@pytest.mark.parametrize("constant", [False, True])
def test_the_least_number_of_eigenvectors(constant):
    tensor, u = layer(constant), draw(4, OUT, seed=3)
    form = QuadraticForm.of(tensor, u)
    values = torch.linalg.eigvalsh(form.matrix)
    for error in (0.01, 0.3, 0.8):
        needed = eigenvectors_needed(tensor, u, error)
        free = eigenvectors_needed(tensor, u, error, free_constant=True)
        assert (free <= needed).all()
        largest = verify(tensor, u, tensor).largest
        for at in range(len(u)):
            allowed = float(error * largest[at]) / D
            rest = values[at].abs().sort(descending=True).values
            assert needed[at] == int((rest > allowed).sum())
            spreads = [  # by trying every k at both ends
                float(values[at, D - 1 - high] - values[at, low]) / 2 if low + high < D else 0.0
                for k in (int(free[at]) - 1, int(free[at]))
                for low, high in ((low, k - low) for low in range(k + 1))
            ]
            k = int(free[at])
            assert min(spreads[max(k, 0) :]) <= allowed * (1 + 1e-9)
            assert all(spread > allowed for spread in spreads[: max(k, 0)])


def test_a_claim_with_a_constant_is_as_good_as_said():
    tensor, u = layer(constant=False), draw(OUT, seed=3)
    values, columns = torch.linalg.eigh(tensor.interaction_matrix(u))
    rest = values[2:-1]  # two of the lower end and one of the upper are kept
    middle = (rest[0] + rest[-1]) / 2
    kept = torch.cat([values[:2], values[-1:]]) - middle
    vectors = torch.cat([columns[:, :2], columns[:, -1:]], dim=1)
    claim = (vectors * kept) @ vectors.T + middle * torch.eye(D).double()
    verdict = verify(tensor, u, claim)
    assert float(verdict.worst) == pytest.approx(float(rest[-1] - rest[0]) / 2 * D)
    error = float(verdict.worst) * (1 + 1e-9)
    assert eigenvectors_needed(tensor, u, error, relative=False, free_constant=True) <= 3


T, U = layer(), draw(2, OUT, seed=3)
BAD = {
    "a matrix that is not symmetric": (lambda: verify(T, U[0], draw(D, D)), "not symmetric"),
    "a matrix of another width": (lambda: verify(T, U[0], torch.eye(D + 2).double()), "last axis of 7 or 8"),
    "a matrix for two": (lambda: verify(T, U, torch.eye(D).double()), "axes"),
    "another width": (lambda: verify(T, U, layer(d=D + 1)), "another"),
    "eigenvectors of one": (lambda: verify(T, U, eigendecompose(T, U[0], 2)), "axes"),
    "a claim of NaN": (lambda: verify(T, U[0], torch.full((D, D), torch.nan)), "NaN"),
    "no claim": (lambda: verify(T, U[0], "these"), "approximation"),
    "points": (lambda: verify(T, U[0], T, points=draw(4, D + 1)), "points"),
    "no direction": (lambda: verify(T, U[:0], T), "no output direction"),
    "covariance": (lambda: verify(T, U[0], T, cov=-torch.eye(D)), "negative eigenvalues"),
    "error": (lambda: eigenvectors_needed(T, U, -0.1), "error=-0.1"),
    "pairs": (lambda: pairs_matrix([Interaction(0, 0, 9, 1.0)], draw(5, D)), "0 to 4"),
    "no pairs": (lambda: pairs_matrix([], draw(5, D)), "one or more pairs"),
    "biases": (lambda: pairs_matrix([Interaction(0, 0, 1, 1.0)], draw(5, D), draw(4)), "expected as many"),
    "not square": (lambda: QuadraticForm.of_matrix(draw(3, 4)), "square"),
}


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("what", BAD)
def test_bad_input(what):
    call, said = BAD[what]
    with pytest.raises(InputError, match=said):
        call()
