"""What it takes to make the MLPs of a SwiGLU model bilinear, a layer and all of TinyLlama's.

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
from dataclasses import dataclass
from statistics import linear_regression

import torch
from measure import Measured, begin, measure
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


@dataclass(frozen=True)
class Taken:
    seconds: float
    peak_bytes: float

    def told(self, layers: int = 1) -> str:
        return f"{self.seconds * layers:.3g} s, {self.peak_bytes / 2**20:.0f} MiB"


def taken(measured: Measured, device: str) -> Taken:
    seconds = measured.processor_seconds if device == "cpu" else measured.seconds
    return Taken(seconds, measured.peak_bytes)


def line(sizes: Sequence[tuple[int, int]], found: Sequence[Taken], name: str) -> tuple[float, float]:
    """Slope and intercept of the log of a figure over the log of d."""
    logs = [math.log(max(getattr(one, name), 1e-9)) for one in found]
    fitted = linear_regression([math.log(d) for d, _ in sizes], logs)
    return fitted.slope, fitted.intercept


def exponents(sizes: Sequence[tuple[int, int]], found: Sequence[Taken]) -> str:
    time, memory = (line(sizes, found, name)[0] for name in ("seconds", "peak_bytes"))
    return f"time d^{time:.1f}, memory d^{memory:.1f}"


def extended(sizes: Sequence[tuple[int, int]], found: Sequence[Taken], d: int) -> Taken:
    """The figures at a size that was not measured."""
    lines = (line(sizes, found, name) for name in ("seconds", "peak_bytes"))
    return Taken(*(math.exp(slope * math.log(d) + start) for slope, start in lines))


def compare(device: str) -> None:
    print("| d, d_mlp | closed form | without biases | fit, start and end | fit, a step |")
    print("|---|---|---|---|---|")
    columns: list[list[Taken]] = [[], [], [], []]
    for size in SIZES:
        repeats = 3 if size[0] < 1024 else 1
        for column, way in zip(columns, (with_biases, without_biases), strict=False):
            column.append(taken(measure(way, *size, device=device, repeats=repeats, warm=WARM), device))
        none, some = (
            taken(measure(fit, *size, n, device=device, repeats=repeats, warm=(*WARM, 1)), device)
            for n in (0, STEPS)
        )
        columns[2].append(none)
        columns[3].append(Taken((some.seconds - none.seconds) / STEPS, some.peak_bytes))
        cells = [column[-1].told() for column in columns]
        print(f"| {size[0]}, {size[1]} | {' | '.join(cells)} |", flush=True)
    print(f"| exponent | {' | '.join(exponents(SIZES, column) for column in columns)} |")
    whole = [column[-1].told(SHAPE.n_layers) for column in columns[:3]]
    steps = Taken(FitSettings().steps * columns[3][-1].seconds, columns[3][-1].peak_bytes)
    whole.append(f"{steps.told(SHAPE.n_layers)} for {FitSettings().steps} steps")
    print(f"| {SHAPE.n_layers} layers of {SHAPE.d_model}, {SHAPE.d_mlp} | {' | '.join(whole)} |\n")


def compare_pairs(device: str) -> None:
    print("| d, d_mlp | a row for each pair of inputs |")
    print("|---|---|")
    found = []
    for size in PAIRWISE_SIZES:
        found.append(taken(measure(pairwise, *size, device=device, warm=WARM), device))
        print(f"| {size[0]}, {size[1]} | {found[-1].told()} |", flush=True)
    print(f"| exponent | {exponents(PAIRWISE_SIZES, found)} |")
    whole = extended(PAIRWISE_SIZES, found, SHAPE.d_model)
    print(f"| {SHAPE.d_model}, {SHAPE.d_mlp}, extended | {whole.told()} |\n")


def main() -> None:
    device = begin(__doc__)
    compare_pairs(device)
    compare(device)


if __name__ == "__main__":
    main()
