"""Boolean gates that bilinear layers learnt, named from the weights; and the two hops of a gate of gates.

    python examples/gates.py [--steps 3000] [--figure gates.png]

A layer a gate, all trained at once. On 0s and 1s x² = x, so that f_ii + b_i, f_ij + f_ji and the constant γ
are all that is fixed of a layer; XOR is 1, 1, −2, 0. The figure has the interaction matrices, biases in the
last row and column.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from analysis import find_hops, gate_coefficients, name_gate, save_figure
from finetune import Gates, ToyTraining, composed_table, new_models, train_toy

GATES = ("AND", "OR", "XOR", "NAND", "NOR", "XNOR")


def learn(task: Gates, steps: int, n_layers: int = 1):
    """The folded tensors of models that learnt a task."""
    models = new_models(task.settings(8, n_layers=n_layers), (len(task.tables),), dtype=torch.float64)
    return train_toy(models, task, ToyTraining(steps=steps, lr=3e-2)).model.folded()


def main(steps: int, path: Path) -> None:
    """Prints what each layer is, and writes the figure."""
    (layers,) = learn(Gates.of(GATES), steps)
    found = gate_coefficients(layers)
    figure = Figure(figsize=(9, 1.9), layout="constrained")
    axes = figure.subplots(1, len(GATES))
    for k, (gate, layer) in enumerate(zip(GATES, layers.layers(), strict=True)):
        (first, second), pair = found.linear[k, 0].tolist(), float(found.pairs[k, 0, 0, 1])
        values = f"{first:+.3f}, {second:+.3f}, {pair:+.3f}, {float(found.constant[k, 0]):+.3f}"
        print(f"{gate:5} f00 + b0, f11 + b1, f01 + f10, γ: {values}; named {name_gate(layer).name}")
        matrix = layer.interaction_matrix(torch.ones(1, dtype=layer.dtype))
        axes[k].imshow(matrix, cmap="RdBu", vmin=-2, vmax=2)
        axes[k].set(title=gate, xticks=range(3), yticks=range(3))
        axes[k].set_xticklabels(["A", "B", "1"])
        axes[k].set_yticklabels(["A", "B", "1"])
    save_figure(figure, path)
    table = composed_table(4, ((0, 2), (1, 3)), ("XOR", "AND"), "OR")
    first, second = learn(Gates(table[None]), steps, n_layers=2)
    print("x0 XOR x2, OR x1 AND x3:", find_hops(*first.layers(), *second.layers()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--figure", type=Path, default=Path("gates.png"))
    options = parser.parse_args()
    main(options.steps, options.figure)
