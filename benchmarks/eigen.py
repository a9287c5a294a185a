"""Top-16 eigenpairs of many directions: what `auto` takes, the block method, batched eigh and scipy's eigsh.

    python benchmarks/eigen.py [--device cuda]

Seconds are for one direction and include its interaction matrix, which every way needs; processor seconds
count all threads, and other programs change them least. "Loss" is the time of `auto` to that of the faster
of eigh and eigsh. Those find k eigenpairs and no more: `auto` finds one more, for the gap, gives residuals,
and looks for eigenvalues that were missed. Random layers have no spectral gap; the trained one is the layer
of an MNIST classifier (see `trained.py`), with the head's rows and random directions. The exponents are
slopes of log processor time over log d, d_mlp = 4 d. On a GPU all 8192 features of a layer of fw-medium's
size are decomposed, and a part of them by eigh.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
from collections.abc import Callable

import torch
from measure import Measured, begin, measure
from mnist import MNIST
from safetensors.torch import load_file, save_file
from trained import D_MLP, D_MODEL, trained_layer

from analysis import eigendecompose
from bilinear_lm import BilinearTensor

K = 16
SIZES = [(64, 256, 64), (128, 512, 64), (192, 768, 64), (256, 1024, 64), (512, 2048, 64), (1024, 4096, 16)]
"""d_in, d_mlp and how many directions."""
DIRECTIONS = 64
"""Of the trained layer."""
FW_MEDIUM, FEATURES, BY_EIGH = (1024, 4096), 8192, 64

Source = tuple[int, int, int] | str
"""The size of a random layer, or the file of a trained one."""


def layer(source: Source, device: str) -> tuple[BilinearTensor, torch.Tensor]:
    if isinstance(source, str):
        weights = load_file(source, device=device)
        return BilinearTensor(weights["W_gate"], weights["W_in"], weights["W_out"]), weights["u"]
    d, h, n = source
    torch.manual_seed(0)
    factors = (torch.randn(shape, device=device) / h**0.5 for shape in ((d, h), (d, h), (h, d)))
    return BilinearTensor(*factors), torch.randn(n, d, device=device)


def block(source: Source, device: str) -> Callable[[], object]:
    tensor, u = layer(source, device)
    return lambda: eigendecompose(tensor, u, K, method="block")


def auto(source: Source, device: str) -> Callable[[], object]:
    tensor, u = layer(source, device)
    return lambda: eigendecompose(tensor, u, K)


def eigh(source: Source, device: str) -> Callable[[], object]:
    tensor, u = layer(source, device)
    return lambda: torch.linalg.eigh(tensor.interaction_matrix(u))


def matrices_alone(source: Source, device: str) -> Callable[[], object]:
    tensor, u = layer(source, device)
    return lambda: tensor.interaction_matrix(u)


def eigsh(source: Source, device: str) -> Callable[[], object]:
    from scipy.sparse.linalg import eigsh as largest

    tensor, u = layer(source, device)
    return lambda: [largest(matrix.numpy(), k=K, which="LM") for matrix in tensor.interaction_matrix(u)]


def main() -> None:
    device = begin(__doc__)
    ways = {"auto": auto, "block": block, "matrices + eigh": eigh}
    ways |= {"matrices alone": matrices_alone} | ({"matrices + eigsh": eigsh} if device == "cpu" else {})
    print("| layer | d_in, d_mlp | directions | way | seconds each | processor seconds | MiB | eigh / this |")
    print("|---|---|---|---|---|---|---|---|")
    rows = [compare("random", size, size, ways, device) for size in SIZES]
    compare_trained(ways, device)
    if device != "cpu":
        compare_all_features(device)
    print()
    for way in ways:
        print(f"{way}, random layers: time ~ d^{exponent([taken[way] for taken in rows]):.1f}")


def compare(
    name: str, source: Source, size: tuple[int, int, int], ways: dict[str, Callable], device: str
) -> dict[str, float]:
    """Prints a row for each way; seconds a direction."""
    measured = {way: measure(function, source, device=device) for way, function in ways.items()}
    for way, taken in measured.items():
        row(name, size, way, taken, measured["matrices + eigh"].processor_seconds / taken.processor_seconds)
    plain = [taken.processor_seconds for way, taken in measured.items() if way.startswith("matrices +")]
    loss = measured["auto"].processor_seconds / min(plain)
    print(f"| {name} | {size[0]}, {size[1]} | | loss | | {loss:.2f} | | |")
    return {way: taken.processor_seconds / size[2] for way, taken in measured.items()}


def compare_trained(ways: dict[str, Callable], device: str) -> None:
    if not MNIST.is_dir():
        print(f"(no trained layer: {MNIST} is not here)")
        return
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/layer.safetensors"
        # In a process of its own: the peak memory of a process counts for those that it starts.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(train_into, (file,))
        compare("trained", file, (D_MODEL, D_MLP, DIRECTIONS), ways, device)


def train_into(file: str) -> None:
    tensor, digits = trained_layer()
    u = torch.cat([digits, torch.randn(DIRECTIONS - len(digits), tensor.d_out)])
    save_file({"W_gate": tensor.W_gate, "W_in": tensor.W_in, "W_out": tensor.W_out, "u": u}, file)


def compare_all_features(device: str) -> None:
    ours, few = (*FW_MEDIUM, FEATURES), (*FW_MEDIUM, BY_EIGH)
    dense = measure(eigh, few, device=device)
    taken = measure(block, ours, device=device)
    row("random", few, "matrices + eigh", dense, 1.0)
    row("random", ours, "block", taken, dense.seconds / BY_EIGH * FEATURES / taken.seconds)


def row(name: str, size: tuple[int, int, int], way: str, taken: Measured, ratio: float) -> None:
    d, h, n = size
    mib = f"{taken.peak_bytes / 2**20:.0f}"
    seconds = f"{taken.seconds / n:.5f} | {taken.processor_seconds / n:.5f}"
    print(f"| {name} | {d}, {h} | {n} | {way} | {seconds} | {mib} | {ratio:.2f} |", flush=True)


def exponent(seconds: list[float]) -> float:
    """Slope of log time over log d, by least squares."""
    x = [math.log(size[0]) for size in SIZES]
    y = [math.log(taken) for taken in seconds]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return top / sum((a - x_mean) ** 2 for a in x)


if __name__ == "__main__":
    main()
