"""Gaussian moments of activations against closed forms, derivatives by the mean, and brute quadrature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import bilinear_lm.numerics.memory
import bilinear_lm.polynomials.quadrature
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.hermite import (
    activation_function,
    activation_names,
    derivative_moments,
    hermite_moments,
    swish,
)

F64 = torch.float64
SPREADS = [1e-6, 1e-2, 0.3, 1.0, 8.0, 100.0, 1e5]
EXACT = ["relu", "relu2", "gelu", "linear"]
SMOOTH = ["tanh", "sigmoid", "silu", "gelu_pytorch_tanh", "quick_gelu"]


def numbers(*values):
    return torch.tensor(values, dtype=F64)


def trapezoid(function, mean, spread, order, step=2e-3):
    """Σ over a fine grid of y: spectrally accurate for smooth functions, at any spread."""
    grid = step * max(min(spread, 1.0), 1e-300)
    half = math.ceil(12 * spread / grid)
    total = np.zeros(order + 1)
    for start in range(-half, half + 1, 2**20):
        y = grid * np.arange(start, min(start + 2**20, half + 1))
        xi = y / spread
        weighted = function(torch.from_numpy(mean + y)).numpy() * np.exp(-(xi**2) / 2)
        hermite = [np.ones_like(xi), xi, xi**2 - 1, xi**3 - 3 * xi]
        total += [float((weighted * row).sum()) for row in hermite[: order + 1]]
    return torch.from_numpy(total) * grid / spread / math.sqrt(2 * math.pi)


def size(name, mean, spread):
    """sqrt(E[σ²]) + 0.01 min(1, sqrt(E[y²])), in which errors are stated."""
    function = activation_function(name)
    square = hermite_moments(lambda y: function(y).square(), mean, spread, 0)[0]
    return square.sqrt() + 0.01 * torch.hypot(mean, spread).clamp(max=1)


def test_by_hand():
    half = 1 / math.sqrt(2 * math.pi)
    found = hermite_moments("relu", numbers(0.0, 0.0), numbers(1.0, 2.0), order=3)
    assert torch.allclose(found, numbers(half, 2 * half, 0.5, 1.0, half, 2 * half, 0, 0).reshape(4, 2))
    found = hermite_moments("relu2", numbers(0.0), numbers(2.0), order=3)[:, 0]
    assert torch.allclose(found, numbers(2.0, 8 * half, 4.0, 8 * half))  # E[y²]/2, 2s E[relu], …
    # E[y Φ(y)] = s²/sqrt(2π (1 + s²)), E[σ'] = 1/2, E[σ''] = φ(0) (1 + 2s²... at s = 1) = 3/(2·sqrt(4π)).
    found = derivative_moments("gelu", numbers(0.0), numbers(1.0), order=3)[:, 0]
    assert torch.allclose(found, numbers(half / 2**0.5, 0.5, 1.5 * half / 2**0.5, 0.0))
    assert hermite_moments("linear", numbers(3.0), numbers(2.0), order=3)[:, 0].tolist() == [3, 2, 0, 0]
    square = hermite_moments(torch.square, numbers(3.0), numbers(2.0), order=3)[:, 0]
    assert torch.allclose(square, numbers(13.0, 12.0, 8.0, 0.0), atol=1e-12)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", EXACT)
def test_closed_forms_against_the_integral(name, spread):
    mean = numbers(-9.0, -3.0, -0.5, 0.0, 1e-3, 2.0, 40.0)
    s = torch.full_like(mean, spread)
    function = activation_function(name)
    closed, integrated = hermite_moments(name, mean, s, 3), hermite_moments(lambda y: function(y), mean, s, 3)
    assert ((closed - integrated).abs() <= 1e-12 * size(name, mean, s)).all()


@pytest.mark.parametrize("spread", [1e-3, 0.3, 1.0, 8.0, 100.0])
@pytest.mark.parametrize("name", [*SMOOTH, "gelu"])
def test_smooth_activations_at_any_spread(name, spread):
    mean = numbers(-6.0, -0.7, 0.0, 1.3)
    s = torch.full_like(mean, spread)
    found = hermite_moments(name, mean, s, 3)
    dense = [trapezoid(activation_function(name), float(m), spread, 3, step=0.02) for m in mean]
    assert ((found - torch.stack(dense, dim=1)).abs() <= 1e-12 * size(name, mean, s)).all()


def test_tanh_where_fifty_hermite_nodes_fail():
    nodes, weights = np.polynomial.hermite_e.hermegauss(50)
    crude = float((np.tanh(1 + 8 * nodes) * weights).sum() / weights.sum())
    found = float(hermite_moments("tanh", numbers(1.0), numbers(8.0), 0))
    dense = float(trapezoid(torch.tanh, 1.0, 8.0, 0))
    assert abs(found - dense) < 1e-13
    assert abs(crude - dense) > 1e-3


def test_derivatives_by_the_mean():
    mean = torch.linspace(-2, 2, 5, dtype=F64)
    s = torch.full_like(mean, 0.8)
    for name in (*SMOOTH, *EXACT):
        found, step = derivative_moments(name, mean, s, 3), 1e-4
        for k in range(3):
            ends = [derivative_moments(name, mean + sign * step, s, 3)[k] for sign in (1, -1)]
            assert torch.allclose((ends[0] - ends[1]) / (2 * step), found[k + 1], atol=1e-5), name


@settings(deadline=None)
@given(
    mean=st.floats(-20, 20),
    spread=st.just(0.0) | st.floats(1e-3, 1e4),
    kink=st.floats(-5, 5),
    slope=st.floats(-3, 3),
    jump=st.floats(-2, 2),
)
def test_kinks_and_jumps_anywhere(mean, spread, kink, slope, jump):
    def bent(y):
        return torch.where(y > kink, (y - kink) * slope + jump, 0.0)

    m, s = numbers(mean), numbers(spread)
    found = hermite_moments(bent, m, s, 2)
    expected = torch.zeros(3, 1, dtype=F64)
    if spread == 0:
        expected[0] = bent(m)
    else:
        t = (m - kink) / s
        step = torch.special.ndtr(t), *((t**k) * torch.exp(-t.square() / 2) for k in range(2))
        density = step[1] / math.sqrt(2 * math.pi)
        ramp = hermite_moments("relu", m - kink, s, 2)
        expected = slope * ramp + jump * torch.stack([step[0], density, -t * density])
    bound = 1e-9 * (abs(jump) + abs(slope) * (abs(mean - kink) + spread) + 0.01)
    assert ((found - expected).abs() <= bound).all()


def test_point_masses():
    found = hermite_moments("silu", numbers(-1.0, 0.0, 3.0), numbers(0.0, 0.0, 0.0), 3)
    assert torch.equal(found[0], F.silu(numbers(-1.0, 0.0, 3.0)))
    assert not found[1:].any()
    assert not derivative_moments("relu", numbers(0.0), numbers(0.0), 3).any()


def test_swish():
    mean, s = torch.randn(4, dtype=F64), torch.rand(4, dtype=F64)
    assert torch.allclose(hermite_moments(swish(1.0), mean, s), hermite_moments("silu", mean, s))
    assert torch.allclose(hermite_moments(swish(0.0), mean, s), hermite_moments("linear", mean, s) / 2)
    sharp = hermite_moments(swish(1e7), mean, s)
    assert torch.allclose(sharp, hermite_moments("relu", mean, s), atol=1e-6)
    with pytest.raises(InputError, match="beta=nan"):
        swish(math.nan)


def test_modules_of_transformers_and_torch():
    from transformers.activations import ACT2FN

    mean, s = torch.randn(6, dtype=F64) * 2, torch.rand(6, dtype=F64) * 3
    for name in (*activation_names(), "leaky_relu", "relu6", "hardswish", "mish"):
        if name == "identity":
            continue
        module = hermite_moments(ACT2FN[name], mean, s, 3)
        if name in activation_names():
            assert torch.allclose(hermite_moments(name, mean, s, 3), module, atol=1e-9), name
    leaky = 0.99 * hermite_moments("relu", mean, s, 3) + 0.01 * hermite_moments("linear", mean, s, 3)
    assert torch.allclose(hermite_moments(torch.nn.LeakyReLU(0.01), mean, s, 3), leaky)


def test_shapes_dtypes_and_pieces(monkeypatch):
    mean, s = torch.randn(3, 5), torch.rand(3, 5)
    whole = hermite_moments("silu", mean, s, 1)
    assert whole.shape == (2, 3, 5)
    assert whole.dtype == F64
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", 1)
    assert torch.allclose(hermite_moments("silu", mean, s, 1), whole, atol=1e-15)
    assert hermite_moments("silu", mean[:0], s[:0], 1).shape == (2, 0, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: hermite_moments("sillu", m, m), "'sillu' is not known by name; .*silu"),
        (lambda m: hermite_moments("silu", m, m, 65), "order 65; expected 0 to 64"),
        (lambda m: hermite_moments("silu", m, -m), "at least 0"),
        (lambda m: hermite_moments("silu", m * math.nan, m), "must be finite"),
        (lambda m: hermite_moments(torch.exp, m, 100 * m), "not finite|grows too fast"),
        (lambda m: hermite_moments(lambda y: torch.exp(y**2), m, 2 * m), "grows too fast"),
        (lambda m: hermite_moments(torch.log, m, m), "log is not finite"),
        (lambda m: hermite_moments(torch.sum, m, m), r"sum .* is \[\]; expected the same shape"),
        (lambda m: hermite_moments(lambda y: y.float().tanh().double(), m, m), "did not settle"),
    ],
)
def test_errors_say_what_was_wrong(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.ones(3, dtype=F64))
