"""Random layers, and layers with a given spectrum."""

import torch

from bilinear_lm import BilinearTensor

ONE = torch.ones(1, dtype=torch.float64)
"""The output direction of a layer with one output."""


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_layer(d_in, d_mlp, d_out, decay=0.0):
    """A random layer; with a decay its hidden units, and so its eigenvalues, fall off as a power."""
    sizes = torch.arange(1, d_mlp + 1, dtype=torch.float64) ** -decay
    W_out = draw(d_mlp, d_out, seed=2) * sizes.unsqueeze(1)
    return BilinearTensor(draw(d_in, d_mlp), draw(d_in, d_mlp, seed=1), W_out)


def with_spectrum(values):
    """A layer with one output whose interaction matrix has these eigenvalues and random eigenvectors."""
    values = torch.as_tensor(values, dtype=torch.float64)
    rotation = torch.linalg.qr(draw(len(values), len(values), seed=5)).Q
    return BilinearTensor(rotation * values, rotation, torch.ones(len(values), 1).double()), rotation
