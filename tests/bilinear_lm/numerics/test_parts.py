"""Parts of a tensor by degree, which add up to the layer."""

import pytest
import torch

from bilinear_lm import BilinearTensor
from bilinear_lm.numerics.parts import affine_part, quadratic_part


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("axes", [(), (4,), (2, 3)])
def test_parts_add_up_to_the_layer(biases, axes):
    torch.manual_seed(0)
    factors = [torch.randn(shape, dtype=torch.float64) for shape in ((5, 7), (5, 7), (7, 3))]
    given = [torch.randn(n, dtype=torch.float64) for n in (7, 7, 3)] if biases else [None] * 3
    tensor = BilinearTensor.from_layer(*factors, *given)
    u, x = (torch.randn(*shape, dtype=torch.float64) for shape in ((*axes, 3), (6, 5)))
    linear, constant = affine_part(tensor, u)
    assert (linear.shape, constant.shape) == ((*axes, 5), axes)
    parts = quadratic_part(tensor)(x) @ u.mT if axes else quadratic_part(tensor)(x) @ u
    affine = x @ linear.mT + constant.unsqueeze(-2) if axes else x @ linear + constant
    whole = tensor(x) @ (u.mT if axes else u)
    torch.testing.assert_close(parts + affine, whole)
    assert bool(linear.any()) == biases
