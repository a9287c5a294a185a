"""Similarity in factors against dense tensors, scipy, and Monte Carlo."""

import numpy as np
import pytest
import scipy.optimize
import torch

import bilinear_lm.numerics.memory
from analysis import direction_similarity, eigendecompose, gaussian_similarity, match_vectors, pairwise_cosine
from analysis.spectra import best_assignment, cross_gram
from bilinear_lm import BilinearTensor, InputError

D, H, OUT = 6, 11, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(seed=0, out=OUT, bias=False, h=H):
    factors = draw(D, h, seed=seed), draw(D, h, seed=seed + 1), draw(h, out, seed=seed + 2)
    biases = (draw(h, seed=seed + 3), draw(h, seed=seed + 4), draw(out, seed=seed + 5)) if bias else ()
    return BilinearTensor.from_layer(*factors, *biases)


def test_cosines_of_all_pairs():
    layers = [layer(10 * i, h=H + i) for i in range(3)]
    flat = torch.stack([each.dense().flatten() for each in layers])
    flat = flat / flat.norm(dim=1, keepdim=True)
    assert torch.allclose(pairwise_cosine(layers), flat @ flat.T)
    assert torch.allclose(pairwise_cosine(layers[:2], layers[1:]), flat[:2] @ flat[1:].T)


@pytest.mark.parametrize("chunk", [2**28, 1], ids=["whole", "chunked"])
@pytest.mark.parametrize("bias", [False, True])
def test_directions_against_dense(chunk, bias, monkeypatch):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
    ours, theirs = layer(bias=bias), layer(10, out=OUT + 1, bias=bias, h=H + 3)
    flat, other = ours.dense().flatten(1), theirs.dense().flatten(1)
    assert torch.allclose(cross_gram(ours, theirs), flat @ other.T)
    u, v = draw(3, OUT, seed=5), draw(2, OUT + 1, seed=6)
    u[1] = 0
    dense = torch.cosine_similarity((u @ flat).unsqueeze(1), (v @ other).unsqueeze(0), dim=-1)
    assert torch.allclose(direction_similarity(ours, theirs, u, v), dense)
    assert torch.allclose(direction_similarity(ours, ours, u[2:]), torch.ones(1, 1).double())


@pytest.mark.parametrize("gaussian", ["standard", "mean", "cov", "both"])
@pytest.mark.parametrize("bias", [False, True])
def test_gaussian_moments_against_monte_carlo(gaussian, bias):
    f, g = layer(bias=bias), layer(10, bias=bias)
    mean = draw(D, seed=3) if gaussian in ("mean", "both") else None
    root = draw(D, D, seed=4) / D**0.5
    cov = root.T @ root if gaussian in ("cov", "both") else None
    found = gaussian_similarity(f, g, mean, cov)
    x = draw(400_000, D, seed=7)
    x = (x if cov is None else x @ root) + (0 if mean is None else mean)
    y, z = f(x), g(x)
    covariance = ((y - y.mean(0)) * (z - z.mean(0))).sum(1).mean()
    scale = float((y.var(0).sum() * z.var(0).sum()).sqrt())
    # Standard errors of these moments are about 1/300 of their scale with so many points.
    assert found.covariance == pytest.approx(float(covariance), abs=0.02 * scale)
    for variance, mean_of, points in zip(found.variances, found.means, (y, z), strict=True):
        assert variance == pytest.approx(float(points.var(0).sum()), rel=0.02)
        assert (mean_of - points.mean(0)).abs().max() <= 0.02 * points.std()
    assert found.correlation == pytest.approx(float(covariance) / scale, abs=0.02)
    products = [float((a * b).sum(1).mean()) for a, b in ((y, z), (y, y), (z, z))]
    assert found.cosine == pytest.approx(products[0] / (products[1] * products[2]) ** 0.5, abs=0.02)
    error = float((y - z).square().sum(1).mean()) / float(y.var(0).sum())
    assert found.unexplained == pytest.approx(error, rel=0.02)


def test_gaussian_similarity_and_the_cosine_of_tensors():
    f, g = layer(), layer(10)
    found = gaussian_similarity(f, g)
    assert found.correlation == pytest.approx(float(f.cosine(g)))
    # E[f · g] = 2 ⟨B, C⟩ + tr B · tr C.
    traces = [each.dense().diagonal(dim1=1, dim2=2).sum(1) for each in (f, g)]
    product = found.covariance + float(found.means[0] @ found.means[1])
    assert product == pytest.approx(float(2 * f.inner(g) + traces[0] @ traces[1]))
    own = gaussian_similarity(f, f)
    assert own.correlation == pytest.approx(1)
    assert own.cosine == pytest.approx(1)
    assert own.unexplained == pytest.approx(0, abs=1e-12)


def test_a_constant_in_the_output_changes_the_mean_only():
    f, g = layer(bias=True), layer(10, bias=True)
    moved = BilinearTensor(g.W_gate, g.W_in, torch.cat([g.W_out[:-1], g.W_out[-1:] + 5]), constant=True)
    before, after = gaussian_similarity(f, g), gaussian_similarity(f, moved)
    assert after.correlation == pytest.approx(before.correlation)
    assert torch.allclose(after.means[1], before.means[1] + 5)


def test_a_degenerate_gaussian():
    # All inputs on one line through the mean.
    line, mean, f = draw(D, seed=8), draw(D, seed=9), layer(bias=True)
    found = gaussian_similarity(f, f, mean, line.outer(line))
    x = mean + torch.linspace(-8, 8, 4001).double().unsqueeze(1) * line
    weights = torch.linspace(-8, 8, 4001).double().square().neg().div(2).softmax(0)
    centred = f(x) - weights @ f(x)
    assert found.variances[0] == pytest.approx(float(weights @ centred.square().sum(1)), rel=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_assignment_against_scipy(ties):
    for seed in range(60):
        n, m = torch.randint(1, 9, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        scores = draw(n, m, seed=seed)
        scores = scores.round() if ties else scores
        rows, columns = best_assignment(scores)
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert len(set(columns.tolist())) == len(rows) == min(n, m)
        best = scores.numpy()[scipy.optimize.linear_sum_assignment(scores.numpy(), maximize=True)].sum()
        assert float(scores[rows, columns].sum()) == pytest.approx(best)


def test_matching_finds_moved_eigenvectors():
    vectors = eigendecompose(layer(), draw(OUT)).vectors
    order = torch.tensor([3, 0, 5, 1])
    moved = -vectors[order] + 1e-3 * draw(4, D)
    found = match_vectors(vectors, moved)
    assert dict(zip(found.second.tolist(), found.first.tolist(), strict=True)) == dict(
        enumerate(order.tolist())
    )
    assert (found.cosines > 0.999).all()
    assert (found.cosines.diff() <= 0).all()
    # A greedy choice takes 0.9 and is left with 0.1; the best pairing has 0.8 twice.
    angles = torch.tensor([[0.9, 0.8], [0.8, 0.1]])
    assert best_assignment(angles)[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: cross_gram(f, layer(bias=True)), "agree but for the outputs"),
        (lambda f: cross_gram(f, layer(out=3), "input"), "agree but for the inputs"),
        (lambda f: gaussian_similarity(f, layer(bias=True)), "expected the same"),
        (lambda f: gaussian_similarity(f, layer(out=3)), "4 and 3 outputs"),
        (lambda f: gaussian_similarity(f, f, draw(D + 1)), r"mean of shape \[7\]; expected \[6\]"),
        (lambda f: gaussian_similarity(f, f, draw(D) * torch.nan), "finite"),
        (lambda f: gaussian_similarity(f, f, cov=torch.eye(D - 1).double()), r"cov of shape \[5, 5\]"),
        (lambda f: gaussian_similarity(f, f, cov=-torch.eye(D).double()), "not a covariance"),
        (lambda f: gaussian_similarity(f, f, cov=torch.ones(D, D).double().triu()), "cov is not symmetric"),
        (lambda f: direction_similarity(f, f, draw(2, OUT + 1)), "expected d_out=4"),
        (lambda f: match_vectors(draw(2, 3), draw(2, 4)), "widths 3 and 4"),
        (lambda f: match_vectors(draw(2, 3) * torch.nan, draw(2, 3)), "NaN"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call(layer())


def test_layers_that_are_zero():
    zero = BilinearTensor(draw(D, H), draw(D, H), torch.zeros(H, OUT).double())
    assert pairwise_cosine([zero, layer()])[0].tolist() == [0, 0]
    found = gaussian_similarity(zero, layer())
    assert (found.correlation, found.cosine, found.unexplained) == (0, 0, np.inf)
