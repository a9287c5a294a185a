"""R² in closed form against quadrature, sampling and identities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bilinear_lm.numerics.memory
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.polynomials.approximate import approximate_layer
from bilinear_lm.polynomials.explained import explained_variance
from bilinear_lm.polynomials.gaussian import one_gaussian
from bilinear_lm.polynomials.hermite import activation_function
from bilinear_lm.polynomials.measured import RSquared

from .layers import draw, gaussian, grid, weights_of

F64 = torch.float64


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["silu", "tanh", torch.sin])
def test_against_quadrature(gated, activation):
    layer, at = weights_of(gated), gaussian()
    z, weight = grid()
    x = at["mean"] + z @ torch.linalg.cholesky(at["cov"]).T
    y = layer.output(x, activation_function(activation))
    variance = float(weight @ (y - weight @ y).square().sum(1))
    found = explained_variance(layer, activation, degree=4, **at)
    assert found.variance == pytest.approx(variance, rel=1e-6, abs=found.error)
    assert found.error < 1e-2 * variance
    for degree in range(5):
        error = weight @ (y - approximate_layer(layer, activation, degree=degree, **at)(x)).square().sum(1)
        assert float(found.unexplained[degree]) == pytest.approx(float(error) / variance, abs=1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_against_sampling(gated, activation):
    layer, at = weights_of(gated, d=6, h=9), gaussian(d=6)
    x = one_gaussian(**at, like=layer.W_gate).sample(40_000, seed=1)
    y = layer.output(x, activation_function(activation))
    found = explained_variance(layer, activation, degree=3, **at)
    for degree in (1, 2, 3):
        sampled, P = RSquared(), approximate_layer(layer, activation, degree=degree, **at)
        for piece in x.split(15_000):
            sampled.add(layer.output(piece, activation_function(activation)), P(piece))
        assert abs(float(found.r_squared[degree]) - sampled.value) < 4 * sampled.standard_error
        assert sampled.value == pytest.approx(1 - float((y - P(x)).var(0).sum() / y.var(0).sum()), abs=1e-4)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    gated=st.booleans(),
    activation=st.sampled_from(["relu", "silu", "tanh", "relu2", "linear"]),
)
def test_never_falls_with_the_degree(seed, gated, activation):
    layer, at = weights_of(gated, seed, d=4), gaussian(seed, d=4)
    found = explained_variance(layer, activation, degree=8, **at)
    assert float(found.r_squared[0]) == 0
    assert (found.r_squared.diff() >= 0).all()
    assert (found.r_squared <= 1).all()
    if activation == "linear":
        assert float(found.unexplained[1 + gated]) < 1e-10
    if gated:  # hidden units are permutable; in/c and W_out c, the same layer
        order, c = torch.randperm(5, generator=torch.Generator().manual_seed(seed)), 3.0
        other = GLUWeights(
            layer.W_gate[:, order],
            layer.W_in[:, order] / c,
            layer.W_out[order] * c,
            layer.b_gate[order],
            layer.b_in[order] / c,
            layer.b_out,
        )
        assert explained_variance(other, activation, degree=8, **at).variance == pytest.approx(found.variance)


def test_by_hand_and_in_pieces(monkeypatch):
    one = torch.ones(1, 1, dtype=F64)
    found = explained_variance(GLUWeights(one, None, one), "relu", degree=2)
    # Var relu = 1/2 − 1/(2π); the linear part has 1/4, the quadratic 1/(4π).
    variance = 0.5 - 1 / (2 * torch.pi)
    assert found.variance == pytest.approx(variance)
    assert found.by_degree.tolist() == pytest.approx([0, 0.25, 1 / (4 * torch.pi)])
    assert found.error == 0
    layer, at = weights_of(True, d=4), gaussian(d=4)
    whole = explained_variance(layer, "silu", **at)
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", 1)
    pieces = explained_variance(layer, "silu", **at)
    assert torch.allclose(pieces.by_degree, whole.by_degree)
    assert (pieces.variance, pieces.error) == pytest.approx((whole.variance, whole.error))


def test_a_layer_that_does_not_vary():
    layer = weights_of(True, d=3)
    found = explained_variance(layer, "silu", mean=draw(3), cov=torch.zeros(3, 3))
    assert found.r_squared.tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 64}, "a series to order 64; expected 1 to 63"),
        ({"order": 3}, "degree 4 of a polynomial; expected 0 to 3"),
        ({"degree": -1}, "degree -1 of a polynomial"),
        ({"mean": draw(2, 2)}, "a mixture of 2; expected one Gaussian"),
    ],
)
def test_errors_say_what_was_wrong(settings, message):
    with pytest.raises(InputError, match=message):
        explained_variance(weights_of(False), "silu", **settings)
