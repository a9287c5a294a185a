"""Quadratic approximants in closed form beside the way that makes one row for every pair of inputs.

    python benchmarks/polynomial.py [--device cuda]

The pairwise way writes the coefficient of every monomial x_i x_j of an MLP at N(0, 1), as published code
does, with 50 Gauss–Hermite nodes for the moments. Everything runs in float64 inside. The other columns have
no dense counterpart: a SwiGLU with a measured mean and covariance, as a polynomial of degree 2 and 8, as a
bilinear layer with biases, and as one without. The last table is a mixture of four Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import Measured, begin, exponent, measure, told

from bilinear_lm.polynomials.approximate import approximate_glu, approximate_mlp
from bilinear_lm.polynomials.bilinear import bilinear_approximation

SIZES = [(128, 512), (256, 1024), (512, 2048)]
FACTORED_ONLY = [(2048, 5632)]
WARM = (16, 32)
MIXTURE_SIZES = [32, 64, 128]
N_COMPONENTS = 4


def weights(d: int, h: int, device: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, device=device) / shape[0] ** 0.5 for shape in ((d, h), (d, h), (h, d))]


def inputs(d: int, device: str, n: int = 1) -> dict[str, torch.Tensor]:
    roots = torch.randn(n, 2 * d, d, device=device) / (2 * d) ** 0.5
    mean, cov = torch.randn(n, d, device=device) / 2, roots.mT @ roots
    return {"mean": mean, "cov": cov} if n > 1 else {"mean": mean[0], "cov": cov[0]}


def closed_form(d: int, h: int, device: str) -> Callable[[], object]:
    _, W_in, W_out = weights(d, h, device)
    return lambda: approximate_mlp(W_in, W_out, "tanh")


def pairwise(d: int, h: int, device: str) -> Callable[[], object]:
    _, W_in, W_out = weights(d, h, device)
    first, second = torch.triu_indices(d, d, device=device)
    spectrum = torch.linalg.eigh(_jacobi(50))
    nodes, shares = spectrum.eigenvalues.to(device), spectrum.eigenvectors[0].square().to(device)

    def by_pairs() -> torch.Tensor:
        W = W_in.double()
        s = W.norm(dim=0)
        values = torch.tanh(s.unsqueeze(1) * nodes)
        curvature = (values * (nodes.square() - 1)) @ shares / s.square()
        rows = W[first] * W[second]
        return (rows * curvature) @ W_out.double()

    return by_pairs


def _jacobi(n: int) -> torch.Tensor:
    """The matrix whose eigenvalues are the Gauss–Hermite nodes (Golub and Welsch)."""
    off = torch.arange(1, n, dtype=torch.float64).sqrt()
    return torch.diag(off, 1) + torch.diag(off, -1)


def swiglu(d: int, h: int, device: str) -> Callable[[], object]:
    layer, gaussian = weights(d, h, device), inputs(d, device)
    return lambda: approximate_glu(*layer, "silu", **gaussian)


def degree_8(d: int, h: int, device: str) -> Callable[[], object]:
    layer, gaussian = weights(d, h, device), inputs(d, device)
    return lambda: approximate_glu(*layer, "silu", degree=8, **gaussian)


def with_biases(d: int, h: int, device: str) -> Callable[[], object]:
    layer, gaussian = weights(d, h, device), inputs(d, device)
    return lambda: bilinear_approximation(*layer, "silu", **gaussian)


def without_biases(d: int, h: int, device: str) -> Callable[[], object]:
    layer, gaussian = weights(d, h, device), inputs(d, device)
    return lambda: bilinear_approximation(*layer, "silu", **gaussian, biases=False)


def mixture(d: int, device: str) -> Callable[[], object]:
    layer, gaussians = weights(d, 4 * d, device), inputs(d, device, N_COMPONENTS)
    return lambda: approximate_glu(*layer, "silu", **gaussians)


def compare(device: str) -> None:
    ways = [closed_form, pairwise, swiglu, degree_8, with_biases, without_biases]
    print(
        "| d_in, d_mlp | MLP | MLP, pairwise | faster | leaner | SwiGLU | degree 8 | bilinear layer "
        "| without biases |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    found: dict[Callable, list[Measured]] = {way: [] for way in ways}
    for size in SIZES + FACTORED_ONLY:
        for way in ways:
            if way is not pairwise or size in SIZES:
                repeats = 1 if size in FACTORED_ONLY or (way is pairwise and size == SIZES[-1]) else 3
                found[way].append(measure(way, *size, device=device, repeats=repeats, warm=WARM))
        ours, dense, *others = (found[way][-1] for way in ways)
        beside = ["", "", ""]
        if size in SIZES:
            beside = [told(dense), f"{dense.seconds / ours.seconds:.1f}×"]
            beside += [f"{dense.peak_bytes / max(ours.peak_bytes, 2**20):.1f}×"]
        cells = [told(ours), *beside, *map(told, others)]
        print(f"| {size[0]}, {size[1]} | {' | '.join(cells)} |", flush=True)
    ours, dense, *others = (exponent([d for d, _ in SIZES], found[way][: len(SIZES)]) for way in ways)
    print(f"| exponent | {' | '.join([ours, dense, '', '', *others])} |\n")


def time_mixtures(device: str) -> None:
    print(f"| d_in, d_mlp | quadratic of a SwiGLU, {N_COMPONENTS} components |")
    print("|---|---|")
    for d in MIXTURE_SIZES:
        print(f"| {d}, {4 * d} | {told(measure(mixture, d, device=device, repeats=1))} |", flush=True)


def main() -> None:
    device = begin(__doc__)
    compare(device)
    time_mixtures(device)


if __name__ == "__main__":
    main()
