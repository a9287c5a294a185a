"""Polynomials in place of the MLPs of a language model: R² by layer and degree, and the loss with them.

    python benchmarks/polynomial_layers.py [--model MODEL] [--train TEXT] [--valid TEXT]

By default the SwiGLU Llama of 260,032 parameters and TinyStories of ../shared/data. Moments and fits come
from windows of the training text, R² and losses from the first windows of the validation text. The control in
the losses is a model without the layers.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from analysis.polynomials.layers import ReplacementLosses, approximate_layers, replacement_losses
from analysis.text.windows import token_windows
from bilinear_lm.checkpoints import load_pretrained, load_tokenizer

SHARED = Path(__file__).parents[2] / "shared" / "data"
DEGREES, FIT_DEGREES = (1, 2, 3, 4), (1, 2)


def row(name: str, losses: ReplacementLosses) -> str:
    each = " | ".join(f"{float(loss):.3f}" for loss in losses.one)
    return f"| {name} | {each} | {losses.all:.3f} |"


def main(arguments: argparse.Namespace) -> None:
    model, tokenizer = load_pretrained(arguments.model).eval(), load_tokenizer(arguments.model)
    train, valid = (
        token_windows(tokenizer, Path(path).read_text()[: 8 * n * arguments.length], arguments.length)[:n]
        for path, n in ((arguments.train, arguments.windows), (arguments.valid, arguments.held_out))
    )
    start = time.perf_counter()
    found = approximate_layers(model, train, valid, degrees=DEGREES, fit_degrees=FIT_DEGREES)
    print(f"{found.n_tokens:,} tokens to fit, {len(valid)} windows of {arguments.length} held out", end="")
    print(f", {time.perf_counter() - start:.0f} s\n")
    print("| layer | " + " | ".join(f"Gaussian, degree {n}" for n in DEGREES), end=" | ")
    print(" | ".join(f"text, degree {n}" for n in DEGREES), end=" | ")
    print(" | ".join(f"fit, degree {n}" for n in FIT_DEGREES) + " |")
    print("|---" * (1 + 2 * len(DEGREES) + len(FIT_DEGREES)) + "|")
    for layer, rows in zip(
        found.layers, zip(found.gaussian, found.on_text, found.fits_on_text, strict=True), strict=True
    ):
        print(f"| {layer} | " + " | ".join(f"{float(value):.3f}" for value in torch.cat(rows)) + " |")
    print("\n| in place of MLPs | " + " | ".join(f"layer {layer}" for layer in found.layers) + " | all |")
    print("|---" * (2 + len(found.layers)) + "|")
    ways = {f"closed form, degree {n}": [row[i] for row in found.polynomials] for i, n in enumerate(DEGREES)}
    ways |= {f"fit, degree {n}": [row[i] for row in found.fits] for i, n in enumerate(FIT_DEGREES)}
    ways["nothing"] = [torch.zeros_like] * len(found.layers)
    for name, replacements in ways.items():
        losses = replacement_losses(model, valid, dict(zip(found.layers, replacements, strict=True)))
        print(row(name, losses), flush=True)
    print(f"\nLoss of the model as it is: {losses.whole:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    texts = SHARED / "text" / "tinystories"
    parser.add_argument("--model", default=str(SHARED / "stories260K"))
    parser.add_argument("--train", default=str(texts / "clean_v1_train.txt"))
    parser.add_argument("--valid", default=str(texts / "clean_v1_valid.txt"))
    parser.add_argument("--windows", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--length", type=int, default=256)
    main(parser.parse_args())
