"""Polynomials of any degree against least squares on quadrature points, autograd and themselves."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bilinear_lm.numerics.memory
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.polynomials.approximate import approximate_glu, approximate_layer, approximate_mlp
from bilinear_lm.polynomials.expansion import in_powers
from bilinear_lm.polynomials.gaussian import FactoredCovariance, one_gaussian
from bilinear_lm.polynomials.hermite import activation_function, hermite_moments
from bilinear_lm.polynomials.polynomial import from_forms

from .layers import F64, OUT, draw, gaussian, grid, monomials, weights_of


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 3, 4, 6])
def test_against_least_squares_on_quadrature_points(gated, degree):
    layer, at = weights_of(gated), gaussian()
    z, weight = grid()
    x = at["mean"] + z @ torch.linalg.cholesky(at["cov"]).T
    y = layer.output(x, torch.sin)
    phi, root = monomials(z, degree), weight.sqrt().unsqueeze(1)
    expected = phi @ torch.linalg.lstsq(root * phi, root * y).solution
    found = approximate_layer(layer, torch.sin, degree=degree, **at)
    error = ((found(x) - expected).square().sum(1) @ weight).sqrt()
    assert error < 1e-10 * (expected.square().sum(1) @ weight).sqrt()
    assert found.degree == degree


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    degree=st.integers(0, 8),
    gated=st.booleans(),
    far=st.sampled_from([0.0, 20.0]),
)
def test_a_polynomial_network_is_reproduced(seed, degree, gated, far):
    """σ a polynomial of degree n (n − 1 in a GLU): the network is its own approximant."""
    layer, at = weights_of(gated, seed, d=6, h=7), gaussian(seed, d=6)
    coefficients = draw(degree + 1 - (gated and degree > 0), seed=seed + 9)
    at["mean"] = at["mean"] + far
    layer = GLUWeights(
        **{**layer.weights, "W_in": layer.W_in, "b_gate": layer.b_gate - far * layer.W_gate.sum(0)}
    )

    def activation(y):
        return sum(c * y**k for k, c in enumerate(coefficients))

    x = one_gaussian(**at, like=layer.W_gate).sample(50)
    expected = layer.output(x, activation)
    found = approximate_layer(layer, activation, degree=degree if degree or not gated else 1, **at)
    assert (found(x) - expected).abs().max() < 1e-9 * expected.square().mean().sqrt()


def test_relu_at_standard_normal_inputs_has_half_the_product_of_weights():
    W, W_out = draw(8, 12), draw(12, 3, seed=1)
    for degree in (1, 2, 5):
        found = approximate_mlp(W, W_out, "relu", degree=degree)
        # Degrees 3, 5, … of ReLU at 0 are 0: the linear part stays what it is.
        assert torch.allclose(found.around(torch.zeros(8, dtype=F64)).linear, W @ W_out / 2)


@pytest.mark.parametrize("degree", [2, 3, 8])
def test_a_bilinear_layer_is_its_own_quadratic(degree):
    layer, at = weights_of(True, d=7), gaussian(d=7)
    found = approximate_layer(layer, "linear", degree=degree, **at)
    x = draw(20, 7)
    assert torch.allclose(found(x), layer.tensor(x))
    if degree > 2:
        assert found.term(degree)(x).abs().max() < 1e-12


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("degree", [1, 2, 5])
def test_mean_derivatives_by_autograd(gated, degree):
    """The expected gradient and second derivatives of P at the mean are those of E f by the mean."""
    layer, at = weights_of(gated, d=3), gaussian(d=3)
    found = approximate_layer(layer, "silu", degree=degree, **at)
    x, n = draw(50_000, 3, seed=8), 50_000
    x = torch.cat([x, -x]) @ torch.linalg.cholesky(at["cov"]).T
    mean = at["mean"].clone().requires_grad_()

    def gradient(function):
        return torch.autograd.grad(function(mean + x).mean(0) @ draw(OUT, seed=3), mean)[0]

    exact, ours = gradient(lambda x: layer.output(x, torch.nn.functional.silu)), gradient(found)
    assert (exact - ours).norm() < 10 / n**0.5 * exact.norm()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_derivatives_and_centers(gated, degree, monkeypatch):
    layer, at = weights_of(gated, d=4), gaussian(d=4)
    found = approximate_layer(layer, "gelu", degree=degree, **at)
    x, point = draw(6, 4, seed=3), draw(4, seed=4)
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", 2**10)
    by_autograd = torch.stack([torch.autograd.functional.jacobian(found, each).T for each in x])
    assert torch.allclose(found.jacobian(x), by_autograd)
    assert found.jacobian(x.reshape(2, 3, 4)).shape == (2, 3, 4, OUT)
    moved = found.around(point)
    assert torch.allclose(moved(x), found(x))
    assert torch.allclose(moved.constant, found(point))
    assert torch.allclose(moved.linear, found.jacobian(point))
    u = draw(OUT, seed=5)
    hessian = torch.autograd.functional.hessian(lambda x: found(x) @ u, point)
    assert torch.allclose(2 * moved.quadratic.interaction_matrix(u), hessian)
    terms = [moved.term(k) for k in range(degree + 1)]
    offset = x - point
    value = terms[0] + (offset @ terms[1] if degree else 0)
    assert torch.allclose(value + sum(term(offset) for term in terms[2:]), found(x))


def test_terms_are_symmetric_tensors():
    term = approximate_layer(weights_of(True, d=4), "silu", degree=4).term(4)
    points = draw(4, 4, seed=2)
    value = term.multilinear(*points)
    for order in itertools.permutations(range(4)):
        assert torch.allclose(term.multilinear(*points[list(order)]), value)
    assert torch.allclose(term.multilinear(*[points[0]] * 4), term(points[0]))
    # Polarisation: 4! 2⁴ T(x, y, z, w) = Σ ± T(± x ± y ± z ± w), the sign the product of signs.
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=4)), dtype=F64)
    polarised = (signs.prod(1, keepdim=True) * term(signs @ points)).sum(0) / (24 * 16)
    assert torch.allclose(polarised, value)
    with pytest.raises(InputError, match="3 points of a term of degree 4; expected 4"):
        term.multilinear(*points[:3])


def test_powers_of_a_hermite_series():
    series = draw(9, 4)
    factorials = np.cumprod([1.0, *range(1, 9)])
    expected = [np.polynomial.hermite_e.herme2poly(row) for row in (series.numpy().T / factorials)]
    assert torch.allclose(in_powers(series), torch.tensor(np.array(expected)).T)


@pytest.mark.parametrize("name", ["relu", "relu2", "gelu", "linear"])
def test_closed_forms_of_high_order_against_the_integral(name):
    mean, s = torch.tensor([-3.0, -0.4, 0.0, 2.0, 50.0], dtype=F64), torch.tensor(1.3, dtype=F64).expand(5)
    function = activation_function(name)
    for order in (9, 40):
        closed = hermite_moments(name, mean, s, order)
        integrated = hermite_moments(lambda y: function(y), mean, s, order)
        norms = torch.tensor(np.sqrt(np.cumprod([1.0, *range(1, order + 1)]))).unsqueeze(1)
        assert ((closed - integrated) / norms).abs().max() < 1e-10 * (mean.square() + 1.7).max()


def factored(kind, d):
    root, diagonal = draw(2, d, seed=30), draw(d, seed=31).square()
    return FactoredCovariance(root if kind != "diagonal" else None, diagonal if kind != "low rank" else None)


@pytest.mark.parametrize("kind", ["low rank", "diagonal", "both"])
@pytest.mark.parametrize("gated", [False, True])
def test_factored_covariances(kind, gated):
    layer, mean, cov = weights_of(gated, d=5), draw(5, seed=40), factored(kind, 5)
    for degree in (1, 2, 4):
        found, dense = (
            approximate_layer(layer, "silu", degree=degree, mean=mean, cov=c) for c in (cov, cov.dense())
        )
        x = one_gaussian(mean, cov, layer.W_gate).sample(200)
        assert torch.allclose(found(x), dense(x), atol=1e-8)
    at = one_gaussian(mean, cov, layer.W_gate)
    assert torch.allclose(at.sample(50_000).T.cov(), cov.dense(), atol=0.1 * float(cov.dense().max()))
    mixture = approximate_layer(layer, "silu", degree=1, mean=draw(3, 5), cov=cov)
    assert torch.allclose(
        mixture.linear,
        approximate_layer(layer, "silu", degree=1, mean=draw(3, 5), cov=cov.dense()).linear,
        atol=1e-8,
    )


@pytest.mark.parametrize("gated", [False, True])
def test_units_that_do_not_move(gated):
    layer = weights_of(gated, d=4)
    layer.W_gate[:, 0] = 0
    line = draw(4, seed=3)
    cov = line.outer(line)
    layer.W_gate[:, 1] -= line * (line @ layer.W_gate[:, 1]) / (line @ line)
    x = torch.linspace(-1, 1, 9, dtype=F64).unsqueeze(1) * line
    for activation in ("silu", "relu", lambda y: y**3):
        found = approximate_layer(layer, activation, degree=4, cov=cov)
        assert torch.isfinite(found(x)).all()
    expected = layer.output(x, lambda y: y**3)
    assert torch.allclose(found(x), expected)
    still = approximate_layer(layer, "tanh", degree=5, mean=line, cov=torch.zeros(4, 4))
    assert torch.allclose(still(line), layer.output(line, torch.tanh))


@pytest.mark.parametrize("shape", [(2, 9), (9, 2)])
def test_forms_as_units(shape):
    d_out, d = shape
    forms = draw(d_out, d, d)
    forms = forms + forms.mT
    found, x = from_forms(draw(d_out), draw(d, d_out), forms), draw(10, d, seed=1)
    expected = found.constant + x @ found.linear + torch.einsum("ni,oij,nj->no", x, forms, x)
    assert torch.allclose(found(x), expected)
    assert found.quadratic.d_mlp == min(d_out * d, d * (d + 1) // 2)
    assert torch.allclose(found.quadratic.dense(), forms)


def test_precision_and_pieces():
    layer, at = weights_of(True, d=6), gaussian(d=6)
    single = {name: value.float() for name, value in layer.weights.items()}
    found = approximate_glu(**single, activation="silu", degree=4, **at)
    exact, x = approximate_layer(layer, "silu", degree=4, **at), draw(10, 6, seed=2) + at["mean"]
    assert {each.dtype for each in found.units.tensors.values()} == {torch.float32}
    assert torch.allclose(
        found(x.float()).double(), exact(x), rtol=1e-4, atol=1e-4 * float(exact(x).abs().max())
    )
    assert found.to(F64).center.dtype == F64
    with pytest.raises(InputError, match="term of degree 5 of a polynomial; expected 0 to 4"):
        exact.term(5)


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        (FactoredCovariance(), "a cov without factors"),
        (FactoredCovariance(draw(2, 3)), r"root of cov has shape \[2, 3\]; expected \[rank, 2\]"),
        (FactoredCovariance(diagonal=torch.ones(3)), r"diagonal of cov has shape \[3\]; expected \[2\]"),
        (FactoredCovariance(diagonal=torch.tensor([1.0, -1.0])), "falls to -1; expected 0 or more"),
        (FactoredCovariance(diagonal=torch.tensor([1.0, torch.inf])), "NaN or infinity"),
    ],
)
def test_bad_factors_of_a_covariance(cov, message):
    with pytest.raises(InputError, match=message):
        approximate_layer(weights_of(True), "silu", cov=cov)
