"""The strongest interactions of output features, screened and exhaustive, in one run: time and memory.

    python benchmarks/interactions.py [--device cuda] [--threads 2] [--model FOLDER --layer L --scope FOLDER]

Exhaustive is the same strongest pairs from all strips of the matrix in the layer's precision, and has to
find the same pairs. The floor is what no screening of pairs leaves out: Q and its product with all
features. Rates stand beside that of one plain matrix product of the same multiply-adds. All are in the same
process and by turns. First the shipped dictionaries, or those of `--model`, then random ones, whose pairs
are about as strong as each other: of each of some output features, and of these together, where the
strongest of one rule out tiles of the others. A node of a static circuit needs the sums of all pairs too,
so that nothing is left out there: sums in float64 of all strips stand beside ours, and the floor is all
products. The naive way is the one einsum over both features and both factors, contracted from left to
right; its intermediate has n_feat² · d_in² numbers, so that it runs at a small size only. Sizes are d_in,
d_mlp, n_feat.
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

import bilinear_lm as bl
from analysis import FeatureLayer, feature_layer, strongest_interactions
from analysis.circuits.weights.sources import strongest_pairs
from analysis.features.interactions import Interactions, named
from analysis.streaming import Strongest
from bilinear_lm import BilinearTensor

WIDTHS = [128, 256, 512, 1024]
SMALL = (32, 128, 256)
K = 50
TURNS = 5


def layer(d: int, h: int, n: int, device: str, n_out: int = 1) -> FeatureLayer:
    # Pools stop their processes: tqdm's own lock, between processes, would be reported as leaked.
    tqdm.set_lock(threading.RLock())
    torch.manual_seed(0)
    factors = (torch.randn(shape, device=device) / shape[0] ** 0.5 for shape in ((d, h), (d, h), (h, d)))
    inputs = torch.nn.functional.normalize(torch.randn(n, d, device=device), dim=1)
    return FeatureLayer(BilinearTensor(*factors), inputs, torch.randn(n_out, d, device=device))


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


def exhaustive(features: FeatureLayer, outputs: list[int], sums: torch.Tensor | None = None) -> Interactions:
    """The strongest pairs of all that there are; adds to `sums` those over all pairs, in float64."""
    n, found = features.n_in, Strongest(K, features.inputs)
    for output in outputs:
        for start, strip in features.strips(features.outputs[output]):
            values = strip.mul_(2)
            values.diagonal().div_(2)
            below = torch.ones(len(strip), len(strip), dtype=torch.bool, device=strip.device).tril(-1)
            if sums is not None:
                values[:, : len(strip)].masked_fill_(below, 0)
                wide = values.double().flatten()
                sums += torch.stack([wide @ wide, wide.sum(), wide.norm(p=1), wide.count_nonzero()])
            sizes = values.abs()
            sizes[:, : len(strip)].masked_fill_(below, -1)
            row, column = found.candidates(sizes)
            found.add(values[row, column], (output * n + row + start) * n + column + start)
    return named(found, n)


def floor(features: FeatureLayer, outputs: list[int]) -> None:
    """The rows of all products, which any search needs."""
    for output in outputs:
        features.factors(features.outputs[output])


def pairs_and_sums(features: FeatureLayer) -> list[float]:
    """The sums that a node of a static circuit needs beside its pairs, in float64."""
    sums = features.inputs.new_zeros(4, dtype=torch.float64)
    exhaustive(features, [0], sums)
    return sums.tolist()


def compare_static(sizes: list[tuple[int, int, int]], device: str) -> None:
    """Prints milliseconds of a node's pairs and sums, and how far the sums lie from each other."""
    print("| static circuit, one node: ms | float64 sums | ours | all products | times faster | apart |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        features = layer(*size, device)
        one = features.along(features.outputs[:1])
        ways = (
            lambda features=one: pairs_and_sums(features),
            lambda features=one: strongest_pairs(features, features.outputs[0], K),
            lambda features=one: [len(strip) for _, strip in features.strips(features.outputs[0])],
        )
        milliseconds: list[list[float]] = [[] for _ in ways]
        for _ in range(4):
            for way, taken in zip(ways, milliseconds, strict=True):
                start = time.process_time()
                way()
                taken.append(1e3 * (time.process_time() - start))
        plain, ours, least = map(min, milliseconds)
        sums, whole = pairs_and_sums(one), ways[1]()[1]
        theirs = (whole.square, whole.signed, whole.absolute, whole.count)
        scales = (whole.square, whole.absolute, whole.absolute, whole.count)
        apart = max(abs(a - b) / c for a, b, c in zip(sums, theirs, scales, strict=True))
        cells = f"{plain:.1f} | {ours:.1f} | {least:.1f} | {plain / ours:.1f} | {apart:.0e}"
        print(f"| {', '.join(map(str, size))} | {cells} |", flush=True)


def trained(model: str, scope: str, at: int) -> FeatureLayer:
    inputs, outputs = (bl.load_dictionary(f"{scope}/{at}-{point}") for point in ("mlp-in", "mlp-out"))
    return feature_layer(bl.load_pretrained(model), at, inputs, outputs)


def compare(name: str, features: FeatureLayer, n_outputs: int = 24) -> float:
    """Prints a row; returns the milliseconds of each output feature alone, screened."""
    outputs = list(range(0, features.n_out, max(1, features.n_out // n_outputs)))[:n_outputs]
    cells = []
    for groups in ([[output] for output in outputs], [outputs]):
        ways = (
            lambda some: strongest_interactions(features, some, K),
            lambda some: exhaustive(features, some),
            lambda some: floor(features, some),
        )
        seconds: list[list[float]] = [[] for _ in ways]
        for turn in range(3):
            results = []
            for way, times in zip(ways, seconds, strict=True):
                clock = time.perf_counter if features.inputs.is_cuda else time.process_time
                start = clock()
                results.append([way(some) for some in groups])
                if features.inputs.is_cuda:
                    torch.cuda.synchronize()
                if turn:
                    times.append(1e3 * (clock() - start) / len(outputs))
        same = all(
            torch.equal(getattr(ours, column), getattr(plain, column))
            for ours, plain in zip(results[0], results[1], strict=True)
            for column in ("outputs", "left", "right")
        )
        ours, plain, least = map(min, seconds)
        cells.append(
            f"{plain:.1f} | {ours:.1f} | {least:.1f} | {plain / ours:.1f} | {'yes' if same else 'no'}"
        )
        if len(groups) > 1:
            alone = ours
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return alone


def compare_all(arguments: argparse.Namespace) -> None:
    columns = "exhaustive | screened | floor | times faster | the same pairs"
    print("Milliseconds of processor time on a CPU, of the clock on a GPU.\n")
    print(f"| ms an output feature, k {K} | each: {columns} | together: {columns} |")
    print("|" + "---|" * 11)
    device = arguments.device
    model, scope, layers = "stories", "stories-scope", range(4)
    if arguments.model:
        model, scope, layers = arguments.model, arguments.scope, [arguments.layer]
    for at in layers:
        features = trained(model, scope, at)
        tensor = features.tensor.to(device)
        features = FeatureLayer(tensor, features.inputs.to(device), features.outputs.to(device))
        compare(f"layer {at} of {model}: {sizes_of(features)}", features)
    taken = []
    for d in WIDTHS:
        features = layer(d, 4 * d, 8 * d, device, n_out=4)
        taken.append(compare(f"random: {sizes_of(features)}", features))
    slope = linear_regression([math.log(d) for d in WIDTHS], [math.log(t) for t in taken]).slope
    print(f"\nrandom, each, screened: time grows as d^{slope:.2f} (n = 8 d)\n")


def sizes_of(features: FeatureLayer) -> str:
    return f"{features.inputs.shape[1]}, {features.tensor.d_mlp}, {features.n_in}"


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
    parser.add_argument("--model", help="a model with dictionaries, instead of the one that ships")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--scope", help="the folder of its dictionaries")
    arguments = parser.parse_args()
    device, threads = arguments.device, arguments.threads
    name = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()} CPU, {threads} threads"
    print(f"{name}, torch {torch.__version__}; the {K} strongest interactions of one feature\n")
    torch.set_num_threads(threads)
    compare_all(arguments)
    compare_static([(64, 172, 512), (192, 512, 2048), (512, 2048, 4096), (64, 172, 8192)], device)
    print()
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
