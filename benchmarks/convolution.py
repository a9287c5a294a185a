"""Bilinear convolutions on Fashion-MNIST beside ReLU ones of as many parameters, and what their filters read.

    python benchmarks/convolution.py FOLDER [--seeds 3] [--epochs 10] [--figure curves.png]

Networks are trained into FOLDER, one file each; those that are there are not trained again, so a run that was
ended goes on. Test accuracy is that after the last epoch. Cells are means over seeds, and the range.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from bilinear_lm.networks import ConvolutionalNetwork, ConvolutionalSettings

IMAGES = Path(__file__).parents[2] / "shared" / "data" / "fashion-mnist"
KINDS = ("bilinear", "relu")
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARMUP, CLIP = 128, 2e-3, 0.05, 100, 1.0


@dataclass(frozen=True)
class Images:
    x: Tensor
    labels: Tensor

    @classmethod
    def read(cls, part: str) -> Images:
        pixels = _read(IMAGES / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).float() / 255
        return cls(pixels, _read(IMAGES / f"{part}-labels-idx1-ubyte.gz", 8).long())


def _read(path: Path, header: int) -> Tensor:
    with gzip.open(path) as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)[header:]


def new_network(kind: str, seed: int) -> ConvolutionalNetwork:
    torch.manual_seed(seed)
    shape = {"n_outputs": 10, "patch": 2, "bias": True}
    return ConvolutionalNetwork(ConvolutionalSettings.small((1, 28, 28), kind=kind, **shape))


def train(network: ConvolutionalNetwork, images: Images, epochs: int, seed: int) -> None:
    """AdamW, with a step size that rises for some steps and falls to 0; gradients cut at norm 1."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * len(images.x) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
    )
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(images.x), (BATCH,), generator=draws)
        loss = F.cross_entropy(network(images.x[rows]), images.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(network: ConvolutionalNetwork, images: Images) -> float:
    right = [network(x).argmax(1) == labels for x, labels in zip(images.x.split(1000), images.labels.split(1000), strict=True)]
    return float(torch.cat(right).double().mean())


def trained(folder: Path, kind: str, seed: int, epochs: int) -> tuple[ConvolutionalNetwork, dict[str, float]]:
    """A network and its figures, from the folder or trained into it."""
    weights, figures = folder / f"{kind}-{seed}.safetensors", folder / f"{kind}-{seed}.json"
    network = new_network(kind, seed)
    if figures.exists():
        network.load_state_dict(load_file(weights))
        return network, json.loads(figures.read_text())
    start = time.process_time()
    train(network, Images.read("train"), epochs, seed)
    measured = {
        "accuracy": accuracy(network, Images.read("t10k")),
        "parameters": sum(each.numel() for each in network.parameters()),
        "cpu seconds": time.process_time() - start,
    }
    save_file(network.state_dict(), weights)
    figures.write_text(json.dumps(measured))
    print(kind, seed, measured, flush=True)
    return network, measured


def main(folder: Path, seeds: int, epochs: int, figure: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    runs = {(kind, seed): trained(folder, kind, seed, epochs) for seed in range(seeds) for kind in KINDS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--figure", type=Path, default=None)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.seeds, arguments.epochs, arguments.figure)
