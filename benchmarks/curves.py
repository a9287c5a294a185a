"""Curve detectors read off the weights of bilinear convolutions.

    python benchmarks/curves.py FOLDER [--seeds 3] [--figure curves.png]

Two classifiers. One is the mean over the image of a bilinear convolution, 12 channels of 9 × 9 filters,
trained on drawn lines with noise: eight classes of arcs, by direction, and four of straight lines. The first
eigenfilters of the arcs' logits, each against the mean of all logits, are read. The other is a bilinear
convolution of Fashion-MNIST and a linear head; both eigenfilters of its 16 channels are read.

Filters are shown lines and edges in 24 directions and 6 curvatures, from straight to a circle of radius 2.5
pixels, at five places across the direction. The response is the share of a stimulus that lies along the
filter, the squared cosine. Controls, each with the energy of the eigenfilters: random filters of the same
support, the space that the eigenfilters of the same direction of channels span; the same filters with random
phases, which leaves each its spectrum; and white noise.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from convolution import fit, kept
from matplotlib.axes import Axes
from mnist import FASHION, Images, read_images
from tables import Table
from torch import Tensor, nn

from analysis.colours import NEGATIVE, POSITIVE
from analysis.convolutions.filters import Eigenfilters, activation_maps, eigenfilters
from analysis.plots import INK, Drawing, save_figure, styled
from bilinear_lm.networks import BilinearConv2d

SIDE, IMAGE, N_ARCS, N_LINES, HIDDEN, CHANNELS = 9, 20, 8, 4, 32, 16
DRAWN, EPOCHS, NOISE, WIDTH = 40_000, 3, 0.3, 0.9
DIRECTIONS = torch.arange(24) * (2 * math.pi / 24)
CURVATURES = torch.tensor([0.0, 1 / 16, 1 / 8, 1 / 5, 1 / 3.5, 1 / 2.5])
OFFSETS = torch.arange(-2.0, 3.0)
CONTROLS = 20
FASHION_SHOWN = 18
"""The test image of Fashion-MNIST that is drawn; of lines it is the first of the class."""


class DrawnLines(nn.Module):
    """The mean over the image of a bilinear convolution."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = BilinearConv2d(1, N_ARCS + N_LINES, SIDE, hidden=HIDDEN, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


class OneLayer(nn.Module):
    """A bilinear convolution of the pixels and a linear head."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = BilinearConv2d(1, CHANNELS, SIDE, stride=2, bias=True)
        n = CHANNELS * math.prod(self.conv.placing.places(28, 28))
        self.W_head, self.b_head = nn.Parameter(torch.randn(n, 10) / n**0.5), nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1) @ self.W_head + self.b_head


def distance(along: Tensor, across: Tensor, curvature: Tensor) -> Tensor:
    """How far a place lies to the left of a line that bends to the left."""
    radius = 1 / curvature.clamp(min=1e-6)
    return torch.where(curvature > 0, radius - torch.hypot(along, across - radius), across)


def frame(size: int, direction: Tensor) -> tuple[Tensor, Tensor]:
    """How far each pixel lies along a direction from the middle, and to the left of it."""
    place = torch.arange(size) - (size - 1) / 2
    up, right = torch.meshgrid(-place, place, indexing="ij")
    cos, sin = direction.cos(), direction.sin()
    return cos * right + sin * up, cos * up - sin * right


def lines(n: int, seed: int) -> Images:
    """Drawn lines with noise: arcs of radius 2.5 to 5 in eight directions, straight ones in four."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(N_ARCS + N_LINES, (n,), generator=draws)
    straight = labels >= N_ARCS
    direction = torch.where(straight, (labels - N_ARCS) * math.pi / N_LINES, labels * 2 * math.pi / N_ARCS)
    along, across = frame(IMAGE, direction.view(-1, 1, 1))
    moved = 10 * torch.rand(2, n, 1, 1, generator=draws) - 5
    along, across = along - moved[0], across - moved[1]
    curvature = torch.where(straight, 0.0, 1 / (2.5 + 2.5 * torch.rand(n, generator=draws))).view(-1, 1, 1)
    drawn = torch.exp(-((distance(along, across, curvature) / WIDTH) ** 2) / 2)
    # An arc is half a circle at most, a straight line as long.
    drawn = drawn * torch.where(curvature > 0, across * curvature < 0.8, along.abs() < 4)
    drawn = drawn + NOISE * torch.randn(drawn.shape, generator=draws)
    return Images(drawn.unsqueeze(1), labels)


def stimuli() -> Tensor:
    """Lines and edges of mean 0 and length 1, [directions, curvatures, offsets · 2, SIDE²]."""
    along, across = frame(SIDE, DIRECTIONS.view(-1, 1, 1, 1, 1))
    left = distance(along, across - OFFSETS.view(-1, 1, 1), CURVATURES.view(-1, 1, 1, 1))
    line = torch.exp(-((left / WIDTH) ** 2) / 2)
    window = torch.exp(-(along**2 + across**2) / (2 * (SIDE / 3) ** 2))
    drawn = torch.cat([line * window, left * line * window], dim=2).flatten(3)
    drawn = drawn - drawn.mean(-1, keepdim=True)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def responses(filters: Tensor, shown: Tensor) -> Tensor:
    """[n, directions, curvatures] of filters [n, SIDE, SIDE]: the largest over profiles and offsets."""
    rows = filters.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return torch.einsum("dcop,np->ndco", shown, rows).square().amax(-1)


@dataclass(frozen=True)
class Read:
    """Eigenfilters [n, SIDE, SIDE] that were read, their eigenvalues and names, and their supports."""

    filters: Tensor
    values: Tensor
    names: list[str]
    supports: Tensor
    """[n, rank, SIDE, SIDE]."""
    eigen: Eigenfilters
    """With `index`, each filter's place in it."""
    index: list[tuple[int, int]]

    @classmethod
    def of_arcs(cls, conv: BilinearConv2d) -> Read:
        n = N_ARCS + N_LINES
        eigen = eigenfilters(conv, (torch.eye(n) - 1 / n)[:N_ARCS])
        firsts = [(arc, int(values.argmax())) for arc, values in enumerate(eigen.values)]
        return cls._made(eigen, firsts, [f"arc {arc * 360 // N_ARCS}°" for arc in range(N_ARCS)])

    @classmethod
    def of_channels(cls, conv: BilinearConv2d) -> Read:
        eigen = eigenfilters(conv, torch.eye(CHANNELS))
        places = [(channel, index) for channel in range(CHANNELS) for index in range(2)]
        return cls._made(eigen, places, [f"channel {channel}" for channel, _ in places])

    @classmethod
    def _made(cls, eigen: Eigenfilters, places: list[tuple[int, int]], names: list[str]) -> Read:
        rows, columns = zip(*places, strict=True)
        filters = eigen.filters[rows, columns].squeeze(1)
        return cls(
            filters, eigen.values[rows, columns], names, eigen.filters[list(rows)].squeeze(2), eigen, places
        )

    def controls(self, seed: int) -> dict[str, Tensor]:
        """Random filters by kind, CONTROLS of each filter."""
        draws = torch.Generator().manual_seed(seed)
        many = self.filters.repeat(CONTROLS, 1, 1)
        mixture = torch.randn(CONTROLS, *self.supports.shape[:2], generator=draws)
        noise = torch.fft.rfft2(torch.randn(many.shape, generator=draws))
        phased = torch.fft.irfft2(torch.fft.rfft2(many).abs() * noise / noise.abs(), s=many.shape[-2:])
        return {
            "random filters of the same support": torch.einsum(
                "cnr,nrhw->cnhw", mixture, self.supports
            ).flatten(0, 1),
            "random phases": phased,
            "white noise": torch.randn(many.shape, generator=draws),
        }


def numbers(measured: Tensor) -> list[float]:
    """Medians over filters of responses [n, directions, curvatures].

    The best response; how much it depends on the orientation, |Σ r e^{2iθ}| / Σ r at the best curvature; on
    the side to which the best curve bends, r − m with m the response to its mirror image; and the best to a
    curve less the best to a straight line.
    """
    rows, half = torch.arange(len(measured)), len(DIRECTIONS) // 2
    at_best = measured[rows, :, measured.amax(1).argmax(1)]
    orientation = (at_best * torch.exp(2j * DIRECTIONS)).sum(1).abs() / at_best.sum(1)
    curved = measured[:, :, 1:].flatten(1)
    direction, curvature = curved.argmax(1) // (len(CURVATURES) - 1), curved.argmax(1) % (len(CURVATURES) - 1)
    best = curved.amax(1)
    mirrored = measured[rows, (direction + half) % len(DIRECTIONS), curvature + 1]
    each = (measured.flatten(1).amax(1), orientation, best - mirrored, prefers_curves(measured))
    return [float(values.median()) for values in each]


def prefers_curves(measured: Tensor) -> Tensor:
    return measured[:, :, 1:].flatten(1).amax(1) - measured[:, :, 0].amax(1)


def misses(measured: Tensor) -> list[float]:
    """Degrees between the direction of each filter's class and that of the curve it responds to best."""
    best = measured[:, :, 1:].amax(2).argmax(1) * (360 / len(DIRECTIONS))
    classes = torch.arange(len(measured)) % N_ARCS * (360 / N_ARCS)
    off = (best - classes).abs()
    off = torch.minimum(off, 360 - off)
    return [float(off.median()), float((off <= 15).double().mean())]


def study(folder: Path, seeds: int, figure: Path | None) -> None:
    drawn = lines(DRAWN, 1), lines(5_000, 2)
    fashion = read_images(FASHION)
    accuracies, table, directions, rows = Table(), Table(), Table(), []
    shown = stimuli()
    for seed in range(seeds):
        for name, network, (train, test), noise in (
            ("drawn lines", DrawnLines(seed), drawn, 0.0),
            ("Fashion-MNIST", OneLayer(seed), fashion, NOISE),
        ):
            path = folder / f"{name.replace(' ', '-')}-{seed}"
            network, measured = kept(
                path,
                network,
                lambda network: fit(network, train, EPOCHS, seed, noise=noise),  # noqa: B023
                test,
            )
            accuracies.add(name, [100 * measured["accuracy"], measured["parameters"]])
            of_lines = isinstance(network, DrawnLines)
            read = Read.of_arcs(network.conv) if of_lines else Read.of_channels(network.conv)
            for kind, filters in {"eigenfilters": read.filters, **read.controls(seed)}.items():
                found = responses(filters, shown)
                table.add(f"{name}: {kind}", numbers(found))
                if of_lines:
                    directions.add(kind, misses(found))
            if seed == 0:
                rows += [(name, read, index, test) for index in strongest(read, shown, of_lines)]
    if figure:
        save_figure(draw(rows, shown), figure)
    accuracies.show("test accuracy (%) | parameters")
    table.show("best response | orientation | side of the bend | curved less straight")
    directions.show("median degrees from the class's direction | share within 15°")


def strongest(read: Read, shown: Tensor, of_lines: bool) -> list[int]:
    """The filters to draw: three arcs, or the two that prefer curves most."""
    if of_lines:
        return list(range(0, N_ARCS, 3))
    return prefers_curves(responses(read.filters, shown)).argsort(descending=True)[:2].tolist()


@styled
def draw(rows: list[tuple[str, Read, int, Images]], shown: Tensor) -> Drawing:
    """By row: an eigenfilter, the stimulus it responds to best, its tuning, and its map of an image."""
    figure = Drawing(figsize=(8.8, 0.6 + 1.35 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 6, squeeze=False, width_ratios=(1, 1, 1.7, 1.5, 1, 1))
    for axes, (name, read, index, test) in zip(grid, rows, strict=True):
        measured = responses(read.filters[[index]], shown)[0]
        control = responses(read.controls(0)["random filters of the same support"], shown)
        direction, curvature = divmod(int(measured.argmax()), len(CURVATURES))
        kinds = shown[direction, curvature]
        along = kinds @ (read.filters[index] - read.filters[index].mean()).flatten()
        best = kinds[along.abs().argmax()] * along[along.abs().argmax()].sign()
        signed(axes[0], read.filters[index], f"{read.names[index]}, λ {float(read.values[index]):+.2f}")
        axes[0].set_ylabel(name, fontsize=8)
        signed(axes[1], best.view(SIDE, SIDE), f"best: {float(measured.max()):.2f}")
        degrees = (DIRECTIONS * 180 / math.pi).tolist()
        tuning(axes[2], degrees, measured[:, curvature], control[:, :, curvature])
        axes[2].set_xticks([0, 90, 180, 270])
        tuning(axes[3], list(range(len(CURVATURES))), measured.amax(0), control.amax(1))
        axes[3].set_xticks(
            range(len(CURVATURES)), ["∞", *(f"{1 / each:g}" for each in CURVATURES[1:].tolist())]
        )
        direction, place = read.index[index]
        of_class = (test.labels == direction).nonzero() if name == "drawn lines" else [FASHION_SHOWN]
        image = test.x[[int(of_class[0])]]
        axes[4].imshow(image[0, 0], cmap="gray")
        axes[4].set(xticks=[], yticks=[])
        signed(axes[5], activation_maps(read.eigen, image)[0, direction, place])
    headings = ("tuning by direction", "by radius", "image", "λ (f ∗ x)²")
    for axes, heading in zip(grid[0][2:], headings, strict=True):
        axes.set_title(heading, fontsize=8)
    grid[-1][2].set_xlabel("direction (degrees)", fontsize=8)
    grid[-1][3].set_xlabel("radius (pixels)", fontsize=8)
    figure.suptitle(
        "Eigenfilters shown curves; grey: random filters of the same support, middle 90%", fontsize=10
    )
    return figure


def tuning(axes: Axes, places: list[float], values: Tensor, control: Tensor) -> None:
    low, middle, high = control.quantile(torch.tensor([0.05, 0.5, 0.95]), dim=0)
    axes.fill_between(places, low.tolist(), high.tolist(), color=INK, alpha=0.2, linewidth=0)
    axes.plot(places, middle.tolist(), color=INK, linewidth=0.8)
    axes.plot(places, values.tolist(), color=POSITIVE, marker=".", markersize=4)
    axes.set_ylim(0, 1)


def signed(axes: Axes, image: Tensor, title: str = "") -> None:
    colors = matplotlib.colors.LinearSegmentedColormap.from_list("signed", [NEGATIVE, "white", POSITIVE])
    limit = float(image.abs().max())
    axes.imshow(image.detach(), cmap=colors, vmin=-limit, vmax=limit)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, default=None)
    arguments = parser.parse_args()
    study(arguments.folder, arguments.seeds, arguments.figure)
