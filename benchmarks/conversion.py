"""Time and memory of making the MLPs of a SwiGLU model bilinear, a layer and all of TinyLlama's.

    python benchmarks/conversion.py [--device cuda]

Layers have random weights and TinyLlama's proportions, d_mlp = 2.75 d; inputs have a random mean and
covariance. The closed form (`convert --method closed-form`) starts from these two and gives the weights of
a bilinear layer, with biases or without. The fit (`convert --method fit`) has 8 points a dimension and is
measured with no gradient step, for the start and the solution of the output weights, and with two, for the
time of a step of 2,048 points; 1,000 are the default. Beside them stands the plain way to a quadratic, a
row for each pair of inputs (`polynomial.py`), for a layer without a gate at N(0, I), as far as it fits in
memory: its figures at the largest size are those of a line through the logarithms.

On a CPU seconds are of all processors together, for which other work on the machine counts little; on a GPU
they are of the clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from measure import Measured, begin, exponent, measure, power_law
from polynomial import pairwise, weights, with_biases, without_biases

from bilinear_lm.glu_weights import GLUWeights
from finetune.conversion.glu_fit import FitSettings, fit_bilinear
from finetune.pretraining.presets import PRESETS

SHAPE = PRESETS["tinyllama-1.1b"]
SIZES = [(256, 704), (512, 1408), (1024, 2816), (SHAPE.d_model, SHAPE.d_mlp)]
PAIRWISE_SIZES = [(64, 176), (128, 352), (256, 704)]
WARM = (16, 44)
POINTS_EACH = 8
STEPS = 2


def fit(d: int, h: int, n_steps: int, device: str) -> Callable[[], object]:
    layer, points = GLUWeights(*weights(d, h, device)), torch.randn(POINTS_EACH * d, d, device=device)
    settings = FitSettings(steps=n_steps)
    return lambda: fit_bilinear(layer, torch.nn.functional.silu, points, settings=settings)


def taken(measured: Measured, device: str) -> Measured:
    """Time and memory of a way, on a CPU in seconds of all processors."""
    return replace(measured, seconds=measured.processor_seconds) if device == "cpu" else measured


def told(seconds: float, peak_bytes: float) -> str:
    return f"{seconds:.3g} s, {peak_bytes / 2**20:.0f} MiB"


def extended(sizes: Sequence[int], found: Sequence[Measured], d: int) -> str:
    """The figures at a size that was not measured."""
    lines = (power_law(sizes, found, "seconds"), power_law(sizes, found, "peak_bytes"))
    return told(*(math.exp(slope * math.log(d) + start) for slope, start in lines))


def compare(device: str) -> None:
    print("| d, d_mlp | closed form | without biases | fit, start and end | fit, a step |")
    print("|---|---|---|---|---|")
    widths = [d for d, _ in SIZES]
    columns: list[list[Measured]] = [[], [], [], []]
    for size in SIZES:
        repeats = 3 if size[0] < 1024 else 1
        for column, way in zip(columns, (with_biases, without_biases), strict=False):
            column.append(taken(measure(way, *size, device=device, repeats=repeats, warm=WARM), device))
        none, some = (
            taken(measure(fit, *size, n, device=device, repeats=repeats, warm=(*WARM, 1)), device)
            for n in (0, STEPS)
        )
        columns[2].append(none)
        columns[3].append(replace(some, seconds=(some.seconds - none.seconds) / STEPS))
        cells = [told(column[-1].seconds, column[-1].peak_bytes) for column in columns]
        print(f"| {size[0]}, {size[1]} | {' | '.join(cells)} |", flush=True)
    print(f"| exponent | {' | '.join(exponent(widths, column) for column in columns)} |")
    n_steps = FitSettings().steps
    times = (1, 1, 1, n_steps)
    whole = [
        told(n * SHAPE.n_layers * column[-1].seconds, column[-1].peak_bytes)
        for n, column in zip(times, columns, strict=True)
    ]
    whole[-1] += f" for {n_steps} steps"
    print(f"| {SHAPE.n_layers} layers of {SHAPE.d_model}, {SHAPE.d_mlp} | {' | '.join(whole)} |\n")


def compare_pairs(device: str) -> None:
    print("| d, d_mlp | a row for each pair of inputs |")
    print("|---|---|")
    widths, found = [d for d, _ in PAIRWISE_SIZES], []
    for size in PAIRWISE_SIZES:
        found.append(taken(measure(pairwise, *size, device=device, warm=WARM), device))
        print(f"| {size[0]}, {size[1]} | {told(found[-1].seconds, found[-1].peak_bytes)} |", flush=True)
    print(f"| exponent | {exponent(widths, found)} |")
    print(f"| {SHAPE.d_model}, {SHAPE.d_mlp}, extended | {extended(widths, found, SHAPE.d_model)} |\n")


def main() -> None:
    device = begin(__doc__)
    compare_pairs(device)
    compare(device)


if __name__ == "__main__":
    main()
