"""Finetuning into bilinear form: the published recipe beside ours, as gaps to the baseline arm.

    python benchmarks/finetuning.py MODEL --data TEXT... --validation TEXT [--tokens N] [--seeds 0 1 2]

Three arms on the same tokens: the gates left alone (baseline), the gate annealed from SiLU to linear over the
first 30% (published), and a start fitted layer by layer with half the loss a divergence from the unconverted
model (ours). The loss is that of the first 100 windows of 256 tokens of the validation text.

Runs are added to finetuning_runs.json, beside this file, as they finish; those it holds are not repeated.
The table and the figure, finetuning_gap.png, are made of what it holds.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bilinear_lm.files import write_json
from finetune import FinetuneConfig, finetune

HERE = Path(__file__).parent
RUNS, FIGURE = HERE / "finetuning_runs.json", HERE / "finetuning_gap.png"
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"arm": "baseline", "distillation": 0.0},
    "ours": {"start": "fit", "distillation": 0.5, "matching": 1.0},
    "published": {"start": "anneal", "distillation": 0.0},
}
COMMON = {
    "context": 256,
    "first_token": False,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "precision": "float32",
    "validation_steps": 61,
    "log_steps": 61,
    "checkpoint_steps": 10_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    for seed in options.seeds:
        for arm in ARMS:
            asked = {"arm": arm, "seed": seed, "tokens": options.tokens}
            if not any(asked.items() <= run.items() for run in stored()):
                run = asked | train(arm, seed, options)
                write_json(RUNS, {"runs": [*stored(), run]})
    table(stored())
    figure(stored())


def stored() -> list[dict[str, Any]]:
    """The finished runs, read anew each time: several of these programs may run side by side."""
    return json.loads(RUNS.read_text())["runs"] if RUNS.is_file() else []


def train(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "model"
        record = finetune(
            FinetuneConfig(
                model=options.model,
                output=output,
                data=tuple(options.data),
                validation=options.validation,
                tokens=options.tokens,
                seed=seed,
                device=options.device,
                **{**COMMON, **ARMS[arm]},
            )
        )
        shutil.rmtree(output)
    curve = [(e["tokens"], round(e["validation_loss"], 5)) for e in record["log"] if "validation_loss" in e]
    speeds = [entry["tokens_per_second"] for entry in record["log"]]
    device = torch.cuda.get_device_name() if options.device != "cpu" else f"{platform.machine()} CPU"
    start = record.get("conversion")
    return {
        "curve": curve,
        "converted": start and start["loss_after"],
        "tokens_per_second": sorted(speeds)[len(speeds) // 2],
        "device": device,
        "torch": torch.__version__,
    }


def table(runs: list[dict[str, Any]]) -> None:
    print(f"{'tokens':>12}{'seed':>6}{'baseline':>11}{'published':>11}{'ours':>9}{'gaps':>18}")
    by_budget: dict[int, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        by_budget[run["tokens"]][run["seed"]][run["arm"]] = run["curve"][-1][1]
    for tokens, seeds in by_budget.items():
        whole = {seed: losses for seed, losses in seeds.items() if len(losses) == len(ARMS)}
        gaps = []
        for seed, losses in sorted(whole.items()):
            gaps.append([losses[arm] - losses["baseline"] for arm in ("published", "ours")])
            print(
                f"{tokens:>12,}{seed:>6}{losses['baseline']:>11.4f}{losses['published']:>11.4f}"
                f"{losses['ours']:>9.4f}{gaps[-1][0]:>10.4f}{gaps[-1][1]:>8.4f}"
            )
        if gaps:
            published, ours = (mean(column) for column in zip(*gaps, strict=True))
            print(f"{tokens:>12,}  mean gap: published {published:.4f}, ours {ours:.4f}\n")


def figure(runs: list[dict[str, Any]]) -> None:
    """The gap to the baseline arm of the same seed at the same step, for the largest budget."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(run["tokens"] for run in runs)
    curves = {(run["arm"], run["seed"]): dict(run["curve"]) for run in runs if run["tokens"] == most}
    drawn = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    for arm, colour in (("published", "#b5532a"), ("ours", "#2b5c8a")):
        for seed in sorted(seed for name, seed in curves if name == arm and ("baseline", seed) in curves):
            base, own = curves["baseline", seed], curves[arm, seed]
            tokens = sorted(base.keys() & own.keys())
            axes.plot(
                [at / 1e6 for at in tokens],
                [own[at] - base[at] for at in tokens],
                color=colour,
                alpha=0.8,
                label=arm if seed == min(options for name, options in curves if name == arm) else None,
            )
    axes.axvspan(0, 0.3 * most / 1e6, color="#b5532a", alpha=0.06, label="published: β from 1 to 0")
    axes.set_xlabel("million tokens")
    axes.set_ylabel("loss above the baseline arm, nats per token")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    drawn.savefig(FIGURE, dpi=150)


if __name__ == "__main__":
    main()
