"""Toy models of bilinear layers: gates, hops of two gates, superposition, modular addition.

    python benchmarks/toys.py [--parts gates three hops superposition addition] [--figure FILE.png]

Models of all seeds train side by side (`finetune.networks.toy`), and what they learnt is read from their
weights (`analysis.toys`). Cells are means over seeds and the range; beside each claim stands a control: the
same reading of untrained models, of gates on other pairs of inputs, or of random vectors.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from analysis.spectra.eigen import eigendecompose
from analysis.toys.fourier import frequency_shares
from analysis.toys.gates import gate_coefficients, least_error, name_gate
from analysis.toys.hops import find_hops, gate_values, hops_of, second_layer_signals, share_in_span
from analysis.toys.multilinear import coefficients_of
from analysis.toys.superposition import canonical_encoder, geometry, solo_reconstruction
from bilinear_lm.networks.gates import NAMES, gate_name
from bilinear_lm.networks.toy import ToyModel
from finetune.networks.tasks import Gates, ModularAddition, Superposition, composed_table
from finetune.networks.toy import ToyRun, ToyTraining, new_models, train_toy

COMPOSITIONS = (
    (("XOR", "AND"), "OR"),
    (("XOR", "OR"), "AND"),
    (("AND", "XOR"), "XOR"),
    (("AND", "AND"), "OR"),
    (("OR", "XOR"), "NAND"),
    (("XOR", "XOR"), "AND"),
    (("A AND NOT B", "OR"), "XOR"),
)
"""Compositions of two gates by a third; the function fixes the pairs of all of them."""
N_INPUTS = 6
"""Inputs of a composition, which reads four of them."""
SPARSITY = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)
ARMS = {
    "bilinear": ("bilinear", False),
    "bilinear, tied": ("bilinear", True),
    "ReLU, tied": ("relu", True),
}


def told(values: Tensor, form: str = ".2f") -> str:
    """Mean and range in a cell."""
    low, high = (f"{float(v):{form}}" for v in (values.min(), values.max()))
    mean = f"{float(values.double().mean()):{form}}"
    return mean if low == high else f"{mean} ({low}–{high})"


def row(*cells: object) -> None:
    """Prints a row of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def head(*cells: str) -> None:
    """Prints the first two rows of a table."""
    print()
    row(*cells)
    row(*["---"] * len(cells))


def gates(seeds: int) -> None:
    """All gates of two inputs, with and without biases."""
    task = Gates.of(range(16))
    runs = {
        bias: train_toy(
            new_models(task.settings(8, bias=bias), (seeds, 16), dtype=torch.float64),
            task,
            ToyTraining(steps=5000, lr=5e-2),
        )
        for bias in (True, False)
    }
    truth, off, named = coefficients_of(task.tables), {}, {}
    untrained = new_models(task.settings(8), (seeds, 16), dtype=torch.float64)
    for key, model in ((True, runs[True].model), (False, runs[False].model), ("untrained", untrained)):
        found = gate_coefficients(model.folded()[0])
        parts = [found.constant, found.linear[..., 0, 1], found.linear[..., 0, 0], found.pairs[..., 0, 0, 1]]
        off[key] = (torch.stack([part.reshape(seeds, 16) for part in parts], -1) - truth).abs().amax(-1)
        names = [name_gate(layer).name for layer in model.folded()[0].layers()]
        named[key] = torch.tensor([name == NAMES[2][i % 16] for i, name in enumerate(names)]).reshape(-1, 16)
    head(
        "gate", "f₀₀ + b₀, f₁₁ + b₁, f₀₁ + f₁₀, γ", "worst error of these", "worst loss", "named",
        "without biases: loss", "least possible", "named", "untrained named",
    )  # fmt: skip
    for gate, name in enumerate(NAMES[2]):
        γ, second, first, pair = truth[gate].tolist()
        row(
            name,
            f"{first:g}, {second:g}, {pair:g}, {γ:g}",
            f"{float(off[True][:, gate].max()):.1e}",
            f"{float(runs[True].last[:, gate].max()):.1e}",
            f"{int(named[True][:, gate].sum())} of {seeds}",
            told(runs[False].last[:, gate], ".1e"),
            f"{float(least_error(task.tables[gate], bias=False)):.2f}",
            f"{int(named[False][:, gate].sum())} of {seeds}",
            f"{int(named['untrained'][:, gate].sum())} of {seeds}",
        )


def three(seeds: int) -> None:
    """All gates of three inputs."""
    task = Gates.of(range(256), 3)
    head("gates of three inputs", "a layer can be", "loss at most there", "named there", "named elsewhere",
         "loss above the least possible elsewhere, at most")  # fmt: skip
    for bias in (True, False):
        models = new_models(task.settings(12, bias=bias), (seeds, 256), dtype=torch.float64)
        run = train_toy(models, task, ToyTraining(steps=3000, lr=3e-2))
        least = least_error(task.tables, bias=bias)
        can = least < 1e-20
        names = [name_gate(layer).name for layer in run.model.folded()[0].layers()]
        right = torch.tensor([name == gate_name(task.tables[i % 256]) for i, name in enumerate(names)])
        right = right.reshape(seeds, 256)
        row(
            "with biases" if bias else "without",
            f"{int(can.sum())} of 256",
            f"{float(run.last[:, can].max()):.1e}",
            f"{int(right[:, can].sum())} of {seeds * int(can.sum())}",
            f"{int(right[:, ~can].sum())} of {seeds * int((~can).sum())}",
            f"{float((run.last - least)[:, ~can].max()):.1e}",
        )


def hops(seeds: int) -> None:
    """Two layers that learn a gate of two gates, of inputs drawn at random for each seed."""
    draws = torch.Generator().manual_seed(1)
    tables = torch.stack([torch.stack([_composition(c, draws) for c in COMPOSITIONS]) for _ in range(seeds)])
    task = Gates(tables)
    models = new_models(task.settings(8, n_layers=2), (seeds, len(COMPOSITIONS)), dtype=torch.float64)
    untrained = [list(tensor.layers()) for tensor in models.folded()]
    run = train_toy(models, task, ToyTraining(steps=4000, lr=2e-2))
    trained = [list(tensor.layers()) for tensor in run.model.folded()]
    head("composition", "loss", "hops and output gate found", "untrained", "gates in what layer 2 reads",
         "untrained", "the same gates of other pairs")  # fmt: skip
    for c, ((first, second), output) in enumerate(COMPOSITIONS):
        found, control, shares = [], [], {"trained": [], "untrained": [], "other pairs": []}
        for s in range(seeds):
            index = s * len(COMPOSITIONS) + c
            layers, before = ([part[index] for part in parts] for parts in (trained, untrained))
            truth = hops_of(coefficients_of(tables[s, c]))
            found.append(_told_hops(find_hops(*layers)) == _told_hops(truth))
            control.append(bool(find_hops(*before).hops))
            pairs = {hop.inputs for hop in truth.hops}
            free = [p for p in itertools.combinations(range(N_INPUTS), 2) if p not in pairs]
            others = [replace(hop, inputs=pair) for hop in truth.hops for pair in free]
            signals = second_layer_signals(*layers)
            shares["trained"].append(_in(truth.hops, signals))
            shares["untrained"].append(_in(truth.hops, second_layer_signals(*before)))
            shares["other pairs"].append(_in(others, signals))
        row(
            f"{output} of {first} and {second}",
            told(run.last[:, c], ".1e"),
            f"{sum(found)} of {seeds}",
            f"{sum(control)} of {seeds}",
            *(told(torch.stack(values)) for values in shares.values()),
        )
    every = [g for g in range(16) if g not in (0, 3, 5, 10, 12, 15)]
    fixed = sum(
        hops_of(coefficients_of(composed_table(4, ((0, 1), (2, 3)), (a, b), output))).identified
        for a, b, output in itertools.product(every, repeat=3)
    )
    print(f"\nThe function fixes the pairs of {fixed} of {len(every) ** 3} compositions.")


def _composition(composition: tuple, draws: torch.Generator) -> Tensor:
    i, j, k, m = torch.randperm(N_INPUTS, generator=draws)[:4].tolist()
    return composed_table(N_INPUTS, ((i, j), (k, m)), *composition)


def _told_hops(hops) -> tuple:
    return [(hop.inputs, hop.gate) for hop in hops.hops], hops.output and hops.output.name


def _in(hops, signals: Tensor) -> Tensor:
    return share_in_span(torch.stack([gate_values(hop, N_INPUTS) for hop in hops]), signals).mean()


def alone(model: ToyModel) -> Tensor:
    """R² of each feature where it is alone, from the weights of either kind of model."""
    if model.settings.kind == "bilinear":
        return solo_reconstruction(model.folded()[0])
    x = torch.linspace(0, 1, 1001, dtype=model.W_encoder.dtype)[:, None]
    slopes = model.W_encoder.detach().square().sum(-1)  # of a tied model
    y = torch.relu(slopes.unsqueeze(-2) * x + model.layers[0].b_gate.detach().unsqueeze(-2))
    return 1 - (y - x).square().mean(-2) / x.var()


def measured(task: Superposition, model: ToyModel) -> tuple[Tensor, Tensor]:
    """Squared error over the variance on fresh samples, weighed by importance, and R² of each feature."""
    with torch.no_grad():
        x = replace(task, batch_size=4096).sample(model.batch, 4096, torch.Generator().manual_seed(99))
        error, variance = (model(x) - x).square().mean(-2), x.var(-2)
    weights = task.importance.to(x)
    return (error * weights).sum(-1) / (variance * weights).sum(-1), 1 - error / variance


def trained_arms(task: Superposition, d_model: int, seeds: int, steps: int) -> dict[str, ToyRun]:
    """Each arm, trained."""
    return {
        name: train_toy(
            new_models(task.settings(d_model, *arm), (seeds, len(task.sparsity))),
            task,
            ToyTraining(steps=steps, lr=1e-2),
        )
        for name, arm in ARMS.items()
    }


def superposition(seeds: int, figure: Path) -> None:
    """Features against sparsity, shapes, antipodal pairs, and correlated pairs."""
    task = Superposition(20, SPARSITY, decay=0.9)
    curves: dict[str, dict[str, Tensor]] = {"represented": {}, "error": {}}
    head("20 features in 5 dimensions", "sparsity", "error / variance", "in the encoder", "come back alone",
         "R² over ½", "importance and leverage, correlation")  # fmt: skip
    for name, run in trained_arms(task, 5, seeds, 3000).items():
        error, explained = measured(task, run.model)
        encoder = canonical_encoder(run.model.W_encoder.detach())
        leverage, solo = encoder.square().sum(-1), (alone(run.model) > 0.5).sum(-1)
        here = (leverage.sqrt() > 0.5 * leverage.sqrt().amax(-1, keepdim=True)).sum(-1)
        curves["represented"][name], curves["error"][name] = here, error
        for k, sparsity in enumerate(SPARSITY):
            ranks = [
                torch.corrcoef(torch.stack([task.importance.float(), each]))[0, 1] for each in leverage[:, k]
            ]
            row(name, sparsity, told(error[:, k], ".3f"), told(here[:, k], ".1f"), told(solo[:, k], ".1f"),
                told((explained[:, k] > 0.5).sum(-1), ".1f"), told(torch.stack(ranks)))  # fmt: skip
    draw(curves, figure)
    shapes(Superposition(5, SPARSITY), 2, seeds)
    shapes(Superposition(2, (0.0, 0.5, 0.9, 0.95)), 1, seeds)
    correlated(seeds)


def shapes(task: Superposition, d_model: int, seeds: int) -> None:
    """The shapes of few features, beside those of untrained models."""
    head(f"{task.n_features} features in {d_model}", "sparsity", "error / variance", "come back alone",
         "shapes in all seeds", "absent", "untrained")  # fmt: skip
    for name, run in trained_arms(task, d_model, seeds, 2500).items():
        error, _ = measured(task, run.model)
        encoder = canonical_encoder(run.model.W_encoder.detach())
        fresh = new_models(run.model.settings, run.model.batch, seed=1).W_encoder.detach()
        solo = (alone(run.model) > 0.5).sum(-1)
        for k, sparsity in enumerate(task.sparsity):
            found = [geometry(each) for each in encoder[:, k]]
            before = [geometry(each) for each in canonical_encoder(fresh)[:, k]]
            absent = torch.tensor([len(each.absent) for each in found])
            row(name, sparsity, told(error[:, k], ".3f"), told(solo[:, k], ".1f"), _counted(found),
                told(absent, ".1f"), _counted(before))  # fmt: skip


def _counted(found) -> str:
    names = Counter(shape.name for each in found for shape in each.shapes)
    return ", ".join(f"{count} {name}" for name, count in names.most_common())


def correlated(seeds: int) -> None:
    """Pairs of features that come together: the cosine of their encoders."""
    head("6 features in 3, sparsity", "correlation of pairs", "cosine in pairs", "cosine of others, absolute")
    for correlation in (0.0, 0.9):
        task = Superposition(6, SPARSITY[1:], correlation=correlation)
        models = new_models(task.settings(3), (seeds, len(task.sparsity)))
        train_toy(models, task, ToyTraining(steps=2000, lr=1e-2))
        encoder = canonical_encoder(models.W_encoder.detach())
        unit = encoder / encoder.norm(dim=-1, keepdim=True)
        cosines = unit @ unit.mT
        paired = torch.stack([cosines[..., i, i + 1] for i in (0, 2, 4)], -1).mean(-1)
        other = cosines[..., [0, 0, 2, 1, 1, 3], [2, 4, 4, 3, 5, 5]].abs().mean(-1)
        for k, sparsity in enumerate(task.sparsity):
            row(sparsity, correlation, told(paired[:, k]), told(other[:, k]))


def addition(seeds: int) -> None:
    """a + b mod p: pairs that were held out, and the frequencies of eigenvectors."""
    task = ModularAddition(31, 0.8)
    models = new_models(task.settings(31, 62), (seeds,))
    fresh = models.folded()[0]
    train_toy(models, task, ToyTraining(steps=3000, lr=1e-2, weight_decay=2.0))
    trained, held_out = task.accuracies(models)
    shares = {"trained": _frequencies(models.folded()[0]), "untrained": _frequencies(fresh)}
    vectors = torch.randn(1000, 2, 31, generator=torch.Generator().manual_seed(0))
    shares["random vectors"] = frequency_shares(vectors).amax(-1)
    head("a + b mod 31, share of pairs trained on", "accuracy on these", "on pairs held out", "chance",
         *(f"power in one frequency: {name}" for name in shares))  # fmt: skip
    row(0.8, told(trained, ".3f"), told(held_out, ".3f"), f"{1 / 31:.3f}", *map(told, shares.values()))


def _frequencies(tensor) -> Tensor:
    """For each model the mean share of the strongest frequency in the 8 top eigenvectors of all logits."""
    means = []
    for layer in tensor.layers():
        p = layer.d_out
        u = torch.eye(p) - 1 / p  # a logit against the mean of all
        vectors = eigendecompose(layer, u, k=8).vectors  # [p, 8, 2p]
        means.append(frequency_shares(vectors.reshape(p, 8, 2, p)).amax(-1).mean())
    return torch.stack(means)


def draw(curves: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Writes the figure: features in the encoder and error, against how often a feature is there."""
    from matplotlib.figure import Figure

    from analysis.colours import NEGATIVE, POSITIVE
    from analysis.plots import INK, save_figure

    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    names = {"represented": "features in the encoder (of 20)", "error": "squared error / variance"}
    colors = dict(zip(ARMS, (POSITIVE, INK, NEGATIVE), strict=True))
    x = [1 - s for s in SPARSITY]
    for axes, (key, label) in zip(figure.subplots(1, 2), names.items(), strict=True):
        for name, values in curves[key].items():
            low, high = values.double().amin(0), values.double().amax(0)
            axes.fill_between(x, low, high, color=colors[name], alpha=0.15, linewidth=0)
            axes.plot(x, values.double().mean(0), color=colors[name], marker=".", label=name)
        axes.set(xscale="log", xlabel="probability that a feature is there", ylabel=label)
        axes.set_xticks(x, [f"{each:.2g}" for each in x])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Prints the tables of the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("gates", "three", "hops", "superposition", "addition")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_name("superposition.png"))
    options = parser.parse_args()
    runs = {
        "gates": lambda: gates(20),
        "three": lambda: three(2),
        "hops": lambda: hops(20),
        "superposition": lambda: superposition(10, options.figure),
        "addition": lambda: addition(5),
    }
    for part in options.parts:
        runs[part]()


if __name__ == "__main__":
    main()
