"""Rescaling by powers of two: exact, balanced, and refused where the precision ends."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilinear_lm import InputError
from bilinear_lm.numerics.rescaling import (
    balanced,
    exponent,
    exponents,
    in_precision,
    norms,
    require_holds,
    spread,
    times_two_to,
    unit_vectors,
)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_exponent_is_the_least(number):
    power = exponent(torch.tensor([number]))
    assert power == (math.frexp(number)[1] if number else 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(power=st.integers(-200, 200))
def test_there_and_back_is_exact(dtype, power):
    x = draw(5, dtype=dtype)
    most = -math.frexp(torch.finfo(dtype).tiny)[1] - 8
    power = max(-most, min(most, power))
    there = times_two_to(x, power)
    assert torch.equal(there.double(), x.double() * 2.0**power)
    assert torch.equal(times_two_to(there, -power), x)
    assert torch.equal(times_two_to(x, torch.full((5,), power)), there)


@pytest.mark.parametrize("power", [-1040, -150, 150, 1040])
def test_powers_beyond_one_step(power):
    x = torch.tensor([2.0 ** (-power // 2)], dtype=torch.float64)
    assert float(times_two_to(x, power)) == 2.0 ** (-power // 2 + power)


@given(power=st.integers(-120, 120), rows=st.integers(1, 4))
def test_norms_and_unit_vectors_of_any_size(power, rows):
    x = times_two_to(draw(rows, 7, seed=rows, dtype=torch.float32), power)
    assert torch.allclose(norms(x, 1).double(), x.double().norm(dim=1), rtol=1e-6, atol=0)
    assert torch.allclose(unit_vectors(x, 1).norm(dim=1), torch.ones(rows))
    assert torch.equal(unit_vectors(torch.zeros(rows, 7), 1), torch.zeros(rows, 7))


def dense(W_gate, W_in, W_out):
    return torch.einsum("ih,jh,ho->oij", W_gate, W_in, W_out)


@given(powers=st.tuples(*3 * [st.integers(-100, 100)]), unit=st.integers(-60, 60))
def test_balanced_is_the_same_layer_with_sizes_near_one(powers, unit):
    factors = [times_two_to(draw(4, 4, seed=i, dtype=torch.float32), power) for i, power in enumerate(powers)]
    # One hidden unit is as it was, but its two sides are not.
    factors[0][:, 0] = times_two_to(factors[0][:, 0], -unit // 4)
    result, power = balanced(*factors)
    expected = dense(*(factor.double() for factor in factors))
    got = dense(*(factor.double() for factor in result)) * 2.0**power
    assert torch.equal(got, expected) or torch.allclose(got, expected, rtol=1e-15, atol=0)
    assert all(2.0**-13 <= float(factor.abs().max()) <= 2.0**13 for factor in result)


def test_ordinary_factors_stay_as_they_are():
    factors = [draw(4, 4, seed=i) for i in range(3)]
    result, power = balanced(*factors)
    assert power == 0
    assert all(one is other for one, other in zip(result, factors, strict=True))


def test_units_that_are_zero_and_weights_that_are_not_finite():
    W_gate, W_in, W_out = (draw(4, 4, seed=i, dtype=torch.float32) * 1e-20 for i in range(3))
    W_gate[:, 1], W_in[:, 1], W_out[1] = 0.0, 1e30, 1e30
    result, power = balanced(W_gate, W_in, W_out)
    got, expected = (
        dense(*result).double() * 2.0**power,
        dense(W_gate.double(), W_in.double(), W_out.double()),
    )
    assert torch.allclose(got, expected, rtol=1e-5, atol=0)
    with pytest.raises(InputError, match="W_in holds NaN or infinity"):
        balanced(W_gate, W_in * math.inf, W_out)


def test_results_beyond_the_precision_are_refused():
    x = torch.tensor([[0.5, 0.0], [0.75, 0.25]])
    assert torch.equal(in_precision(x, 3, torch.float32, "numbers"), x * 8)
    for power, message in (
        (200, "numbers overflow torch.float32"),
        (-200, "numbers underflow torch.float32"),
    ):
        with pytest.raises(InputError, match=message):
            in_precision(x, power, torch.float32, "numbers")
    with pytest.raises(InputError, match="underflow"):
        in_precision(x, torch.tensor([[-200], [0]]), torch.float32, "numbers", dim=1)
    assert not in_precision(0 * x, 500, torch.float32, "numbers").any()


def test_a_term_below_the_rounding_of_another_may_be_lost():
    term = torch.tensor([1e-60], dtype=torch.float64)
    require_holds(torch.float32, term, "term", beside=1.0)
    with pytest.raises(InputError, match=r"term underflows torch.float32"):
        require_holds(torch.float32, term, "term", beside=1e-60)
    with pytest.raises(InputError, match=r"term overflows torch.float16"):
        require_holds(torch.float16, term * 1e66, "term", beside=1.0)


def test_a_power_that_one_factor_cannot_hold_is_spread():
    factors = [draw(3, 3, seed=i, dtype=torch.float32) for i in range(3)]
    result = spread(factors, [0, 0, 300], torch.float32)
    got = dense(*(factor.double() for factor in result))
    assert torch.allclose(got, dense(*(factor.double() for factor in factors)) * 2.0**300, rtol=1e-12)
    with pytest.raises(InputError, match="factors of a bilinear tensor overflow"):
        spread(factors, [0, 0, 500], torch.float32)


def test_exponents_of_axes():
    assert exponents(torch.tensor([[0.0, 0.0], [3.0, -5.0]]), 1).tolist() == [0, 3]
    assert exponent(torch.zeros(0)) == 0
