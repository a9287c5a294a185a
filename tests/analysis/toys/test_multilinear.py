"""Multilinear polynomials against sums over subsets, and of layers against their forward pass."""

import itertools

import pytest
import torch

from analysis.toys.multilinear import (
    coefficients_of,
    composed_polynomials,
    corner_values,
    degrees,
    layer_polynomials,
)
from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import boolean_inputs
from bilinear_lm.networks.toy import ToyModel, ToySettings
from bilinear_lm.tensor import BilinearTensor


def model(batch=(), **settings) -> ToyModel:
    draws = torch.Generator().manual_seed(0)
    made = ToyModel(ToySettings(**{"n_inputs": 4, "n_outputs": 2} | settings), batch, draws).double()
    for name, parameter in made.named_parameters():
        if "b_" in name:
            parameter.data.normal_(generator=draws)
    return made.requires_grad_(False)


def test_values_are_sums_over_subsets():
    coefficients = torch.randn(2, 8, dtype=torch.float64)
    values = corner_values(coefficients)
    for number, bits in enumerate(itertools.product((0, 1), repeat=3)):
        expected = torch.zeros(2, dtype=torch.float64)
        for subset, inside in enumerate(itertools.product((0, 1), repeat=3)):
            if all(bit >= each for bit, each in zip(bits, inside, strict=True)):
                expected += coefficients[:, subset]
        torch.testing.assert_close(values[:, number], expected)
    torch.testing.assert_close(coefficients_of(values), coefficients)


def test_degrees_count_inputs():
    assert degrees(3).tolist() == [0, 1, 1, 2, 1, 2, 2, 3]


@pytest.mark.parametrize("bias", [False, True])
def test_the_polynomial_of_a_layer_is_the_layer(bias):
    toy = model((3,), bias=bias)
    polynomials = layer_polynomials(toy.folded()[0])
    torch.testing.assert_close(corner_values(polynomials), toy(boolean_inputs(4)).mT)
    assert not polynomials[..., degrees(4) > 2].any()
    assert polynomials[..., 0].any() == bias


@pytest.mark.parametrize("bias", [False, True])
def test_the_polynomial_of_two_layers_is_the_model(bias):
    toy = model((2, 3), n_layers=2, bias=bias)
    polynomials = composed_polynomials(toy.folded())
    torch.testing.assert_close(corner_values(polynomials), toy(boolean_inputs(4)).mT)


def test_layers_that_do_not_follow_each_other_are_refused():
    first, second = model(n_layers=2).folded()
    with pytest.raises(InputError, match="layer 1 reads 4 numbers and layer 0 gives 2; expected layers that"):
        composed_polynomials([second, first])
    with pytest.raises(InputError, match="a composition of no layers"):
        composed_polynomials([])
    wide = torch.randn(11, 2)
    with pytest.raises(InputError, match="a layer of 11 inputs on boolean inputs; expected 1 to 10"):
        layer_polynomials(BilinearTensor(wide, wide, torch.ones(2, 1)))
    with pytest.raises(InputError, match=r"values on boolean inputs \[6\]; expected a last axis of 2ⁿ"):
        corner_values(torch.zeros(6))
