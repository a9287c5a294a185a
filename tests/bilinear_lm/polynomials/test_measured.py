"""Polynomials fitted to measured points against numpy, and R² against its definition."""

import numpy as np
import pytest
import torch

import bilinear_lm.polynomials.measured
from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.measured import RSquared, fit_polynomial

from .layers import draw, monomials


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("far", [0.0, 1e4])
def test_against_numpy(degree, far):
    x = draw(400, 4) @ draw(4, 4, seed=1)
    y = torch.stack([x.sin().sum(1), x.prod(1), x[:, 0] * x[:, 1]], dim=1) + 3
    phi = monomials(x, degree).numpy()
    expected = phi @ np.linalg.lstsq(phi, y.numpy(), rcond=None)[0]
    found = fit_polynomial(zip((x + far).split(130), y.split(130), strict=True), degree)
    assert np.allclose(found.polynomial(x + far), expected, atol=1e-6)
    residual = np.square(y.numpy() - expected).sum() / np.square(y.numpy() - y.numpy().mean(0)).sum()
    assert found.r_squared == pytest.approx(1 - residual, abs=1e-7)
    assert found.n_points == 400


def test_a_quadratic_is_found_on_any_inputs():
    x = draw(300, 5).exp()
    y = torch.stack([x[:, 0] * x[:, 1] - x[:, 2].square(), x.sum(1)], dim=1)
    found = fit_polynomial([(x.reshape(3, 100, 5), y.reshape(3, 100, 2))])
    new = draw(20, 5, seed=3).exp()
    expected = torch.stack([new[:, 0] * new[:, 1] - new[:, 2].square(), new.sum(1)], dim=1)
    assert torch.allclose(found.polynomial(new), expected, rtol=1e-6, atol=1e-5)
    still = torch.cat([x, torch.ones(300, 2)], dim=1)  # coordinates that do not vary
    assert fit_polynomial([(still.float(), y.float())]).r_squared > 1 - 1e-6
    assert fit_polynomial([(still.float(), y.float())]).polynomial.linear.dtype == torch.float32


def test_r_squared_of_extremes():
    y = draw(50, 2)
    exact, still = RSquared(), RSquared()
    exact.add(y, y)
    assert exact.value == 1
    still.add(torch.ones(5, 2), torch.zeros(5, 2))
    assert still.value == -np.inf
    assert still.standard_error == np.inf
    with pytest.raises(InputError, match="R² of no points"):
        _ = RSquared().value


def test_standard_error_is_the_spread_over_draws():
    values, errors = [], []
    for seed in range(200):
        x, noise = draw(400, 1, seed=seed), draw(400, 1, seed=seed + 1000)
        measured = RSquared()
        measured.add(x + 10 + noise, x + 10)
        values.append(measured.value)
        errors.append(measured.standard_error)
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.2)


def test_errors_say_what_was_wrong(monkeypatch):
    x, y = draw(30, 4), draw(30, 2)
    with pytest.raises(InputError, match="10 points for 15 monomials"):
        fit_polynomial([(x[:10], y[:10])])
    with pytest.raises(InputError, match="no points to fit"):
        fit_polynomial([])
    with pytest.raises(InputError, match="degree 3 of a fitted polynomial; expected 1 or 2"):
        fit_polynomial([(x, y)], 3)
    with pytest.raises(InputError, match="expected the same points in both"):
        fit_polynomial([(x, y[:10])])
    with pytest.raises(InputError, match=r"widths \(4, 1\) after pieces of \(4, 2\)"):
        fit_polynomial([(x, y), (x, y[:, :1])])
    with pytest.raises(InputError, match="x of a fit holds NaN"):
        fit_polynomial([(x * torch.nan, y)])
    monkeypatch.setattr(bilinear_lm.polynomials.measured, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"15 monomials of 4 coordinates needs 3,600 bytes.*use degree=1"):
        fit_polynomial([(x, y)])
