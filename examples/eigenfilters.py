"""Filters that tell bars of four directions apart: eigenfilters of one bilinear convolution.

    python examples/eigenfilters.py [FIGURE.png]

The classifier is the mean of a bilinear convolution over the image, a channel a direction. It is trained on
drawn bars for some seconds. Each channel's eigenfilters say from the weights what raises its logit, those of
eigenvalues above 0, and what lowers it; here the first ones are shown bars of every direction.
"""

import sys

import torch
from torch.nn import functional as F

import bilinear_lm as bl
from analysis import activation_maps, eigenfilters, filter_plot, save_figure

DIRECTIONS = {"—": (1, 0), "/": (1, 1), "|": (0, 1), "\\": (-1, 1)}
SIDE = 12


def bars(n: int, noise: float, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, 1, SIDE, SIDE] of a bar somewhere, and its direction."""
    labels = torch.randint(len(DIRECTIONS), (n,), generator=draws)
    x, y = F.normalize(torch.tensor([*DIRECTIONS.values()]).float(), dim=1)[labels].T[..., None, None]
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    up, right = torch.meshgrid(-place, place, indexing="ij")
    moved = 6 * torch.rand(n, 1, 1, generator=draws) - 3
    images = torch.exp(-((y * right - x * up - moved) ** 2))
    return (images + noise * torch.randn(images.shape, generator=draws)).unsqueeze(1), labels


def main(figure: str | None = None, steps: int = 200) -> None:
    """Trains the classifier, prints what its eigenfilters respond to, and draws them."""
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(0)
    conv = bl.networks.BilinearConv2d(1, len(DIRECTIONS), 5, hidden=12)
    optimizer = torch.optim.AdamW(conv.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        x, labels = bars(64, 0.3, draws)
        loss = F.cross_entropy(conv(x).mean((2, 3)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, labels = bars(1000, 0.3, draws)
    right = conv(x).mean((2, 3)).argmax(1) == labels
    print(f"{float(right.double().mean()):.0%} of 1000 new bars are told right")

    eigen = eigenfilters(conv, torch.eye(len(DIRECTIONS)), k=2)
    x, labels = bars(400, 0.0, draws)
    maps = activation_maps(eigen, x).mean((3, 4))  # [images, channels, k]
    responses = torch.stack([maps[labels == bar].mean(0) for bar in range(len(DIRECTIONS))])
    print(f"{'logit':>5} {'λ':>7} {' '.join(f'{bar:>7}' for bar in DIRECTIONS)}   mean response to bars")
    for channel, name in enumerate(DIRECTIONS):
        for index, value in enumerate(eigen.values[channel].tolist()):
            cells = " ".join(f"{each:+7.2f}" for each in responses[:, channel, index].tolist())
            print(f"{name:>5} {value:+7.2f} {cells}")
    if figure:
        names = [
            f"{name}  λ {value:+.2f}"
            for name, row in zip(DIRECTIONS, eigen.values, strict=True)
            for value in row.tolist()
        ]
        save_figure(filter_plot(eigen.filters.flatten(0, 1), names, "eigenfilters of each direction"), figure)
        print(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
