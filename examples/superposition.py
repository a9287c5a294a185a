"""Five features in two dimensions: what a bilinear toy model makes of them, as they become sparse.

    python examples/superposition.py [--steps 3000] [--seeds 5] [--figure superposition.png]

A model a sparsity and seed, all trained at once; how well each feature comes back where it is alone, from the
weights; and the shapes of the encoders. The figure has the best seed's encoder for each sparsity.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from analysis import canonical_encoder, colours, geometry, save_figure, solo_reconstruction
from finetune import Superposition, ToyTraining, new_models, train_toy

N, D, SPARSITY = 5, 2, (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)


def main(steps: int, seeds: int, path: Path) -> None:
    """Prints a line a sparsity, and writes the figure."""
    task = Superposition(N, SPARSITY)
    run = train_toy(new_models(task.settings(D), (seeds, len(SPARSITY))), task, ToyTraining(steps=steps))
    encoders = canonical_encoder(run.model.W_encoder.detach())
    solo = solo_reconstruction(run.model.folded()[0])
    figure = Figure(figsize=(9, 1.7), layout="constrained")
    for k, (sparsity, axes) in enumerate(zip(SPARSITY, figure.subplots(1, len(SPARSITY)), strict=True)):
        best = int(run.last[:, k].argmin())
        shapes = [shape.name for shape in geometry(encoders[best, k]).shapes]
        back = int((solo[best, k] > 0.5).sum())
        print(f"sparsity {sparsity:4}: {back} of {N} features come back alone; {', '.join(shapes)}")
        for x, y in encoders[best, k].tolist():
            axes.plot([0, x], [0, y], color=colours.POSITIVE, marker="o", markersize=3, markevery=[1])
        axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"sparsity {sparsity}", fontsize=9)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", type=Path, default=Path("superposition.png"))
    options = parser.parse_args()
    main(options.steps, options.seeds, options.figure)
