"""Chains of bilinear layers with inner dimensions cut: accuracy, predicted and measured errors, controls.

    python benchmarks/chain.py [--seeds 3] [--width 128] [--figure benchmarks/chain.png]

MNIST classifiers of three bilinear layers, plain and with residual connections, and trees of
eigenvectors of classifiers of two. "cut" is the share of all inner dimensions, those of the four legs of a
chain, that are left out. Errors are ‖T − T'‖² / ‖T‖² of the whole trees of degree eight: predicted from
discarded weights alone, from at least to at most, and measured by inner products of trees. Accuracy is on
the 10,000 test images. The other ways to cut have the same ranks, and all of them leave the leg below the
head, which the ten classes bound to ten dimensions, as the head's singular vectors have it. Cells are means
over seeds, and the range.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from mnist import Images, accuracy, read_mnist, trained
from torch import Tensor

from analysis.chains.chain import Chain, as_chain, chain_error, second_moment
from analysis.chains.diagonal import DiagonalChain, diagonalise
from analysis.chains.top_down import unfold
from analysis.colours import NEGATIVE, POSITIVE
from analysis.spectra.gram import unfolding_gram
from analysis.spectra.hosvd import hosvd
from bilinear_lm.networks.image import ImageSettings

CUTS = (0.5, 0.7, 0.8, 0.9, 0.95)
NETWORKS = {"plain": False, "residual": True}
SHARES = (0.5, 0.7, 0.9, 0.95, 0.99)
WEIGHTS, DATA = "by density matrices, weights alone", "by density matrices, second moment of images"
OTHERS = {
    "single": "by the HOSVD of the layer above, alone",
    "norm": "coordinates of largest norm",
    "random": "random directions",
}

Results = dict[tuple[str, float, str], list[list[float]]]
"""Numbers of each seed by (network, cut, way or kind of number)."""


def other_cuts(chain: Chain, diagonal: DiagonalChain, ranks: Sequence[int], seed: int) -> dict[str, Chain]:
    """The chain cut to the same ranks in ways that know less of it."""
    draws = torch.Generator().manual_seed(seed)
    top = torch.linalg.svd(chain.head, full_matrices=False).U[:, : ranks[-1]]
    made = {}
    for way in ("single", "norm"):
        choose = _single_layer if way == "single" else _largest
        bases = [choose(chain, leg, rank) for leg, rank in enumerate(ranks[:-1])] + [top]
        made[way] = chain.through(bases, [basis.T for basis in bases])
    inside = diagonal.chain
    bases = [
        torch.linalg.qr(torch.randn(width, rank, generator=draws)).Q
        for width, rank in zip(inside.widths[:-1], ranks[:-1], strict=True)
    ]
    bases.append(torch.eye(inside.widths[-1])[:, : ranks[-1]])
    made["random"] = inside.through(bases, [basis.T for basis in bases])
    return made


def _single_layer(chain: Chain, leg: int, rank: int) -> Tensor:
    """The directions that the layer above reads most, in the network's own coordinates."""
    directions = hosvd(chain.layers[leg], k=rank, leg="input").input_directions
    if chain.constant:  # the constant is kept, and what it shares with the others counted once
        directions = torch.cat([torch.eye(chain.widths[leg])[-1:], directions[: rank - 1]])
    return torch.linalg.qr(directions.T).Q


def _largest(chain: Chain, leg: int, rank: int) -> Tensor:
    """The coordinates with the largest product of the norms of what writes them and what reads them."""
    if leg:
        written = unfolding_gram(chain.layers[leg - 1]).diagonal().float()
    else:
        written = chain.embedding.square().sum(0)
    strength = written * unfolding_gram(chain.layers[leg], "input").diagonal().float()
    if chain.constant:
        strength[-1] = torch.inf
    return torch.eye(chain.widths[leg])[:, strength.topk(rank).indices]


def measure_cuts(name: str, width: int, seed: int, train: Images, test: Images, results: Results) -> None:
    settings = ImageSettings(n_layers=3, d_model=width, d_mlp=width, residual=NETWORKS[name])
    chain = as_chain(trained(settings, train, seed))
    moment = second_moment(train.x, chain.constant)
    start = time.perf_counter()
    diagonal = diagonalise(chain)
    seconds = time.perf_counter() - start
    by_data = diagonalise(chain, moment)
    whole = accuracy(chain(test.x), test.labels)
    results[name, 0, "whole"].append([whole, chain_error(chain, diagonal.chain), seconds])
    for cut in CUTS:
        ranks, data_ranks = diagonal.ranks_without(cut), by_data.ranks_without(cut)
        made = {"weights": diagonal.truncate(ranks), "data": by_data.truncate(data_ranks)}
        made |= other_cuts(chain, diagonal, ranks, seed)
        for way, other in made.items():
            error = chain_error(chain, other, moment if way == "data" else None)
            results[name, cut, way].append([whole - accuracy(other(test.x), test.labels), error])
        results[name, cut, "weights predicted"].append([*diagonal.predicted(ranks)])
        results[name, cut, "data predicted"].append([*by_data.predicted(data_ranks)])
        results[name, cut, "ranks"].append([*map(float, ranks)])
    print(f"{name}, seed {seed}: accuracy {whole:.4f}", flush=True)


def measure_trees(width: int, seed: int, train: Images, test: Images, results: Results) -> None:
    settings = ImageSettings(n_layers=2, d_model=width, d_mlp=width)
    chain = as_chain(trained(settings, train, seed))
    whole = accuracy(chain(test.x), test.labels)
    draws = torch.Generator().manual_seed(seed)
    for share in SHARES:
        tree = unfold(chain, share=share)
        kept = [float(len(level.values)) for level in tree.levels]
        lost = whole - accuracy(tree.chain(test.x), test.labels)
        results["tree", share, "pruned"].append([whole, *kept, tree.remainder, lost])
        weights = tree.levels[-1].weights
        first, *above = tree.chain.layers
        some = torch.randperm(len(weights), generator=draws)[: len(weights) // 2]
        for way, gone in (
            ("random half", some),
            ("strong half", weights.argsort(descending=True)[: len(some)]),
        ):
            rest = torch.ones(len(weights))
            rest[gone] = 0
            some_units = replace(first, W_out=first.W_out * rest[:, None])
            other = replace(tree.chain, layers=(some_units, *above))
            lost = whole - accuracy(other(test.x), test.labels)
            results["tree", share, way].append([chain_error(chain, other), lost])


def cell(values: Sequence[float], form: str = "{:.4f}") -> str:
    mean = form.format(sum(values) / len(values))
    return f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


def columns(results: Results, name: str, cut: float, way: str) -> list[tuple[float, ...]]:
    return list(zip(*results[name, cut, way], strict=True))


def show_cuts(results: Results) -> None:
    for name in NETWORKS:
        whole, exact, seconds = columns(results, name, 0, "whole")
        print(f"\n{name}: accuracy {cell(whole)}, error without a cut at most {max(exact):.0e}, "
              f"{max(seconds):.1f} s at most to diagonalise")  # fmt: skip
        print("\n| cut | ranks, first seed | error predicted | measured | points of accuracy lost |", end="")
        print("".join(f" {each} |" for each in ("data: predicted", "measured", "points", *OTHERS)))
        print("|---" * (8 + len(OTHERS)) + "|")
        for cut in CUTS:
            ranks = ", ".join(f"{rank:.0f}" for rank in results[name, cut, "ranks"][0])
            row = [f"{cut:.0%}", ranks]
            for way in ("weights", "data"):
                low, high = columns(results, name, cut, f"{way} predicted")
                lost, error = columns(results, name, cut, way)
                row += [f"{sum(low) / len(low):.1e} to {sum(high) / len(high):.1e}", cell(error, "{:.1e}")]
                row += [cell([100 * each for each in lost], "{:.2f}")]
            for way in OTHERS:
                lost, error = columns(results, name, cut, way)
                points = cell([100 * each for each in lost], "{:.1f}")
                row.append(f"{points}; error {sum(error) / len(error):.1e}")
            print("| " + " | ".join(row) + " |")


def show_trees(results: Results) -> None:
    print(
        "\n| share of weight kept | eigenvectors of the last layer, of the first | remainder | points lost |",
        end="",
    )
    print(" half of the lowest removed at random: error, points | the strongest half |\n" + "|---" * 6 + "|")
    for share in SHARES:
        whole, upper, lower, remainder, lost = columns(results, "tree", share, "pruned")
        row = [f"{share:.0%}", f"{cell(upper, '{:.0f}')}, {cell(lower, '{:.0f}')}", cell(remainder, "{:.3f}")]
        row.append(cell([100 * each for each in lost], "{:.2f}"))
        for way in ("random half", "strong half"):
            error, lost = columns(results, "tree", share, way)
            row.append(f"{cell(error, '{:.2f}')}; {cell([100 * each for each in lost], '{:.1f}')}")
        print("| " + " | ".join(row) + " |")
    print(f"accuracy of the whole classifiers {cell(whole)}")


def draw(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    looks = {
        "weights": (POSITIVE, "o-", WEIGHTS),
        "data": ("#1a3d6d", "s-", DATA),
        "single": ("#8a8a8a", "^--", OTHERS["single"]),
        "norm": ("#b59a57", "v--", OTHERS["norm"]),
        "random": (NEGATIVE, "x--", OTHERS["random"]),
    }
    figure, axes = plt.subplots(2, 2, figsize=(9.2, 6.6), sharex=True)
    percent = [100 * cut for cut in CUTS]
    for row, name in zip(axes, NETWORKS, strict=True):
        whole = columns(results, name, 0, "whole")[0]
        for way, (color, style, label) in looks.items():
            lost = torch.tensor([columns(results, name, cut, way)[0] for cut in CUTS])
            kept = 100 * (torch.tensor(whole) - lost)
            row[0].plot(percent, kept.mean(1), style, color=color, label=label, markersize=4, linewidth=1.2)
            row[0].fill_between(percent, kept.amin(1), kept.amax(1), color=color, alpha=0.15, linewidth=0)
        row[0].axhline(100 * sum(whole) / len(whole) - 1, color="#606060", linewidth=0.8, linestyle=":")
        row[0].set(ylabel="accuracy, %", title=f"{name}: accuracy (dotted: one point less than whole)")
        for way in ("weights", "data"):
            color, _, label = looks[way]
            low, high = (
                [sum(each) / len(each) for each in column]
                for column in zip(
                    *(columns(results, name, cut, f"{way} predicted") for cut in CUTS), strict=True
                )
            )
            error = [columns(results, name, cut, way)[1] for cut in CUTS]
            row[1].fill_between(
                percent, low, high, color=color, alpha=0.2, linewidth=0, label=f"predicted, {way}"
            )
            means = [sum(each) / len(each) for each in error]
            row[1].plot(percent, means, "o-", color=color, markersize=4, label=f"measured, {way}")
        row[1].set(yscale="log", ylabel="‖T − T'‖² / ‖T‖²", title=f"{name}: error of the whole tensor")
    for axis in axes[1]:
        axis.set_xlabel("inner dimensions cut, %")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 1].legend(fontsize=7.5, frameon=False)
    names = axes[0, 0].get_legend_handles_labels()
    figure.legend(*names, fontsize=8, frameon=False, loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.07, 1, 1), w_pad=3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=128, help="of the classifiers' layers")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    train, test = read_mnist()
    results: Results = defaultdict(list)
    for seed in range(arguments.seeds):
        for name in NETWORKS:
            measure_cuts(name, arguments.width, seed, train, test, results)
        measure_trees(arguments.width, seed, train, test, results)
    show_cuts(results)
    show_trees(results)
    if arguments.figure is not None:
        draw(results, arguments.figure)


if __name__ == "__main__":
    main()
