"""How much of an MLP its model needs: the loss against what is kept of a layer.

    python examples/truncation.py [LAYER] [FIGURE]

Three ways to keep less of a layer of the model that ships, all from its weights: the strongest directions
that it writes along (HOSVD), the top eigenvectors of each of these (arXiv 2410.08417, section 4), and a
narrower bilinear layer that is nearest to it as a tensor (CP). Losses are of the text that ships.
"""

import sys

import bilinear_lm as bl
from analysis import (
    cp_decompose,
    hosvd,
    save_figure,
    token_windows,
    truncate,
    truncate_eigenvectors,
    truncation_costs,
    truncation_plot,
)

_, TEXT = bl.shipped_scope("stories")
WINDOWS = 4


def main(layer: str = "2", figure: str | None = None) -> None:
    """Prints the loss with each part of a layer; draws that of the eigenvectors."""
    at = int(layer)
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    text = TEXT.read_text(encoding="utf-8")
    windows = token_windows(tokenizer, text, model.config.max_position_embeddings)[:WINDOWS]
    directions = hosvd(bl.mlp_tensor(model, at))
    ways = {
        "directions written along": ([1, 8, 32, 128], lambda tensor, k: truncate(tensor, directions, k)),
        "eigenvectors of each of them": ([1, 4, 16, 64], truncate_eigenvectors),
        "hidden units, fitted": ([8, 64], lambda tensor, k: cp_decompose(tensor, k).tensor),
    }
    costs = {way: truncation_costs(model, at, ranks, windows, cut) for way, (ranks, cut) in ways.items()}
    whole = next(iter(costs.values()))
    print(f"layer {at}: {whole.whole:.3f} nats per token with all of it, {whole.without:.3f} without it")
    for way, found in costs.items():
        print(way)
        for rank, loss in zip(found.ranks, found.losses.tolist(), strict=True):
            kept = (whole.without - loss) / (whole.without - whole.whole)
            print(f"  {rank:4}  {loss:.3f}  {kept:4.0%} of what the layer gains")
    if figure is not None:
        save_figure(truncation_plot(costs["eigenvectors of each of them"]), figure)
        print(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
