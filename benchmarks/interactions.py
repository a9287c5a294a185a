"""The strongest interactions of one output feature: time, peak memory and arithmetic rate, in one run.

    python benchmarks/interactions.py [--device cuda] [--threads 2]

The rate stands beside that of one plain matrix product of the same multiply-adds, in the same process and by
turns. The naive way is the one einsum over both features and both factors, contracted from left to right; its
intermediate has n_feat² · d_in² numbers, so that it runs at a small size only. Sizes are d_in, d_mlp, n_feat.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import platform
import threading
import time
from collections.abc import Callable
from statistics import linear_regression, median

import torch
from measure import measure
from tqdm.auto import tqdm

from analysis import FeatureLayer, strongest_interactions
from bilinear_lm import BilinearTensor

WIDTHS = [128, 256, 512, 1024]
SMALL = (32, 128, 256)
K = 50
TURNS = 5


def layer(d: int, h: int, n: int, device: str) -> FeatureLayer:
    # Pools stop their processes: tqdm's own lock, between processes, would be reported as leaked.
    tqdm.set_lock(threading.RLock())
    torch.manual_seed(0)
    factors = (torch.randn(shape, device=device) / shape[0] ** 0.5 for shape in ((d, h), (d, h), (h, d)))
    inputs = torch.nn.functional.normalize(torch.randn(n, d, device=device), dim=1)
    return FeatureLayer(BilinearTensor(*factors), inputs, torch.randn(1, d, device=device))


def strongest(d: int, h: int, n: int, device: str) -> Callable[[], object]:
    features = layer(d, h, n, device)
    return lambda: strongest_interactions(features, [0], K)


def naive(d: int, h: int, n: int, device: str) -> Callable[[], object]:
    features = layer(d, h, n, device)
    tensor, inputs, upper = features.tensor, features.inputs, torch.triu(torch.ones(n, n, device=device))

    def one_line() -> torch.Tensor:
        torch.backends.opt_einsum.enabled = False
        gate = tensor.W_gate * (tensor.W_out @ features.outputs[0])
        matrix = torch.einsum("bi,cj,ih,jh->bc", inputs, inputs, gate, tensor.W_in)
        return ((matrix + matrix.T) * upper).abs().flatten().topk(K).indices

    return one_line


def product(multiplications: int, d: int, n: int, device: str) -> Callable[[], object]:
    """One matrix product of so many multiply-adds, [rows, d] by [d, n]."""
    left, right = (
        torch.randn(round(multiplications / (d * n)), d, device=device),
        torch.randn(d, n, device=device),
    )
    return lambda: left @ right


def by_turns(d: int, h: int, n: int, device: str) -> tuple[list[float], list[float], int]:
    """Seconds of ours and of the plain product by turns, and the multiply-adds of both."""
    multiplications = min(layer(d, h, n, device).multiplications().values())
    calls = strongest(d, h, n, device), product(multiplications, d, n, device)
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 1):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                times.append(time.perf_counter() - start)
    return *seconds, multiplications


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    device, threads = arguments.device, arguments.threads
    name = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()} CPU, {threads} threads"
    print(f"{name}, torch {torch.__version__}; the {K} strongest interactions of one feature\n")
    print("| d_in, d_mlp, n_feat | seconds | MiB | Gflop/s | plain product: seconds | Gflop/s | rate to it |")
    print("|---|---|---|---|---|---|---|")
    times = []
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (threads,)) as pool:
        for d in WIDTHS:
            size = (d, 4 * d, 8 * d)
            ours, plain, multiplications = pool.apply(by_turns, (*size, device))
            memory = measure(strongest, *size, device=device, repeats=1).peak_bytes
            times.append(min(ours))
            rates = [2e-9 * multiplications / min(seconds) for seconds in (ours, plain)]
            ratio = median(b / a for a, b in zip(ours, plain, strict=True))
            print(
                f"| {', '.join(map(str, size))} | {min(ours):.4f} | {memory / 2**20:.0f} | {rates[0]:.0f} "
                f"| {min(plain):.4f} | {rates[1]:.0f} | {ratio:.2f} |",
                flush=True,
            )
    slope = linear_regression([math.log(d) for d in WIDTHS], [math.log(t) for t in times]).slope
    print(f"\nseconds grow as d^{slope:.2f} (multiply-adds as d^3)")
    ours, theirs = (measure(way, *SMALL, device=device) for way in (strongest, naive))
    print(
        f"naive einsum at {', '.join(map(str, SMALL))}: {theirs.seconds:.4f} s, "
        f"{theirs.peak_bytes / 2**20:.0f} MiB; ours {ours.seconds:.4f} s, {ours.peak_bytes / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
