"""Small random layers, Gaussians and quadrature points for tests of polynomials."""

import itertools

import numpy as np
import torch

from bilinear_lm.glu_weights import GLUWeights

F64 = torch.float64
D, H, OUT = 2, 5, 3


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def weights_of(gated, seed=0, d=D, h=H, out=OUT):
    """Small weights, so that quadrature of smooth activations is exact."""
    return GLUWeights(
        draw(d, h, seed=seed) / 2,
        draw(d, h, seed=seed + 1) if gated else None,
        draw(h, out, seed=seed + 2),
        draw(h, seed=seed + 3),
        draw(h, seed=seed + 4) if gated else None,
        draw(out, seed=seed + 5),
    )


def gaussian(seed=0, d=D):
    root = 0.6 * draw(d, d, seed=seed + 50)
    return {"mean": draw(d, seed=seed + 60), "cov": root.T @ root}


def monomials(x, degree):
    powers = [p for p in itertools.product(range(degree + 1), repeat=x.shape[1]) if sum(p) <= degree]
    return torch.stack([(x ** torch.tensor(p, dtype=F64)).prod(1) for p in powers], dim=1)


def grid(n=80):
    nodes, shares = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(n))
    shares = shares / shares.sum()
    return torch.cartesian_prod(nodes, nodes), torch.outer(shares, shares).flatten()
