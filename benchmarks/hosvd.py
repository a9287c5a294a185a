"""HOSVD and CP from the factors beside the dense tensor: time and peak memory, in one run.

    python benchmarks/hosvd.py [--device cuda]

The dense ways make the tensor, then take the SVD of its unfolding, or the eigenvectors of the unfolding's
Gram matrix. The factored way works in float64 inside. Squaring costs half the digits, so in float32 the Gram
matrix leaves nothing below 3e-4 of the largest singular value: it stands here in both precisions, the SVD in
float32. The last rows are factored only.
The exponents are slopes of log time and log memory over log d, with d_mlp = 4 d.

CP decomposes a layer of the shipped model to 64 hidden units, beside tensorly's parafac on the dense tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from measure import Measured, begin, exponent, measure, told

from analysis import cp_decompose, hosvd
from analysis.spectra import HOSVD
from bilinear_lm import BilinearTensor, load_pretrained, mlp_tensor

SIZES = [(128, 512), (256, 1024), (512, 2048)]
FACTORED_ONLY = [(1024, 4096), (2048, 5632)]
RANK = 64


def layer(d: int, h: int, device: str) -> BilinearTensor:
    torch.manual_seed(0)
    return BilinearTensor(*(torch.randn(shape, device=device) / h**0.5 for shape in ((d, h), (d, h), (h, d))))


def factored(d: int, h: int, device: str) -> Callable[[], HOSVD]:
    tensor = layer(d, h, device)
    return lambda: hosvd(tensor)


def factored_input(d: int, h: int, device: str) -> Callable[[], HOSVD]:
    tensor = layer(d, h, device)
    return lambda: hosvd(tensor, leg="input")


def dense_gram(d: int, h: int, device: str, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    tensor = layer(d, h, device).to(dtype)

    def through_gram() -> object:
        unfolding = tensor.dense(max_bytes=2**40).flatten(1)
        return torch.linalg.eigh(unfolding @ unfolding.T)

    return through_gram


def dense_gram_float64(d: int, h: int, device: str) -> Callable[[], object]:
    return dense_gram(d, h, device, torch.float64)


def dense_svd(d: int, h: int, device: str) -> Callable[[], object]:
    tensor = layer(d, h, device)
    return lambda: torch.linalg.svd(tensor.dense(max_bytes=2**40).flatten(1), full_matrices=False)


def compare_hosvd(device: str) -> None:
    ways = [factored, factored_input, dense_gram, dense_gram_float64, dense_svd]
    names = ["d_in, d_mlp", "factored", "factored, input leg", "dense, Gram", "Gram in float64", "dense, SVD"]
    print(f"| {' | '.join([*names, 'faster', 'leaner'])} |")
    print("|---|---|---|---|---|---|---|---|")
    found: dict[Callable, list[Measured]] = {way: [] for way in ways}
    for size in SIZES + FACTORED_ONLY:
        runs = ways if size in SIZES else ways[:2]
        for way in runs:
            slow = size in FACTORED_ONLY or (way is dense_svd and size == SIZES[-1])
            found[way].append(measure(way, *size, device=device, repeats=1 if slow else 3))
        cells = [told(found[way][-1]) if way in runs else "" for way in ways]
        ours, _, *dense = (found[way][-1] for way in ways)
        ratios = ["", ""]
        if size in SIZES:
            ratios = [
                ", ".join(f"{way.seconds / ours.seconds:.0f}×" for way in dense),
                ", ".join(f"{way.peak_bytes / ours.peak_bytes:.1f}×" for way in dense),
            ]
        print(f"| {size[0]}, {size[1]} | {' | '.join(cells + ratios)} |", flush=True)
    exponents = [exponent([d for d, _ in SIZES], found[way][: len(SIZES)]) for way in ways]
    print(f"| exponent | {' | '.join(exponents)} | | |\n")


def compare_cp(device: str) -> None:
    import tensorly

    tensorly.set_backend("pytorch")
    tensor = mlp_tensor(load_pretrained("stories", device=device), 2)

    def ours() -> BilinearTensor:
        return cp_decompose(tensor, RANK).tensor

    def parafac() -> BilinearTensor:
        dense = tensor.to(torch.float64).dense()
        outputs, left, right = tensorly.decomposition.parafac(dense, RANK, init="svd", n_iter_max=100)[1]
        return BilinearTensor(left, right, outputs.T).to(tensor.dtype)

    print(f"| CP of d {tensor.d_in}, d_mlp {tensor.d_mlp} to {RANK} | seconds | cosine |")
    print("|---|---|---|")
    for name, way in (("cp_decompose", ours), ("tensorly parafac on the dense tensor", parafac)):
        start = time.perf_counter()
        fitted = way()
        seconds = time.perf_counter() - start
        print(f"| {name} | {seconds:.1f} | {float(tensor.cosine(fitted)):.4f} |", flush=True)


def main() -> None:
    device = begin(__doc__)
    compare_hosvd(device)
    compare_cp(device)


if __name__ == "__main__":
    main()
