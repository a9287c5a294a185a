"""Closed-form polynomials against weighted least squares on quadrature points, and against sampling."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bilinear_lm.polynomials.mixture
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.approximate import approximate_glu, approximate_mlp
from bilinear_lm.polynomials.hermite import activation_function

F64 = torch.float64
D, H, OUT = 2, 5, 3
ACTIVATIONS = ["silu", "gelu", "linear", "sigmoid"]  # smooth: the oracle integrates them well


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def glu(seed=0, d=D, h=H, out=OUT):
    shapes = {
        "W_gate": (d, h),
        "W_in": (d, h),
        "W_out": (h, out),
        "b_gate": (h,),
        "b_in": (h,),
        "b_out": (out,),
    }
    return {name: draw(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}


def mlp(seed=0, **sizes):
    weights = glu(seed, **sizes)
    return {name: weights[name] for name in ("W_in", "W_out", "b_in", "b_out")}


def gaussians(n, seed=0, d=D, narrow=1.0, apart=1.0):
    roots = 0.6 * narrow * draw(n, d, d, seed=seed + 50)
    return apart * draw(n, d, seed=seed + 60), roots.mT @ roots


def value(weights, activation, x):
    function = activation_function(activation)
    if "W_gate" not in weights:
        return function(x @ weights["W_in"] + weights["b_in"]) @ weights["W_out"] + weights["b_out"]
    gate = function(x @ weights["W_gate"] + weights["b_gate"])
    return (gate * (x @ weights["W_in"] + weights["b_in"])) @ weights["W_out"] + weights["b_out"]


def approximate(weights, activation, **settings):
    way = approximate_glu if "W_gate" in weights else approximate_mlp
    return way(**weights, activation=activation, **settings)


def points(means, covs, n=90):
    """Quadrature points and weights of a mixture, by tensor-product Gauss–Hermite."""
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(n))
    grid = torch.cartesian_prod(*[nodes] * means.shape[-1]).reshape(-1, means.shape[-1])
    weight = torch.cartesian_prod(*[weights / weights.sum()] * means.shape[-1]).reshape(len(grid), -1).prod(1)
    roots = torch.linalg.cholesky(covs)
    return (means.unsqueeze(1) + grid @ roots.mT).flatten(0, 1), weight.repeat(len(means)) / len(means)


def wave(y):
    """An entire function: the oracle integrates it well at any spread that occurs here."""
    return torch.sin(y) + y / 2


def monomials(x, degree):
    first, second = torch.triu_indices(x.shape[1], x.shape[1])
    parts = [torch.ones(len(x), 1, dtype=F64), x, x[:, first] * x[:, second]]
    return torch.cat(parts[: degree + 1], dim=1)


def least_squares(x, weight, y, degree):
    phi, root = monomials(x, degree), weight.sqrt().unsqueeze(1)
    return phi @ torch.linalg.lstsq(root * phi, root * y, rcond=1e-12, driver="gelsd").solution


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer", [glu, mlp])
def test_one_gaussian_against_least_squares(layer, activation, degree):
    weights, (means, covs) = layer(), gaussians(1)
    found = approximate(weights, activation, degree=degree, mean=means[0], cov=covs[0])
    x, weight = points(means, covs)
    expected = least_squares(x, weight, value(weights, activation, x), degree)
    error = ((found(x) - expected).square().sum(1) @ weight).sqrt()
    assert error < 1e-11 * (expected.square().sum(1) @ weight).sqrt()
    assert found.degree == degree
    assert found.quadratic.d_mlp == (H if degree == 2 else 1)


@pytest.mark.parametrize("layer", [glu, mlp])
def test_by_default_inputs_are_standard_normal(layer):
    weights = layer()
    by_default = approximate(weights, "silu")
    given = approximate(weights, "silu", mean=torch.zeros(D, dtype=F64), cov=torch.eye(D, dtype=F64))
    x = draw(20, D, seed=9)
    assert torch.allclose(by_default(x), given(x))


def test_coefficients_by_hand():
    one = torch.ones(1, 1, dtype=F64)
    half = 1 / math.sqrt(2 * math.pi)
    found = approximate_mlp(one, one, "relu")  # relu(x) ≈ φ(0) (1 − 1/2) + x/2 + φ(0)/2 x²
    assert torch.allclose(found.constant, half * one[0] / 2)
    assert torch.allclose(found.linear, one / 2)
    assert torch.allclose(found.quadratic.dense(), one.unsqueeze(0) * half / 2)
    found = approximate_mlp(one, one, lambda y: y**3, mean=one[0], cov=4 * one)
    # E x³ = 13, x³ = (x̃ + 1)³ ≈ 13 + 15 x̃ + 3 (x̃² − 4) = 3x² + 9x − 11, with E[x̃³ x̃]/4 = 12.
    assert torch.allclose(torch.cat([found.constant, found.linear[0]]), torch.tensor([-11.0, 9.0], dtype=F64))
    assert torch.allclose(found.quadratic.dense(), 3 * one.unsqueeze(0))


def test_explains_what_sampled_least_squares_explains():
    d, n = 6, 200_000
    weights, (means, covs) = glu(d=d, h=12, out=4), gaussians(1, d=d)
    x = means + draw(n, d, seed=3) @ torch.linalg.cholesky(covs[0]).T
    y = value(weights, "silu", x)
    found = approximate(weights, "silu", mean=means[0], cov=covs[0])
    sampled = least_squares(x, torch.full((n,), 1 / n, dtype=F64), y, 2)
    explained = [
        1 - float((y - p).square().sum() / (y - y.mean(0)).square().sum()) for p in (found(x), sampled)
    ]
    assert 0.5 < explained[1] < 0.99
    assert explained[0] == pytest.approx(explained[1], abs=1e-3)


def test_a_bilinear_layer_is_its_own_polynomial():
    weights, x = glu(d=7), draw(30, 7, seed=4)
    means, covs = gaussians(3, d=7)
    for mean, cov in ((None, None), (means[0], covs[0]), (means, covs)):
        found = approximate(weights, "linear", mean=mean, cov=cov)
        assert torch.allclose(found(x), value(weights, "linear", x), atol=1e-7)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), c=st.floats(0.1, 10), flip=st.booleans())
def test_hidden_units_are_permutable_and_scale(seed, c, flip):
    weights, (means, covs), x = glu(seed), gaussians(1, seed), draw(10, D, seed=seed + 7)
    order = torch.randperm(H, generator=torch.Generator().manual_seed(seed))
    other = {name: each[..., order] for name, each in weights.items() if name not in ("W_out", "b_out")}
    for name in ("W_in", "b_in"):
        other[name] = other[name] * c
    other |= {"W_out": weights["W_out"][order] / c, "b_out": weights["b_out"]}
    if flip:  # relu2 is homogeneous: relu2(c y) = c² relu2(y)
        for name in ("W_gate", "b_gate"):
            other[name] = other[name] / c**0.5
        other["W_out"] = other["W_out"] * c
    first, second = (approximate(each, "relu2", mean=means[0], cov=covs[0]) for each in (weights, other))
    assert torch.allclose(first(x), second(x), rtol=1e-8, atol=1e-8 * float(first(x).abs().max()))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 4), narrow=st.sampled_from([1.0, 0.3, 0.05]))
def test_mixtures_against_least_squares(seed, n, narrow):
    means, covs = gaussians(n, seed, narrow=narrow)
    covs = covs + 1e-3 * narrow**2 * torch.eye(D, dtype=F64)
    x, weight = points(means, covs, 80)
    for weights in (glu(seed), mlp(seed)):
        y = value(weights, wave, x)
        for degree in (0, 1, 2):
            found = approximate(weights, wave, degree=degree, mean=means, cov=covs)
            expected = least_squares(x, weight, y, degree)
            square = (expected.square().sum(1) @ weight).sqrt()
            assert ((found(x) - expected).square().sum(1) @ weight).sqrt() < 1e-7 * square
            # The error is orthogonal to all monomials, in coordinates where they have size one.
            phi = monomials((x - weight @ x) / (weight @ (x - weight @ x).square()).sqrt(), degree)
            assert ((phi * weight.unsqueeze(1)).T @ (y - found(x))).abs().max() < 1e-7 * square


def test_a_mixture_of_one_is_that_gaussian():
    weights, (means, covs), x = glu(d=5), gaussians(1, d=5), draw(20, 5, seed=8)
    for degree in (0, 1, 2):
        mixture = approximate(weights, "silu", degree=degree, mean=means, cov=covs)
        single = approximate(weights, "silu", degree=degree, mean=means[0], cov=covs[0])
        assert torch.allclose(mixture(x), single(x), atol=1e-8)
    assert mixture.quadratic.d_mlp == 15
    assert single.quadratic.d_mlp == H


def test_shared_mean_or_covariance():
    weights, (means, covs), x = glu(), gaussians(2), draw(20, D, seed=8)
    shared = approximate(weights, "gelu", mean=means, cov=covs[0])
    spelled = approximate(weights, "gelu", mean=means, cov=covs[:1].expand(2, D, D))
    assert torch.allclose(shared(x), spelled(x))
    shared = approximate(weights, "gelu", mean=means[0], cov=covs)
    spelled = approximate(weights, "gelu", mean=means[:1].expand(2, D), cov=covs)
    assert torch.allclose(shared(x), spelled(x))
    standard = approximate(weights, "gelu", mean=means)
    spelled = approximate(weights, "gelu", mean=means, cov=torch.eye(D, dtype=F64))
    assert torch.allclose(standard(x), spelled(x))


@pytest.mark.parametrize("layer", [glu, mlp])
@pytest.mark.parametrize("n", [1, 3])
def test_singular_covariances(layer, n):
    """All inputs of a component on one line; some units do not move at all."""
    weights, lines, means = layer(d=4), 0.4 * draw(n, 4, seed=21), draw(n, 4, seed=22)
    for name in ("W_gate", "W_in"):
        if name in weights:
            weights[name][:, 0] -= lines[0] * (lines[0] @ weights[name][:, 0]) / (lines[0] @ lines[0])
    covs = lines.unsqueeze(2) * lines.unsqueeze(1)
    nodes, share = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(90))
    x = (means.unsqueeze(1) + nodes.reshape(1, -1, 1) * lines.unsqueeze(1)).flatten(0, 1)
    weight = (share / share.sum()).repeat(n) / n
    found = approximate(weights, wave, mean=means, cov=covs)
    expected = least_squares(x, weight, value(weights, wave, x), 2)
    error = ((found(x) - expected).square().sum(1) @ weight).sqrt()
    assert error < 1e-9 * (expected.square().sum(1) @ weight).sqrt()


def test_inputs_that_do_not_vary():
    weights, point = glu(d=4), draw(4, seed=5)
    for mean, cov in ((point, torch.zeros(4, 4)), (point.expand(2, 4), torch.zeros(2, 4, 4))):
        for degree in (0, 1, 2):
            found = approximate(weights, "tanh", degree=degree, mean=mean, cov=cov)
            assert torch.allclose(found(point), value(weights, "tanh", point))


def test_precision_and_device_follow_the_weights():
    weights = glu(d=6)
    single = {name: each.float() for name, each in weights.items()}
    for mean in (None, draw(2, 6)):
        found = approximate(single, "silu", mean=mean)
        parts = (found.constant, found.linear, found.quadratic.W_gate, found.quadratic.W_out)
        assert {part.dtype for part in parts} == {torch.float32}
        x = draw(10, 6, seed=2)
        assert torch.allclose(
            found(x.float()).double(), approximate(weights, "silu", mean=mean)(x), atol=1e-3
        )
        assert found.to(F64).linear.dtype == F64


def test_a_mean_far_from_zero():
    weights, (means, covs) = glu(), gaussians(1)
    shifted = {**weights, "b_gate": weights["b_gate"] - 1e3 * weights["W_gate"].sum(0)}
    shifted["b_in"] = weights["b_in"] - 1e3 * weights["W_in"].sum(0)
    x = draw(10, D)
    near = approximate(weights, "silu", mean=means[0], cov=covs[0])(x)
    far = approximate(shifted, "silu", mean=means[0] + 1e3, cov=covs[0])(x + 1e3)
    assert torch.allclose(near, far, atol=1e-7)


def test_a_mixture_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(bilinear_lm.polynomials.mixture, "MAX_BYTES", 100)
    weights, means = glu(), draw(2, D)
    with pytest.raises(InputError, match="d_in 2, d_out 3 needs 880 bytes, more than 100; use degree=1"):
        approximate(weights, "silu", mean=means)
    assert approximate(weights, "silu", mean=means, degree=1).degree == 1
    monkeypatch.undo()
    monkeypatch.setattr(bilinear_lm.polynomials.mixture, "_MOST_STEPS", 1)
    with pytest.raises(InputError, match="did not settle in 1 steps"):
        approximate(weights, "silu", mean=means)


def bad(**changes):
    return lambda: approximate(
        {**glu(), **changes.pop("weights", {})}, changes.pop("activation", "silu"), **changes
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (bad(weights={"W_out": draw(H + 1, OUT)}), r"W_out \[6, 3\].*expected \[d_in, d_mlp\] into it"),
        (bad(weights={"W_in": draw(D + 1, H)}), r"W_in \[3, 5\]"),
        (bad(weights={"b_in": draw(H + 1)}), r"b_in \[6\]"),
        (bad(weights={"b_out": draw(H)}), r"b_out \[5\]"),
        (bad(weights={"W_out": draw(2, H, OUT)}), r"W_out \[2, 5, 3\]"),
        (bad(weights={"W_in": math.nan * draw(D, H)}), "W_in holds NaN or infinity"),
        (bad(activation="silly"), "'silly' is not known"),
        (bad(degree=17), "degree 17 of a polynomial; expected 0 to 16"),
        (bad(degree=3, mean=draw(2, D)), "degree 3 under a mixture of Gaussians; expected 0, 1 or 2"),
        (bad(mean=draw(D + 1)), r"mean of shape \[3\]; expected \[2\]"),
        (bad(cov=draw(D)), r"cov of shape \[2\]; expected \[2, 2\]"),
        (bad(mean=math.inf * torch.ones(D)), "mean holds numbers that are not finite"),
        (bad(cov=-torch.eye(D)), "negative eigenvalues"),
        (bad(cov=torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "negative eigenvalues"),
        (bad(cov=torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
        (bad(mean=draw(2, D), cov=torch.eye(D).expand(3, D, D)), r"with \[2, 3\] components"),
        (bad(mean=draw(0, D)), r"with \[0\] components; expected one number, at least 1"),
    ],
)
def test_errors_say_what_was_wrong(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    with pytest.raises(InputError, match=message):
        call()


def test_points_of_another_width():
    with pytest.raises(InputError, match=r"x of shape \[4, 3\]; expected a last axis of 2"):
        approximate(glu(), "silu")(draw(4, 3))
