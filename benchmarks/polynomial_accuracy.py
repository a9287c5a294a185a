"""Closed-form polynomials beside least squares on samples and on quadrature points.

    python benchmarks/polynomial_accuracy.py [--samples 2000000] [--seed 0]

For 8 activations, MLPs and GLUs, degrees 1 to 4, under a Gaussian with a random mean and covariance: the
coefficients of the closed form in an orthonormal basis of polynomials (products of Hermite polynomials of the
whitened inputs) beside those of least squares on samples, in standard errors (of each coefficient, by the
residuals). The null column is a closed form that is 1% larger. Quadrature has 100 × 100 nodes, in two
dimensions, and is exact for smooth activations only.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.polynomials.approximate import approximate_layer
from bilinear_lm.polynomials.hermite import activation_function
from bilinear_lm.polynomials.polynomial import Polynomial

ACTIVATIONS = ("relu", "relu2", "gelu", "gelu_new", "silu", "quick_gelu", "tanh", "sigmoid")
SMOOTH = ("gelu", "gelu_new", "silu", "quick_gelu", "tanh", "sigmoid")
DEGREES = (1, 2, 3, 4)
H, OUT, CHUNK = 6, 2, 250_000


@dataclass(frozen=True)
class Inputs:
    """x = mean + z root, z standard normal."""

    mean: Tensor
    root: Tensor

    def at(self, z: Tensor) -> Tensor:
        return self.mean + z @ self.root

    @property
    def gaussian(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "cov": self.root.T @ self.root}


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def new_layer(generator: torch.Generator, d: int, gated: bool) -> GLUWeights:
    W_in, b_in = (draw(generator, d, H), draw(generator, H)) if gated else (None, None)
    gate, out = draw(generator, d, H), draw(generator, H, OUT)
    return GLUWeights(gate, W_in, out, draw(generator, H), b_in, draw(generator, OUT))


def closed_form(layer: GLUWeights, activation: str, degree: int, inputs: Inputs) -> Polynomial:
    return approximate_layer(layer, activation, degree=degree, **inputs.gaussian)


def basis(z: Tensor, degree: int) -> Tensor:
    """Orthonormal polynomials of z [n, d] up to a degree, lower degrees first."""
    rows = [torch.ones_like(z), z]
    for k in range(1, degree):
        rows.append(z * rows[-1] - k * rows[-2])
    hermite = torch.stack([row / math.sqrt(math.factorial(k)) for k, row in enumerate(rows)])
    powers = sorted(itertools.product(range(degree + 1), repeat=z.shape[1]), key=sum)
    columns = [
        math.prod(hermite[k][:, i] for i, k in enumerate(power)) for power in powers if sum(power) <= degree
    ]
    return torch.stack(columns, dim=1)


def n_columns(degree: int, d: int) -> int:
    return math.comb(degree + d, d)


def coefficients(function: Polynomial, inputs: Inputs, degree: int, d: int) -> Tensor:
    """Of a polynomial in the basis, exactly: Gauss–Hermite with more nodes than its degree."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(degree + 2)
    z = torch.cartesian_prod(*[torch.from_numpy(nodes)] * d).reshape(-1, d)
    share = torch.cartesian_prod(*[torch.from_numpy(shares / shares.sum())] * d).reshape(len(z), d).prod(1)
    return basis(z, degree).T @ (share.unsqueeze(1) * function(inputs.at(z)))


def pieces(samples: int, d: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, samples, CHUNK):
        yield draw(generator, min(CHUNK, samples - start), d)


def sampled(
    layer: GLUWeights, activation: str, inputs: Inputs, gram: Tensor, samples: int, seed: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Least-squares coefficients and their standard errors, of every degree."""
    d, function = len(inputs.mean), activation_function(activation)
    right = torch.zeros(len(gram), OUT, dtype=torch.float64)
    for z in pieces(samples, d, seed):
        right += basis(z, DEGREES[-1]).T @ layer.output(inputs.at(z), function)
    fits = {}
    for degree in DEGREES:
        n = n_columns(degree, d)
        fits[degree] = torch.linalg.solve(gram[:n, :n], right[:n])
    middle = {degree: fit.new_zeros(OUT, len(fit), len(fit)) for degree, fit in fits.items()}
    for z in pieces(samples, d, seed):
        phi, y = basis(z, DEGREES[-1]), layer.output(inputs.at(z), function)
        for degree, fit in fits.items():
            rows = phi[:, : len(fit)]
            for output, residual in enumerate((y - rows @ fit).square().unbind(1)):
                middle[degree][output] += rows.T @ (rows * residual.unsqueeze(1))
    errors = {}
    for degree, fit in fits.items():  # the sandwich: residuals need not be of one size
        bread = torch.linalg.inv(gram[: len(fit), : len(fit)])
        errors[degree] = (bread @ middle[degree] @ bread).diagonal(dim1=1, dim2=2).sqrt().T
    return {degree: (fits[degree], errors[degree]) for degree in DEGREES}


def quadrature_error(layer: GLUWeights, activation: str, degree: int, inputs: Inputs) -> float:
    """Root mean square of closed form less least squares on quadrature points, over that of the latter."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(100)
    z = torch.cartesian_prod(*[torch.from_numpy(nodes)] * 2)
    share = torch.cartesian_prod(*[torch.from_numpy(shares / shares.sum())] * 2).prod(1).unsqueeze(1)
    y, phi = layer.output(inputs.at(z), activation_function(activation)), basis(z, degree)
    expected = phi @ (phi.T @ (share * y))
    error = closed_form(layer, activation, degree, inputs)(inputs.at(z)) - expected
    return float(((share * error.square()).sum() / (share * expected.square()).sum()).sqrt())


def main(samples: int, seed: int) -> None:
    generator, d = torch.Generator().manual_seed(seed), 3
    inputs = Inputs(draw(generator, d) / 2, 0.7 * draw(generator, d, d))
    flat = Inputs(draw(generator, 2) / 2, 0.5 * draw(generator, 2, 2))
    gram = torch.zeros(n_columns(DEGREES[-1], d), n_columns(DEGREES[-1], d), dtype=torch.float64)
    for z in pieces(samples, d, seed + 1):
        phi = basis(z, DEGREES[-1])
        gram += phi.T @ phi
    print(f"{samples:,} samples, {d} inputs, {H} hidden units, {OUT} outputs, seed {seed}\n")
    print("| layer | activation | coefficients | largest, standard errors | beyond 4 | null | quadrature |")
    print("|---|---|---|---|---|---|---|")
    beyond = total = 0
    for gated, activation in itertools.product((False, True), ACTIVATIONS):
        layer, small = new_layer(generator, d, gated), new_layer(generator, 2, gated)
        scores, null = [], []
        for degree, (fit, error) in sampled(layer, activation, inputs, gram, samples, seed + 1).items():
            ours = coefficients(closed_form(layer, activation, degree, inputs), inputs, degree, d)
            scores.append(((ours - fit) / error).abs().flatten())
            null.append(((1.01 * ours - fit) / error).abs().flatten())
        every, wrong = torch.cat(scores), torch.cat(null)
        beyond, total = beyond + int((every > 4).sum()), total + len(every)
        by_quadrature = max(quadrature_error(small, activation, degree, flat) for degree in DEGREES)
        cells = [f"{len(every)}", f"{float(every.max()):.2f}", f"{int((every > 4).sum())}"]
        cells += [f"{float(wrong.max()):.0f}", f"{by_quadrature:.0e}" if activation in SMOOTH else ""]
        print(f"| {'GLU' if gated else 'MLP'} | {activation} | {' | '.join(cells)} |", flush=True)
    chance = total * math.erfc(4 / math.sqrt(2))
    print(
        f"\n{beyond} of {total} coefficients beyond 4 standard errors; {chance:.1f} by chance, if independent"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.samples, arguments.seed)
