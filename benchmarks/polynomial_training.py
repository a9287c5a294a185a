"""R² of polynomials of MLPs over training: a SwiGLU and a ReLU language model, and shuffled text as control.

    python benchmarks/polynomial_training.py [--seeds 0 1 2] [--figure polynomial_training.png]

Small models are trained on TinyStories of ../shared/data and kept at steps 0, 1, 2, 4, … and the last.
Moments come from windows of the validation text and R² from other windows of it. The control is the same
training on a text whose words are shuffled, so that little but the words' frequencies can be learned.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from analysis.plots import INK, Drawing, save_figure, styled
from analysis.polynomial_plots import shades, step_curve
from analysis.polynomials.training import TrainingPolynomials, approximate_training
from analysis.text.windows import document_windows
from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
from bilinear_lm.checkpoints.steps import find_checkpoints
from finetune import PretrainConfig, pretrain
from finetune.pretraining.presets import PRESETS, Preset

TEXTS = Path(__file__).parents[2] / "shared" / "data" / "text" / "tinystories"
GATES = {"silu": "SwiGLU", "relu": "ReLU"}
SMALL = Preset(d_model=96, d_mlp=192, n_layers=3, n_heads=4, n_ctx=128, d_vocab=1024)
DEGREES = (1, 2)

Courses = dict[tuple[str, bool], list[TrainingPolynomials]]
"""By gate and whether the text is shuffled: one course a seed."""


def shuffled(text: str, seed: int) -> str:
    words = text.replace("<|endoftext|>", " ").split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def course(
    gate: str, text: Path, valid: str, folder: Path, seed: int, arguments: argparse.Namespace
) -> TrainingPolynomials:
    """Trains one model and measures its checkpoints; the tokenizer is that of the run in `folder`."""
    config = PretrainConfig(
        output=folder,
        data=(str(text),),
        passes=(arguments.passes,),
        max_tokens=arguments.max_tokens,
        preset="small",
        gate=gate,
        batch_size=16,
        seed=seed,
        precision="float32",
        device="cpu",
        keep_checkpoints=("log",),
    )
    pretrain(config)
    steps = find_checkpoints(str(folder)).steps
    windows = document_windows(load_tokenizer(folder), valid, SMALL.n_ctx)[: 3 * arguments.windows]
    seen, held_out = windows[: 2 * arguments.windows], windows[2 * arguments.windows :]
    return approximate_training(
        lambda step: load_pretrained(steps[step]), list(steps), seen, held_out, degrees=DEGREES
    )


def courses(arguments: argparse.Namespace) -> Courses:
    text, valid = (Path(path).read_text() for path in (arguments.train, arguments.valid))
    PRESETS["small"] = SMALL
    found: Courses = {}
    with TemporaryDirectory() as made:
        for seed in arguments.seeds:
            for is_shuffled in (False, True):
                path = Path(made) / f"{seed}-{is_shuffled}.txt"
                path.write_text(shuffled(text, seed) if is_shuffled else text)
                told = shuffled(valid, seed) if is_shuffled else valid
                for gate in GATES:
                    folder = path.with_name(f"{path.stem}-{gate}")
                    measured = course(gate, path, told, folder, seed, arguments)
                    found.setdefault((gate, is_shuffled), []).append(measured)
    return found


def of_seeds(runs: list[TrainingPolynomials]) -> torch.Tensor:
    """R² on text, [seed, step, layer, degree]."""
    return torch.stack([run.on_text for run in runs])


@styled
def figure(found: Courses) -> Drawing:
    """R² on held-out text against the step: mean of seeds with their range; dashed the control."""
    drawn = Drawing(figsize=(7, 5), layout="constrained")
    panels = drawn.subplots(len(GATES), len(DEGREES), sharex=True)
    for row, gate in enumerate(GATES):
        for column, degree in enumerate(DEGREES):
            axes = panels[row][column]
            for layer, color in enumerate(shades(SMALL.n_layers)):
                for is_shuffled, line in ((False, "-"), (True, "--")):
                    runs = found[gate, is_shuffled]
                    values = of_seeds(runs)[:, :, layer, column]
                    label = None if is_shuffled else f"layer {layer}"
                    step_curve(axes, runs[0].steps, values.mean(0), color, line, label)
                    if not is_shuffled:
                        low, high = values.amin(0).tolist(), values.amax(0).tolist()
                        axes.fill_between(runs[0].steps, low, high, color=color, alpha=0.15, linewidth=0)
            axes.axhline(1, color=INK, linewidth=0.5)
            axes.set_title(f"{GATES[gate]}, degree {degree}")
            axes.set_xlabel("step" if row else "")
        panels[row][0].set_ylabel("R² on held-out text")
    panels[0][0].legend(fontsize=7)
    return drawn


def told(values: torch.Tensor) -> str:
    return f"{float(values.mean()):.3f} ({float(values.min()):.3f}–{float(values.max()):.3f})"


def print_table(found: Courses) -> None:
    steps = next(iter(found.values()))[0].steps
    print("| model | text | layer | degree | " + " | ".join(f"step {step}" for step in steps) + " |")
    print("|---" * (4 + len(steps)) + "|")
    for (gate, is_shuffled), runs in found.items():
        start = f"| {GATES[gate]} | {'shuffled' if is_shuffled else 'stories'} |"
        values = of_seeds(runs)
        for layer in range(SMALL.n_layers):
            for column, degree in enumerate(DEGREES):
                row = " | ".join(told(values[:, at, layer, column]) for at in range(len(steps)))
                print(f"{start} {layer} | {degree} | {row} |")
        losses = torch.stack([run.losses for run in runs])
        print(f"{start} | loss | " + " | ".join(told(losses[:, at]) for at in range(len(steps))) + " |")


def main(arguments: argparse.Namespace) -> None:
    start = time.process_time()
    found = courses(arguments)
    print_table(found)
    print(f"\n{time.process_time() - start:.0f} s of CPU, {len(arguments.seeds)} seeds")
    if arguments.figure is not None:
        save_figure(figure(found), arguments.figure)


def parsed(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", default=str(TEXTS / "clean_v2gpt4_train.txt"))
    parser.add_argument("--valid", default=str(TEXTS / "clean_v1_valid.txt"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--passes", type=float, default=2.0)
    parser.add_argument("--max-tokens", type=int, default=330_000)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--figure", type=Path, default=None)
    return parser.parse_args(given)


if __name__ == "__main__":
    main(parsed())
