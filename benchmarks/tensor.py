"""The factored tensor beside the dense ways: time and peak memory, in one run.

    python benchmarks/tensor.py [--device cuda]

The dense ways are the one-line einsum over all factors for an interaction matrix, and the tensor itself for
its norm. Sizes are d_in, d_mlp; the last row of each is TinyLlama's, where the dense way is not run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import Measured, begin, measure

from bilinear_lm import BilinearTensor

SIZES = [(128, 512), (256, 1024), (512, 2048)]
TINYLLAMA = (2048, 5632)


def layer(d: int, h: int, device: str) -> tuple[BilinearTensor, torch.Tensor]:
    torch.manual_seed(0)
    factors = (torch.randn(shape, device=device) / h**0.5 for shape in ((d, h), (d, h), (h, d)))
    return BilinearTensor(*factors), torch.randn(d, device=device)


def matrix_factored(d: int, h: int, device: str) -> Callable[[], object]:
    tensor, u = layer(d, h, device)
    return lambda: tensor.interaction_matrix(u)


def matrix_dense(d: int, h: int, device: str) -> Callable[[], object]:
    tensor, u = layer(d, h, device)

    def one_line() -> torch.Tensor:
        matrix = torch.einsum("ih,jh,ho,o->ij", tensor.W_gate, tensor.W_in, tensor.W_out, u)
        return (matrix + matrix.T) / 2

    return one_line


def matvec_factored(d: int, h: int, device: str) -> Callable[[], object]:
    tensor, u = layer(d, h, device)
    v = torch.randn(d, device=device)
    return lambda: tensor.matvec(u, v)


def matvec_dense(d: int, h: int, device: str) -> Callable[[], object]:
    tensor, u = layer(d, h, device)
    v = torch.randn(d, device=device)
    return lambda: tensor.interaction_matrix(u) @ v


def norm_factored(d: int, h: int, device: str) -> Callable[[], object]:
    tensor, _ = layer(d, h, device)
    return tensor.norm


def norm_dense(d: int, h: int, device: str) -> Callable[[], object]:
    tensor, _ = layer(d, h, device)
    return lambda: tensor.dense(max_bytes=2**40).norm()


PAIRS = {
    "interaction_matrix": (matrix_factored, matrix_dense),
    "matvec": (matvec_factored, matvec_dense),
    "norm": (norm_factored, norm_dense),
}


def main() -> None:
    device = begin(__doc__)
    print("| method | d_in, d_mlp | seconds | MiB | dense: seconds | dense: MiB | faster | leaner |")
    print("|---|---|---|---|---|---|---|---|")
    for method, (factored, dense) in PAIRS.items():
        for size in SIZES:
            ours, theirs = (measure(way, *size, device=device) for way in (factored, dense))
            faster = theirs.seconds / ours.seconds
            leaner = theirs.peak_bytes / max(ours.peak_bytes, 2**20)
            row(method, size, ours, f"{theirs.seconds:.4f} | {mib(theirs)} | {faster:.1f}× | {leaner:.1f}×")
        row(method, TINYLLAMA, measure(factored, *TINYLLAMA, device=device), "| | |")


def row(method: str, size: tuple[int, int], ours: Measured, beside: str) -> None:
    print(f"| {method} | {size[0]}, {size[1]} | {ours.seconds:.4f} | {mib(ours)} | {beside} |", flush=True)


def mib(measured: Measured) -> str:
    return f"{measured.peak_bytes / 2**20:.0f}"


if __name__ == "__main__":
    main()
