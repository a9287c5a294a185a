"""Interactions between directions in a basis that all outputs share: how few hold a layer, and what it costs.

    python benchmarks/sparse_interactions.py [--parts images stories] [--seeds 3] [--layers 0 1 2 3]

The measure: pairs of directions of one orthonormal basis that hold 90% of ‖Q‖² over all outputs. Bases: the
network's own coordinates, a random rotation, the HOSVD of the input leg, and rotations from there that make
interactions sparse or diagonal; beside them the eigenvectors that each singular output direction has of its
own. The same is found for random layers of equal shape, and for random layers whose inputs and outputs are
scaled to the singular values of the layer's legs. Costs are points of accuracy of MNIST classifiers of one
layer (mean over seeds, and the range; pairs of orthonormal coordinates of the pixels), and nats per token of
the model `stories` on TinyStories with one MLP that has only those pairs (mean over its layers, and the
range); as controls, as many pairs of the HOSVD basis drawn at random, and as many of the strongest pairs of
a random rotation.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mnist import Images, accuracy, read_mnist, trained
from torch import Tensor

import bilinear_lm as bl
from analysis.chains.chain import as_chain
from analysis.chains.diagonal import orthogonalise
from analysis.interventions.mlp import replaced_mlp
from analysis.spectra.hosvd import hosvd
from analysis.spectra.sparse import SharedBasis, in_basis, keep_pairs, shared_basis, strongest_eigenvectors
from analysis.text.windows import mean_loss, token_windows
from bilinear_lm.networks.image import ImageSettings
from bilinear_lm.tensor import BilinearTensor

TEXT = Path(__file__).parents[2] / "shared" / "data" / "text" / "tinystories" / "clean_v1_valid.txt"
SHARES = (0.9, 0.99)

Rows = dict[str, list[list[float]]]
"""Numbers by what they are about, a row a seed or a layer."""


def random_like(tensor: BilinearTensor, seed: int, spectra: bool) -> BilinearTensor:
    """Random weights of the same shape; with `spectra`, scaled to the singular values of the layer's legs."""
    draws = torch.Generator().manual_seed(seed)
    gate, up, out = (
        torch.randn(each.shape, generator=draws, dtype=tensor.dtype)
        for each in (tensor.W_gate, tensor.W_in, tensor.W_out)
    )
    if spectra:
        inputs, outputs = hosvd(tensor, leg="input").spectrum.unsqueeze(1), hosvd(tensor).spectrum
        inputs, outputs = inputs / inputs.max(), outputs / outputs.max()
        gate, up, out = gate * inputs, up * inputs, out * outputs
    return BilinearTensor(gate, up, out)


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed))).Q


def study(
    tensor: BilinearTensor, cost: Callable[[BilinearTensor], float], seed: int, steps: int, rows: Rows
) -> None:
    """Adds a row for each basis, control and random layer; `cost` is of a tensor in the layer's place."""
    bases = {
        "random rotation": in_basis(tensor, rotation(tensor.d_in, seed)),
        "HOSVD": shared_basis(tensor, steps=0),
        "HOSVD, then made sparse": shared_basis(tensor, "absolute", steps=steps),
        "HOSVD, then made diagonal": shared_basis(tensor, "diagonal", steps=steps),
    }
    for name, basis in bases.items():
        rows[name].append(costs(tensor, basis, cost))
    eigen = [strongest_eigenvectors(tensor, share).tensor for share in SHARES]
    rows["own eigenvectors of each output direction"].append(
        [number for kept in eigen for number in (float(kept.d_mlp), cost(kept))]
    )
    sparse, turned = bases["HOSVD"], bases["random rotation"]
    drawn, strongest = [], []
    for share in SHARES:
        n = sparse.needed(share)
        every = sparse.strongest(tensor.d_in * (tensor.d_in + 1) // 2)
        some = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:n]]
        drawn += [float(n), cost(keep_pairs(tensor, sparse.directions, some))]
        strongest += [float(n), cost(keep_pairs(tensor, turned.directions, turned.strongest(n)))]
    rows["control: as many pairs of HOSVD, at random"].append(drawn)
    rows["control: as many strongest of the random rotation"].append(strongest)
    for name, spectra in (("random layer of equal shape", False), ("random layer of equal spectra", True)):
        null = random_like(tensor, seed, spectra)
        before, after = shared_basis(null, steps=0), shared_basis(null, "absolute", steps=steps)
        for way, basis in (("HOSVD", before), ("then made sparse", after)):
            rows[f"{name}, {way}"].append(
                [number for share in SHARES for number in (basis.needed(share), float("nan"))]
            )
        own = [strongest_eigenvectors(null, share).tensor.d_mlp for share in SHARES]
        rows[f"{name}, own eigenvectors"].append([x for n in own for x in (float(n), float("nan"))])


def costs(tensor: BilinearTensor, basis: SharedBasis, cost: Callable[[BilinearTensor], float]) -> list[float]:
    numbers = []
    for share in SHARES:
        n = basis.needed(share)
        numbers += [float(n), cost(keep_pairs(tensor, basis.directions, basis.strongest(n)))]
    return numbers


def images(width: int, seed: int, steps: int, train: Images, test: Images, rows: Rows) -> None:
    chain = as_chain(trained(ImageSettings(d_model=width, d_mlp=width), train, seed))
    orthogonal = orthogonalise(chain)
    tensor = orthogonal.layers[0].change_basis(outputs=orthogonal.head.T.contiguous())
    own = chain.layers[0].change_basis(outputs=chain.head.T.contiguous())
    whole = accuracy(chain(test.x), test.labels)
    rows["whole"].append([whole])

    def cost(of: BilinearTensor, embedding: Tensor) -> float:
        return 100 * (whole - accuracy(of(test.x @ embedding), test.labels))

    basis = in_basis(own, torch.eye(own.d_in))
    rows["the network's own coordinates"].append(costs(own, basis, lambda of: cost(of, chain.embedding)))
    study(tensor, lambda of: cost(of, orthogonal.embedding), seed, steps, rows)
    print(f"images, seed {seed}: accuracy {whole:.4f}", flush=True)


def stories(layers: Sequence[int], n_windows: int, steps: int, rows: Rows) -> None:
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    text = TEXT.read_text(encoding="utf-8")[: 4000 * n_windows]
    windows = token_windows(tokenizer, text, model.config.max_position_embeddings)[:n_windows]
    whole = mean_loss(model, windows)
    rows["whole"].append([whole])
    for layer in layers:
        tensor = bl.mlp_tensor(model, layer)

        def cost(of: BilinearTensor | Callable[[Tensor], Tensor], layer: int = layer) -> float:
            with replaced_mlp(model, layer, of):
                return mean_loss(model, windows) - whole

        basis = in_basis(tensor, torch.eye(tensor.d_in))
        rows["the network's own coordinates"].append(costs(tensor, basis, cost))
        study(tensor, cost, layer, steps, rows)
        rows["without the MLP"].append([0, cost(torch.zeros_like)] * len(SHARES))
        print(f"stories, layer {layer}", flush=True)


def cell(values: Sequence[float], form: str) -> str:
    mean = form.format(sum(values) / len(values))
    return f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


def show(title: str, unit: str, rows: Rows) -> None:
    whole = [row[0] for row in rows.pop("whole")]
    print(f"\n{title}; whole: {cell(whole, '{:.4f}')}\n")
    print("| basis |" + "".join(f" pairs for {share:.0%} | {unit} lost |" for share in SHARES))
    print("|---" * (1 + 2 * len(SHARES)) + "|")
    for name, runs in rows.items():
        columns = list(zip(*runs, strict=True))
        forms = ["{:.0f}", "{:.3f}"] * len(SHARES)
        cells = [
            "" if column[0] != column[0] else cell(column, form)
            for column, form in zip(columns, forms, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=("images", "stories"), default=("images", "stories"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=128, help="of the classifiers' layers")
    parser.add_argument("--layers", type=int, nargs="+", default=(0, 1, 2, 3), help="MLPs of stories")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40, help="of the search for a basis")
    arguments = parser.parse_args()
    if "images" in arguments.parts:
        train, test = read_mnist()
        rows: Rows = defaultdict(list)
        for seed in range(arguments.seeds):
            images(arguments.width, seed, arguments.steps, train, test, rows)
        show("MNIST classifiers of one layer", "points", rows)
    if "stories" in arguments.parts:
        rows = defaultdict(list)
        stories(arguments.layers, arguments.windows, arguments.steps, rows)
        show("MLPs of stories", "nats", rows)


if __name__ == "__main__":
    main()
