"""Time and peak memory of a function: on the CPU each in a process of its own, on a GPU all in this one."""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import Any, Literal

import torch


def begin(description: str | None) -> str:
    """Reads the command line of a benchmark, prints what it runs on, and returns the device."""
    return begin_parts(description, [])[0]


def begin_parts(description: str | None, parts: Sequence[str]) -> tuple[str, list[str]]:
    """The same for a benchmark in parts, of which the command line chooses some: the device, and these."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    if parts:
        parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), metavar="PART")
    options = parser.parse_args()
    device = options.device
    name = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()} CPU"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    return device, options.only if parts else []


@dataclass(frozen=True)
class Measured:
    seconds: float
    """Seconds of the fastest repetition."""
    peak_bytes: int
    """Memory above what the process held before the first repetition."""
    processor_seconds: float
    """Seconds of all processors, the fewest of a repetition; other work adds little to them."""


def measure(
    function: Callable[..., Any],
    *settings: Any,
    device: str,
    repeats: int = 3,
    warm: Sequence[Any] | None = None,
) -> Measured:
    """Runs `function(*settings, device)`, which prepares its inputs and returns the call to measure.

    `warm` are settings of a small run before it, so that code that is loaded on first use does not count.
    Of a GPU torch counts the memory, so that what ran before in the process does not count either.
    """
    if device != "cpu":
        gc.collect()
        torch.cuda.empty_cache()
        return _measure(function, settings, device, repeats, warm)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (function, settings, device, repeats, warm))


def _measure(
    function: Callable[..., Any], settings: tuple, device: str, repeats: int, warm: Sequence[Any] | None
) -> Measured:
    if warm is not None:
        function(*warm, device)()
    call = function(*settings, device)
    on_gpu = device != "cpu"
    before = torch.cuda.memory_allocated() if on_gpu else most_resident()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, of_processors = [], []
    for _ in range(repeats):
        start, processors = time.perf_counter(), time.process_time()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        of_processors.append(time.process_time() - processors)
    peak = torch.cuda.max_memory_allocated() if on_gpu else most_resident()
    return Measured(min(seconds), peak - before, min(of_processors))


def most_resident() -> int:
    """The most memory this process has held, in bytes (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def told(measured: Measured) -> str:
    """Time and memory in a cell of a table."""
    return f"{measured.seconds:.3f} s, {measured.peak_bytes / 2**20:.0f} MiB"


def exponent(sizes: Sequence[int], runs: Sequence[Measured], size: str = "d") -> str:
    """Slopes of log time and log memory over the log of a size."""
    seconds, memory = power_law(sizes, runs, "seconds")[0], power_law(sizes, runs, "peak_bytes")[0]
    return f"time {size}^{seconds:.1f}, memory {size}^{memory:.1f}"


def power_law(
    sizes: Sequence[int], runs: Sequence[Measured], figure: Literal["seconds", "peak_bytes"]
) -> tuple[float, float]:
    """Slope and intercept of the log of a figure over the log of a size."""
    least = 1 if figure == "peak_bytes" else 1e-9
    logs = [math.log(max(getattr(run, figure), least)) for run in runs]
    fitted = linear_regression([math.log(size) for size in sizes], logs)
    return fitted.slope, fitted.intercept
