"""Bilinear convolutions on Fashion-MNIST beside ReLU ones of as many parameters, and layers rebuilt.

    python benchmarks/convolution.py FOLDER [--seeds 3] [--epochs 5]

Networks are trained into FOLDER, two files each; those that are there are not trained again, so a run that
was ended goes on. Test accuracy is that after the last epoch. A layer is rebuilt from its eigenfilters, and a
vector of interest from its terms, on test images: errors in standard deviations of what is rebuilt, also for
random layers with every stride, padding, dilation, bias and hidden layer, there the largest. Cells are means
over seeds, and the range.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TypeVar

import torch
from mnist import FASHION, Images, read_images
from safetensors.torch import load_file, save_file
from tables import Table
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.convolutions.filters import eigenfilters
from analysis.convolutions.interest import interest_vectors
from analysis.convolutions.terms import decompose_terms
from bilinear_lm.networks import BilinearConv2d, ConvolutionalNetwork, ConvolutionalSettings

KINDS = ("bilinear", "relu")
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARMUP, CLIP = 128, 2e-3, 0.05, 100, 1.0
REBUILT = 500
"""Test images on which layers are rebuilt."""

Network = TypeVar("Network", bound=nn.Module)


def fit(network: nn.Module, images: Images, epochs: int, seed: int, noise: float = 0.0) -> None:
    """AdamW, with a step size that rises for some steps and falls to 0; gradients cut at norm 1."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * len(images.x) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
    )
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(images.x), (BATCH,), generator=draws)
        x = images.x[rows]
        if noise:
            x = x + noise * torch.randn(x.shape, generator=draws)
        loss = F.cross_entropy(network(x), images.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module, images: Images) -> float:
    pieces = zip(images.x.split(1000), images.labels.split(1000), strict=True)
    return float(torch.cat([network(x).argmax(1) == labels for x, labels in pieces]).double().mean())


def kept(
    path: Path, network: Network, train: Callable[[Network], None], test: Images
) -> tuple[Network, dict[str, float]]:
    """A network and its figures: those at a path, or trained and written there."""
    weights, figures = path.with_suffix(".safetensors"), path.with_suffix(".json")
    if figures.exists():
        network.load_state_dict(load_file(weights))
        return network, json.loads(figures.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    train(network)
    measured = {
        "accuracy": accuracy(network, test),
        "parameters": sum(each.numel() for each in network.parameters()),
        "cpu seconds": time.process_time() - start,
    }
    save_file(network.state_dict(), weights)
    figures.write_text(json.dumps(measured))
    print(path.name, measured, flush=True)
    return network, measured


def new_network(kind: str, seed: int) -> ConvolutionalNetwork:
    torch.manual_seed(seed)
    return ConvolutionalNetwork(
        ConvolutionalSettings.small((1, 28, 28), kind=kind, n_outputs=10, patch=2, bias=True)
    )


@torch.no_grad()
def rebuilt(network: ConvolutionalNetwork, x: Tensor, dtype: torch.dtype) -> list[float]:
    """Errors of blocks from eigenfilters and of a logit's vector from its terms, in standard deviations.

    The root mean square of the block with the most, and the largest; the largest of the blocks themselves,
    against float64; and the largest of the vector.
    """
    exact = copy.deepcopy(network).double().trunk.layers
    network, x = network.to(dtype), x.to(dtype)
    inputs, errors = {}, []
    for name, layer in network.trunk.layers.items():
        inputs[name] = x
        x = layer(x)
        if name.startswith("block"):
            every = torch.eye(x.shape[1], dtype=dtype)
            made = eigenfilters(layer, every)(inputs[name])
            own = off(x.double(), exact[name](inputs[name].double()))
            errors.append([float((made - x).square().mean().sqrt() / x.std()), off(made, x), own])
    last = max(name for name in network.trunk.layer_names if name.startswith("block"))
    u = torch.eye(10, dtype=dtype)[0] - 0.1
    hidden = network.tensor(len(network.trunk.blocks))
    vector = interest_vectors(hidden, u, network.settings.feature_shape, k=1).vectors[0]
    terms = decompose_terms(network.trunk.layers[last], vector)
    return [
        *map(max, zip(*errors, strict=True)),
        off(terms.on(inputs[last]).total, (x * vector).sum((1, 2, 3))),
    ]


@torch.no_grad()
def every_layer(seed: int, dtype: torch.dtype) -> float:
    """The largest error over strides, paddings, dilations, biases and hidden channels, weights at random."""
    torch.manual_seed(seed)
    errors = []
    for stride, padding, dilation, bias, hidden in product(
        (1, 2, 3, (2, 1)), (0, 1, 2, (2, 0)), (1, 2, (1, 3)), (False, True), (None, 5, 40)
    ):
        conv = BilinearConv2d(
            3, 8, 3, stride=stride, padding=padding, dilation=dilation, bias=bias, hidden=hidden
        )
        for name, parameter in conv.named_parameters():
            if name.startswith("b_"):
                parameter.normal_()
        x, u = torch.randn(4, 3, 12, 11, dtype=dtype), torch.randn(8, dtype=dtype)
        y = torch.einsum("o,nohw->nhw", u, conv.to(dtype)(x))
        errors.append(off(eigenfilters(conv, u)(x), y))
    return max(errors)


def off(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).abs().max() / expected.std())


def main(folder: Path, seeds: int, epochs: int) -> None:
    train, test = read_images(FASHION)
    accuracies, errors, all_shapes = Table(), Table(), Table()
    for seed in range(seeds):
        for kind in KINDS:
            network, measured = kept(
                folder / f"{kind}-{seed}",
                new_network(kind, seed),
                lambda network: fit(network, train, epochs, seed),  # noqa: B023
                test,
            )
            accuracies.add(
                kind, [100 * measured["accuracy"], measured["parameters"], measured["cpu seconds"]]
            )
            if kind == "bilinear":
                for dtype in (torch.float32, torch.float64):
                    errors.add(str(dtype), rebuilt(network, test.x[:REBUILT], dtype))
        for dtype in (torch.float32, torch.float64):
            all_shapes.add(str(dtype), [every_layer(seed, dtype)])
    accuracies.show("test accuracy (%) | parameters | CPU seconds")
    errors.show(
        "blocks from eigenfilters, root mean square | largest | the blocks' own rounding, largest | "
        "vector of interest from terms, largest"
    )
    all_shapes.show("random layers, 288 shapes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.seeds, arguments.epochs)
