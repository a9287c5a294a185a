"""The bilinear layer of a GLU against its polynomial, and against sampled and dense least squares."""

import math
import operator

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bilinear_lm.numerics.memory
import bilinear_lm.polynomials.fourth_moments
from bilinear_lm.errors import InputError
from bilinear_lm.glu_weights import double_weights
from bilinear_lm.polynomials.approximate import approximate_glu
from bilinear_lm.polynomials.bilinear import bilinear_approximation, product_form
from bilinear_lm.polynomials.fourth_moments import (
    Columns,
    pair_products,
    product_moments,
    quadratic_variance,
)
from bilinear_lm.polynomials.gaussian import Gaussian, one_gaussian
from bilinear_lm.tensor import BilinearTensor

F64 = torch.float64
D, H, OUT = 6, 9, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def glu(seed=0, dtype=F64, biases=True):
    shapes = {"W_gate": (D, H), "W_in": (D, H), "W_out": (H, OUT)}
    if biases:
        shapes |= {"b_gate": (H,), "b_in": (H,), "b_out": (OUT,)}
    return {
        name: (draw(*shape, seed=seed + i) / 2).to(dtype) for i, (name, shape) in enumerate(shapes.items())
    }


def gaussian(seed=0, dtype=F64):
    root = draw(D, D, seed=seed + 20) / 2
    return {"mean": draw(D, seed=seed + 30).to(dtype), "cov": (root.T @ root).to(dtype)}


def sample(inputs, n, seed=7):
    return inputs["mean"] + draw(n, D, seed=seed) @ torch.linalg.cholesky(inputs["cov"]).T


def explained(target, found):
    """Of sampled outputs: the shares of variance and of second moment."""
    error = (target - found).square().sum()
    return tuple(1 - float(error / (target - c).square().sum()) for c in (target.mean(0), 0.0))


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    activation=st.sampled_from(["silu", "gelu", "tanh", "sigmoid", "relu", "relu2", "linear"]),
    biases=st.booleans(),
    given_inputs=st.booleans(),
)
def test_with_biases_it_is_the_quadratic(seed, activation, biases, given_inputs):
    weights, inputs = glu(seed, biases=biases), gaussian(seed) if given_inputs else {}
    found = bilinear_approximation(**weights, activation=activation, **inputs)
    target = approximate_glu(**weights, activation=activation, **inputs)
    x = sample(inputs or {"mean": 0, "cov": torch.eye(D, dtype=F64)}, 50)
    square = target(x).square().mean().sqrt()
    assert (found(x) - target(x)).square().mean().sqrt() < 1e-5 * square
    assert found.explained_variance > 1 - 1e-9
    assert torch.equal(found.W_out, weights["W_out"])
    norms = [
        torch.cat([W, b.unsqueeze(0)]).norm(dim=0)
        for W, b in ((found.W_gate, found.b_gate), (found.W_in, found.b_in))
    ]
    assert torch.allclose(*norms)


def test_by_hand():
    one = torch.ones(1, 1, dtype=F64)
    found = bilinear_approximation(one, one, one, "relu")
    # relu(x) x = E + g x + a/2 (x² − 1) with E = 1/2, E[f'] = 2 E[relu] = 2φ(0), E[f''] = 1.
    x = torch.linspace(-2, 2, 9, dtype=F64).unsqueeze(1)
    slope = 2 / math.sqrt(2 * math.pi)
    assert torch.allclose(found(x), 0.5 + slope * x + (x.square() - 1) / 2)
    found = bilinear_approximation(one, one, one, "relu", biases=False)
    # E[x² (x²/2 + …)] / E[x⁴] = (3/2) / 3
    assert torch.allclose(found(x), x.square() / 2)
    assert found.explained_variance == pytest.approx(1 - slope**2 / (slope**2 + 0.5))
    assert found.explained_second_moment == pytest.approx(1 - slope**2 / (slope**2 + 0.75))


def test_a_linear_gate_is_kept():
    weights, inputs, x = glu(), gaussian(), draw(20, D)
    found = bilinear_approximation(**weights, activation="linear", **inputs)
    assert torch.allclose(found(x), BilinearTensor.from_layer(**weights)(x))
    assert (found.n_inexact_units, found.explained_variance, found.explained_second_moment) == (0, 1.0, 1.0)
    bare = {name: weights[name] for name in ("W_gate", "W_in", "W_out")}
    found = bilinear_approximation(**bare, activation="linear", **inputs, biases=False)
    # The gate's x·t for the constant 1 is exact here only if α and β vanish: at mean 0.
    at_zero = bilinear_approximation(**bare, activation="linear", cov=inputs["cov"], biases=False)
    assert at_zero.explained_variance > 1 - 1e-8
    assert torch.allclose(at_zero(x), BilinearTensor(**bare)(x), atol=1e-6)
    assert 0.9 < found.explained_second_moment <= 1


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh"])
@pytest.mark.parametrize("at_zero", [False, True])
def test_without_biases_it_is_the_least_squares_layer(activation, at_zero):
    weights, inputs = glu(), gaussian()
    if at_zero:
        inputs["mean"] = torch.zeros_like(inputs["mean"])
    found = bilinear_approximation(**weights, activation=activation, **inputs, biases=False)
    assert found.b_gate is found.b_in is found.b_out is None
    assert not found.tensor.constant
    x = sample(inputs, 400_000)
    target = approximate_glu(**weights, activation=activation, **inputs)(x)
    hidden = (x @ found.W_gate) * (x @ found.W_in)
    best = hidden @ torch.linalg.lstsq(hidden, target).solution
    for fraction, ours, sampled in zip(
        (found.explained_variance, found.explained_second_moment),
        explained(target, found(x)),
        explained(target, best),
        strict=True,
    ):
        assert fraction == pytest.approx(ours, abs=5e-3)
        assert ours == pytest.approx(sampled, abs=1e-4)


def test_moments_of_products_against_sampling_and_pieces(monkeypatch):
    inputs, n = gaussian(), 400_000
    at, x = Gaussian(inputs["mean"], inputs["cov"]), sample(inputs, n)
    W, V, t, W_out = draw(D, 5, seed=1) / 3, draw(D, 5, seed=2) / 3, draw(D, seed=3) / 3, draw(5, 3, seed=4)
    columns = [Columns(*draw(3, 5, seed=seed)) for seed in (5, 6, 7, 8)]
    P, Q, R, S = (each.vectors(W, V, t) for each in columns)
    assert torch.allclose(P, W * columns[0].gate + V * columns[0].up + t.outer(columns[0].shift))
    products, targets = (x @ P) * (x @ Q), BilinearTensor(R, S, W_out)(x - at.mean)
    found = product_moments((W, V, W_out), t, tuple(columns[:2]), tuple(columns[2:]), at)
    assert torch.allclose(found.means, products.mean(0), rtol=0.02, atol=0.02)
    size = float(found.gram.diagonal().mean())
    assert torch.allclose(found.gram, products.T @ products / n, rtol=0.05, atol=0.05 * size)
    crossed = (products - products.mean(0)).T @ targets / n
    assert torch.allclose(found.with_target, crossed, rtol=0.05, atol=0.05 * float(crossed.abs().mean()))
    assert found.target_variance == pytest.approx(float(targets.var(0).sum()), rel=0.03)
    assert quadratic_variance(BilinearTensor(R, S, W_out), at) == pytest.approx(found.target_variance)
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", 1)
    assert len(list(pair_products(W, V, at))) == 5
    again = product_moments((W, V, W_out), t, tuple(columns[:2]), tuple(columns[2:]), at)
    assert torch.allclose(again.gram, found.gram)
    assert torch.allclose(again.with_target, found.with_target)
    assert again.target_variance == pytest.approx(found.target_variance)


def even(y):
    """No slope at mean 0: the quadratic of even(y) z has no product form."""
    return torch.cos(y)


@pytest.mark.parametrize(("dtype", "least"), [(F64, 1 - 1e-8), (torch.float32, 1 - 1e-3)])
@pytest.mark.parametrize("slope", [0.0, 1e-12, -1e-9, 1e-5])
def test_units_without_a_product_form(dtype, least, slope):
    weights, inputs = glu(dtype=dtype), gaussian(dtype=dtype)
    weights["b_gate"] = -inputs["mean"] @ weights["W_gate"]  # y ~ N(0, s²)
    double = {name: each.double() for name, each in weights.items()}
    double_inputs = {name: each.double() for name, each in inputs.items()}

    def activation(y):
        return even(y) + slope * y

    found = bilinear_approximation(**weights, activation=activation, **inputs)
    assert all(torch.isfinite(each).all() for each in vars(found).values() if isinstance(each, torch.Tensor))
    target = approximate_glu(**double, activation=activation, **double_inputs)
    x = sample(double_inputs, 20_000)
    y = target(x)
    assert least < found.explained_variance <= 1
    assert explained(y, found.to(F64)(x))[0] > least
    if dtype == torch.float32 or abs(slope) < 1e-6:
        assert found.n_inexact_units == H
        assert found.explained_variance < 1
    # What rounding adds to the reported loss stays of its order.
    assert explained(y, found(x.to(dtype)).double())[0] > 1 - 4 * (1 - least)


def test_units_that_do_not_move_or_do_nothing():
    weights, inputs = glu(), gaussian()
    weights["W_gate"][:, 0] = 0  # a constant gate
    weights["W_gate"][:, 1] = weights["W_in"][:, 1] = 0  # a constant unit
    weights["W_in"][:, 2], weights["b_in"][2] = 0, 0  # a unit that is 0
    x = sample(inputs, 30)
    found = bilinear_approximation(**weights, activation="silu", **inputs)
    target = approximate_glu(**weights, activation="silu", **inputs)
    assert torch.allclose(found(x), target(x))
    assert (found.n_inexact_units, found.explained_variance) == (0, 1.0)
    found = bilinear_approximation(**weights, activation="silu", **inputs, biases=False)
    assert torch.isfinite(found(x)).all()
    zero = bilinear_approximation(*(torch.zeros(shape) for shape in ((D, H), (D, H), (H, OUT))), "silu")
    assert not zero(x.float()).any()


def test_singular_covariance_and_fixed_inputs():
    weights, inputs = glu(), gaussian()
    line = draw(D, seed=5)
    x = inputs["mean"] + torch.linspace(-3, 3, 13, dtype=F64).unsqueeze(1) * line
    inputs["cov"] = line.outer(line)
    target = approximate_glu(**weights, activation="silu", **inputs)
    assert torch.allclose(bilinear_approximation(**weights, activation="silu", **inputs)(x), target(x))
    found = bilinear_approximation(**weights, activation="silu", **inputs, biases=False)
    # On a line through a point off the origin, 1 is x·t exactly, and so nothing is lost.
    assert found.explained_variance > 1 - 1e-8
    assert torch.allclose(found(x), target(x), rtol=1e-3, atol=1e-3)
    fixed = {"mean": inputs["mean"], "cov": torch.zeros(D, D)}
    target = approximate_glu(**weights, activation="silu", **fixed)
    for biases in (True, False):
        found = bilinear_approximation(**weights, activation="silu", **fixed, biases=biases)
        assert torch.allclose(found(fixed["mean"]), target(fixed["mean"]))


def test_precision_follows_the_weights():
    weights, inputs = glu(dtype=torch.float32), gaussian(dtype=torch.float32)
    for biases in (True, False):
        found = bilinear_approximation(**weights, activation="silu", **inputs, biases=biases)
        parts = [each for each in vars(found).values() if isinstance(each, torch.Tensor)]
        assert {part.dtype for part in parts} == {torch.float32}
        assert len(parts) == (6 if biases else 3)
        assert found.tensor.constant == biases


def test_both_layers_from_one_form():
    weights, inputs = glu(dtype=torch.float32), gaussian(dtype=torch.float32)
    layer = double_weights(**weights)
    form = product_form(layer, "gelu", one_gaussian(**inputs, like=layer.W_gate), torch.float32)
    for found, biases in ((form.without_biases(), False), (form.with_biases(), True)):
        expected = bilinear_approximation(**weights, activation="gelu", **inputs, biases=biases)
        for name, value in vars(expected).items():
            same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
            assert same(getattr(found, name), value), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": draw(2, D)}, "a mixture of 2; expected one Gaussian"),
        ({"mean": draw(D + 1)}, r"mean of shape \[7\]; expected \[6\]"),
        ({"cov": -torch.eye(D)}, "negative eigenvalues"),
        ({"cov": math.nan * torch.eye(D)}, "cov holds numbers that are not finite"),
        ({"W_in": draw(D, H + 1)}, r"W_in \[6, 10\]"),
        ({"activation": "softmax"}, "'softmax' is not known by name"),
    ],
)
def test_errors_say_what_was_wrong(changes, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for a user, without shape checks
    with pytest.raises(InputError, match=message):
        bilinear_approximation(**{**glu(), "activation": "silu", **changes})
