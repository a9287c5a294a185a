"""Weights of GLUs and MLPs against torch's own layers."""

import pytest
import torch
from torch.nn.functional import linear, silu

from bilinear_lm import GLUWeights, InputError

W_GATE, W_IN, W_OUT = torch.randn(4, 6), torch.randn(4, 6), torch.randn(6, 3)
B_GATE, B_IN, B_OUT = torch.randn(6), torch.randn(6), torch.randn(3)
X = torch.randn(5, 4)


def test_outputs_and_missing_biases():
    whole = GLUWeights(W_GATE, W_IN, W_OUT, B_GATE, B_IN, B_OUT)
    hidden = silu(linear(X, W_GATE.T, B_GATE)) * linear(X, W_IN.T, B_IN)
    assert torch.allclose(whole.output(X, silu), linear(hidden, W_OUT.T, B_OUT), atol=1e-5)
    assert all(given is kept for given, kept in zip((B_GATE, B_IN, B_OUT), whole.biases, strict=True))
    bare = GLUWeights(W_GATE, W_IN, W_OUT)
    assert [bias.shape for bias in bare.biases] == [(6,), (6,), (3,)]
    assert not torch.cat(bare.biases).any()
    assert list(bare.weights) == ["W_gate", "W_in", "W_out"]
    assert bare.d_out == 3


def test_an_mlp_has_no_ungated_factor():
    mlp = GLUWeights(W_GATE, None, W_OUT, B_GATE, None, B_OUT)
    expected = linear(silu(linear(X, W_GATE.T, B_GATE)), W_OUT.T, B_OUT)
    assert torch.allclose(mlp.output(X, silu), expected, atol=1e-5)
    assert mlp.to(torch.float64).W_in is None
    with pytest.raises(InputError, match="the tensor of an MLP without W_in"):
        _ = mlp.tensor
