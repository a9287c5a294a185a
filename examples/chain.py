"""A deep chain of bilinear layers with most of its inner dimensions cut, and what the weights say it costs.

    python examples/chain.py [FIGURE] [EPOCHS]

A classifier of three bilinear layers learns to tell rings, crosses and bars apart in noisy images. From its
weights alone the legs of its tree get coordinates that can be cut (arXiv 2504.02667): the error of the whole
tensor, of degree eight, is predicted from the weights that are discarded, and measured exactly.
"""

import sys

import torch

import bilinear_lm as bl
from analysis import as_chain, diagonalise

SIDE, CLASSES, WIDTH, BATCH, STEPS_AN_EPOCH = 12, 3, 32, 128, 50
CUTS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)


def shapes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of rings, crosses and bars at random places, and which of them each is."""
    labels, line = torch.randint(CLASSES, (n,)), torch.arange(SIDE) - SIDE / 2 + 0.5
    shift = 4 * torch.rand(n, 2, 1, 1) - 2
    y, x = line[:, None] - shift[:, 0], line - shift[:, 1]
    ring = ((x.square() + y.square()).sqrt() - 3).abs() < 0.8
    near = (x.abs() < 4) & (y.abs() < 4)
    cross, bar = near & ((x - y).abs().minimum((x + y).abs()) < 1), near & (y.abs() < 1)
    drawn = torch.stack([ring, cross, bar])[labels, torch.arange(n)].float()
    return (drawn + 0.4 * torch.randn(n, SIDE, SIDE)).flatten(1), labels


def trained(epochs: int) -> bl.networks.ImageClassifier:
    """The classifier after training on images that are new in each step."""
    classifier = bl.networks.ImageClassifier(
        bl.networks.ImageSettings(
            (SIDE, SIDE), CLASSES, d_model=WIDTH, d_mlp=WIDTH, n_layers=3, residual=True
        )
    )
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.5)
    for _ in range(epochs * STEPS_AN_EPOCH):
        x, labels = shapes(BATCH)
        loss = torch.nn.functional.cross_entropy(classifier(x), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
    return classifier


def main(figure: str | None = None, epochs: str = "5") -> None:
    """Trains, cuts and measures; draws accuracy and errors against what is cut."""
    torch.manual_seed(0)
    chain = as_chain(trained(int(epochs)))
    diagonal = diagonalise(chain)
    x, labels = shapes(2000)
    rows = []
    print(f"a chain of {len(chain.layers)} layers, legs of {chain.widths} dimensions")
    for cut in CUTS:
        ranks = diagonal.ranks_without(cut)
        correct = (diagonal.truncate(ranks)(x).argmax(-1) == labels).float().mean()
        low, high = diagonal.predicted(ranks)
        rows.append((100 * cut, 100 * float(correct), low, diagonal.measured(ranks), high))
        print(f"{cut:4.0%} cut, to {ranks}: accuracy {correct:.1%}, error {rows[-1][3]:.1e}", end=" ")
        print(f"(predicted {low:.1e} to {high:.1e})")
    if figure is not None:
        draw(rows, figure)
        print(figure)


def draw(rows: list[tuple[float, ...]], path: str) -> None:
    """Accuracy and errors against the share of inner dimensions that is cut."""
    from matplotlib.figure import Figure

    from analysis import colours, save_figure

    cuts, accuracy, low, measured, high = zip(*rows, strict=True)
    page = Figure(figsize=(8, 3), layout="constrained")
    left, right = page.subplots(1, 2)
    left.plot(cuts, accuracy, "o-", color=colours.POSITIVE)
    left.set(xlabel="inner dimensions cut, %", ylabel="accuracy, %", ylim=(0, 105))
    right.fill_between(
        cuts[1:], low[1:], high[1:], color=colours.NEGATIVE, alpha=0.25, linewidth=0, label="predicted"
    )
    right.plot(cuts[1:], measured[1:], "o-", color=colours.NEGATIVE, label="measured")
    right.set(xlabel="inner dimensions cut, %", ylabel="error of the whole tensor", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(page, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
