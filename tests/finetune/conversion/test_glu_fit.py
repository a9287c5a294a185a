"""Bilinear layers fitted to GLUs: exact where one exists, better than closed forms at skewed inputs."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, relu, silu

from bilinear_lm import InputError, bilinear_approximation
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.polynomials.measured import Moments
from finetune import FitSettings, fit_bilinear
from finetune.conversion.glu_fit import LINEAR, best_lines, explained

QUICK = FitSettings(steps=150, batch_size=256)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def glu(biases=False, d=8, h=12):
    W_gate, W_in, W_out = draw(d, h, seed=1), draw(d, h, seed=2) / d**0.5, draw(h, d, seed=3) / h**0.5
    added = [0.5 * draw(h, seed=4), 0.5 * draw(h, seed=5), draw(d, seed=6)] if biases else []
    return GLUWeights(W_gate / d**0.5, W_in, W_out, *added)


def closed_form(layer, points, biases):
    moments = Moments.of([points])
    found = bilinear_approximation(
        **vars(layer), activation=silu, mean=moments.mean, cov=moments.cov, biases=biases
    )
    return GLUWeights(**{name: getattr(found, name) for name in vars(layer)})


@pytest.mark.parametrize("biases", [True, False])
def test_better_than_the_closed_form_on_skewed_inputs(biases):
    points = draw(6000, 8).exp() - 1
    layer = glu()
    fitted = fit_bilinear(layer, silu, points[:5000], biases=biases, settings=QUICK)
    r_squared = [
        explained(found, layer, silu, points[5000:])
        for found in (
            fitted,
            closed_form(layer, points[:5000], biases),
            best_lines(layer, silu, points, biases),
        )
    ]
    assert r_squared[0] > 0.95
    assert 1 - r_squared[0] < 0.25 * (1 - max(r_squared[1:]))


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_biases_only_where_they_are_wanted(has, biases):
    fitted = fit_bilinear(glu(has), silu, draw(500, 8), biases=biases, settings=FitSettings(steps=3))
    for bias in (fitted.b_gate, fitted.b_in, fitted.b_out):
        assert (bias is not None) == biases
    assert all(value.dtype == torch.float32 for value in vars(fitted).values() if value is not None)


def test_a_layer_that_is_bilinear_already_is_found_again():
    layer = glu(biases=True)
    fitted = fit_bilinear(layer, nn.Identity(), draw(2000, 8), settings=FitSettings(steps=0))
    torch.testing.assert_close(
        fitted.output(draw(50, 8), LINEAR), layer.output(draw(50, 8), LINEAR), rtol=1e-3, atol=1e-3
    )


def test_the_output_weights_are_the_least_squares_ones():
    layer, points = glu(biases=True), draw(3000, 8)
    fitted = fit_bilinear(layer, gelu, points, settings=QUICK)
    units = torch.cat([fitted.hidden(points, LINEAR), torch.ones(len(points), 1)], dim=1).double()
    solved = torch.linalg.lstsq(units, layer.output(points, gelu).double()).solution
    torch.testing.assert_close(fitted.W_out.double(), solved[:-1], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(fitted.b_out.double(), solved[-1], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("activation", [silu, relu])
def test_best_lines_unit_by_unit(activation):
    layer, points = glu(biases=True), draw(4000, 8) + 0.3
    y = points @ layer.W_gate + layer.b_gate
    value = activation(y)
    for unit in (0, 7):
        ones = torch.ones(len(points), 1)
        line = torch.linalg.lstsq(torch.cat([y[:, [unit]], ones], 1), value[:, [unit]]).solution
        with_offset = best_lines(layer, activation, points)
        torch.testing.assert_close(
            points @ with_offset.W_gate[:, unit] + with_offset.b_gate[unit],
            (y[:, unit] * line[0] + line[1]),
            rtol=1e-3,
            atol=1e-4,
        )
        bare = best_lines(
            dataclasses.replace(layer, b_gate=None, b_in=None), activation, points, biases=False
        )
        through_zero = points @ layer.W_gate[:, unit]
        slope = (through_zero * activation(through_zero)).sum() / through_zero.square().sum()
        torch.testing.assert_close(bare.W_gate[:, unit], layer.W_gate[:, unit] * slope, rtol=1e-4, atol=1e-5)


def test_explained_by_hand():
    """B(x) = x² beside relu(x) x at -1, 1, 2: errors 1, 0, 0; targets 0, 1, 4 of variance 26/9."""
    one = torch.ones(1, 1)
    layer, points = GLUWeights(one, one, one), torch.tensor([[-1.0], [1.0], [2.0]])
    assert explained(layer, layer, relu, points) == pytest.approx(1 - 1 / 3 / (26 / 9))


def test_the_same_seed_gives_the_same_layer():
    layer, points = glu(), draw(800, 8)
    first, again, other = (
        fit_bilinear(layer, silu, points, settings=FitSettings(steps=20, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.W_out, again.W_out)
    assert not torch.equal(first.W_out, other.W_out)


def test_bad_settings_and_divergence():
    with pytest.raises(InputError, match="expected steps of at least 0"):
        fit_bilinear(glu(), silu, draw(10, 8), settings=FitSettings(steps=-1))
    with pytest.raises(InputError, match=r"diverged at a relative learning rate of 1e\+30"):
        fit_bilinear(glu(), silu, draw(100, 8), settings=FitSettings(steps=5, learning_rate=1e30))
