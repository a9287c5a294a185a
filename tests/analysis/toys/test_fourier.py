"""Fourier modes: waves and their projections, the interaction matrices of modular addition, refusals."""

import pytest
import torch

from analysis.spectra.eigen import eigendecompose
from analysis.toys.fourier import frequency_shares
from bilinear_lm.errors import InputError
from bilinear_lm.tensor import BilinearTensor


@pytest.mark.parametrize("p", [7, 8])
def test_shares_are_squared_projections_on_waves(p):
    vectors = torch.randn(3, 2, p, dtype=torch.float64)
    j = torch.arange(p, dtype=torch.float64)
    shares = frequency_shares(vectors)
    assert shares.shape == (3, p // 2 + 1)
    for k in range(p // 2 + 1):
        waves = torch.stack([torch.cos(2 * torch.pi * k * j / p), torch.sin(2 * torch.pi * k * j / p)], -1)
        onto = waves @ torch.linalg.pinv(waves, rtol=1e-9)
        power = (vectors @ onto).square().sum((-2, -1)) / vectors.square().sum((-2, -1))
        torch.testing.assert_close(shares[:, k], power)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, dtype=torch.float64))


def test_eigenvectors_of_a_layer_that_adds_have_one_frequency():
    """Logit c of Σ_k w_k cos(2πk(a + b − c)/p), by cos(x + y) = cos x cos y − sin x sin y."""
    p, j = 11, torch.arange(11, dtype=torch.float64)
    gates, ins, outs = [], [], []
    for k, weight in ((2, 1.0), (5, 0.4)):
        cos, sin, zero = torch.cos(2 * torch.pi * k * j / p), torch.sin(2 * torch.pi * k * j / p), 0 * j
        for left, right, out in ((cos, cos, cos), (sin, sin, -cos), (sin, cos, sin), (cos, sin, sin)):
            gates.append(torch.cat([left, zero]))
            ins.append(torch.cat([zero, right]))
            outs.append(weight * out)
    layer = BilinearTensor(torch.stack(gates, 1), torch.stack(ins, 1), torch.stack(outs))
    one_hot = torch.eye(p, dtype=torch.float64)
    x = torch.cat([one_hot[3], one_hot[9]])
    assert int(layer(x).argmax()) == (3 + 9) % p
    eigen = eigendecompose(layer, one_hot[4], k=8)
    shares = frequency_shares(eigen.vectors.reshape(8, 2, p))
    assert shares.amax(-1).min() > 1 - 1e-9
    assert shares.argmax(-1).tolist() == [2] * 4 + [5] * 4


def test_refusals():
    with pytest.raises(InputError, match=r"vectors over residues \[0, 7\]; expected \[..., parts, p\]"):
        frequency_shares(torch.zeros(0, 7))
