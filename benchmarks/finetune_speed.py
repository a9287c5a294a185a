"""Annealed training beside plain training of the unconverted model: tokens a second and peak memory.

    python benchmarks/finetune_speed.py [--device cuda]

Both train with transformers' Trainer, the same settings and no teacher. Times are of single steps, the two
taking turns in one process: first all of them with 0 < β < 1, then with β linear from 1 to 0 over the first
30%. Peak memory is that of a whole run, on a CPU in a process of its own. Ratios are annealed / plain; below
1 the annealed one is slower, or smaller. On a GPU a model of TinyLlama's shape is trained too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measure import begin, measure
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from finetune import FinetuneConfig
from finetune.data.windows import Windows
from finetune.finetuning.annealing import anneal_gates
from finetune.finetuning.trainer import trainer
from finetune.pretraining.presets import PRESETS, Preset, new_model

STORIES = Preset(d_model=64, d_mlp=172, n_layers=5, n_heads=8, n_kv_heads=4, n_ctx=256, d_vocab=512)
WIDER = Preset(d_model=512, d_mlp=1376, n_layers=4, n_heads=8, n_ctx=256, d_vocab=8192)
SIZES = {"d 64, 5 layers": (STORIES, 8), "d 512, 4 layers": (WIDER, 2)}
"""The shape of stories260K and a wider one, and windows a step."""
LARGE = {"TinyLlama's shape": (PRESETS["tinyllama-1.1b"], 32)}
ARMS = ("plain", "annealed")
WARM = ("plain", "d 64, 5 layers")
STEPS = 12
REPEATS, REPEATS_LARGE = 5, 3


class StepTimes(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.at = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.at)


def prepared(arm: str, size: str, anneal: float, folder: Path, device: str) -> Trainer:
    preset, batch_size = (SIZES | LARGE)[size]
    config = FinetuneConfig(
        model="",
        output=folder,
        data=("",),
        context=256,
        batch_size=batch_size,
        distillation=0.0,
        anneal=anneal,
        precision="float32" if device == "cpu" else "bfloat16",
        checkpoint_steps=10_000,
        log_steps=10_000,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = new_model(preset, gate="silu")
    tokens = np.random.default_rng(0).integers(
        preset.d_vocab, size=256 * (batch_size * STEPS + 1), dtype=np.int32
    )
    windows = Windows([tokens], [1.0], context=256, first=None, seed=0)
    gates = anneal_gates(model) if arm == "annealed" else ()
    made = trainer(config, folder, model, None, windows, None, gates, use_cpu=device == "cpu")
    if arm == "plain":
        made = Trainer(model=model, train_dataset=windows, args=made.args)
        made.remove_callback(ProgressCallback)
    made.args.save_strategy = "no"  # a large model takes longer to write than to train
    return made


def one_run(arm: str, size: str, device: str) -> Callable[[], object]:
    """For the peak memory; the model, its gradients and optimiser are made by the run."""

    def go() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prepared(arm, size, 0.3, Path(folder), device).train()

    return go


def step_seconds(arm: str, size: str, anneal: float, device: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        made, times = prepared(arm, size, anneal, Path(folder), device), StepTimes()
        made.add_callback(times)
        made.train()
    return times.seconds[2:]


def main() -> None:
    device = begin(__doc__)
    sizes = SIZES if device == "cpu" else SIZES | LARGE
    # First, while this process is small: its own size would count as the peak of those that it starts.
    memory = {}
    for size in sizes:
        plain, annealed = (
            measure(one_run, arm, size, device=device, repeats=1, warm=WARM).peak_bytes for arm in ARMS
        )
        memory[size] = annealed / plain
    print(f"{'':<18}{'plain':>14}{'annealed, 0 < β < 1':>24}{'annealed over 30%':>22}{'memory':>10}")
    for size, (_, batch_size) in sizes.items():
        seconds: dict[tuple[str, float], list[float]] = {}
        for _ in range(REPEATS_LARGE if size in LARGE else REPEATS):
            for arm, anneal in (("plain", 0.3), ("annealed", 1.0), ("annealed", 0.3)):
                seconds.setdefault((arm, anneal), []).extend(step_seconds(arm, size, anneal, device))
        plain, during, whole = (batch_size * 256 / median(found) for found in seconds.values())
        print(
            f"{size:<18}{plain:>10,.0f} t/s{during:>14,.0f} t/s {during / plain:>5.3f}"
            f"{whole:>12,.0f} t/s {whole / plain:>5.3f}{memory[size]:>10.3f}"
        )


if __name__ == "__main__":
    main()
