"""The most that features of a layer can do, from its weights, and the part of it that a text reaches.

    python examples/guarantees.py [LAYER] [FIGURE]

The largest pre-activation of each feature over all inputs that the layer's norm lets through, beside the
largest on the text that ships; and what a claim such as "this feature is its eight largest eigenvectors" is
worth: at worst over all inputs, under a Gaussian, and on the text.
"""

import sys

import torch

import bilinear_lm as bl
from analysis import (
    certify_features,
    eigendecompose,
    eigenvectors_needed,
    reach_plot,
    save_figure,
    token_windows,
    verify,
)

_, TEXT = bl.shipped_scope("stories")
WINDOWS, K = 16, 8


def main(layer: str = "3", figure: str | None = None) -> None:
    """Prints ranges and verdicts of a layer's features; draws the ranges."""
    at = int(layer)
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    tensor, dictionary = bl.mlp_tensor(model, at), bl.load_dictionary(f"stories-scope/{at}-mlp-out")
    length = model.config.max_position_embeddings
    windows = token_windows(tokenizer, TEXT.read_text(encoding="utf-8"), length)[:WINDOWS]
    x = bl.mlp_inputs(model, torch.tensor(windows), [at])[0].flatten(0, 1)

    ranges = certify_features(model, dictionary)
    reached = dictionary.pre_activations(tensor(x)).amax(0)
    share = ranges.reached(reached)
    print(f"{at}-mlp-out: {int(ranges.dead.sum())} of {len(share)} features are dead whatever the text")
    print(f"largest on {len(x):,} tokens / largest possible: {share.median():.2f} in the median feature")
    for feature in share.topk(4).indices.tolist():
        u = dictionary.encoder[:, feature]
        verdict = verify(tensor, u, eigendecompose(tensor, u, K), mean=x.mean(0), cov=x.T.cov(), points=x)
        needed = int(eigenvectors_needed(tensor, u, 0.1))
        print(f"feature {feature}: reaches {reached[feature]:.1f} of {ranges.high[feature]:.1f}")
        print(f"  by {K} eigenvectors: wrong by {float(verdict.share):.0%} of its largest value at worst,")
        print(f"  R² {float(verdict.r_squared):.3f} under a Gaussian of the same moments,", end=" ")
        print(f"{float(verdict.r_squared_on_points):.3f} on the text; never wrong by 10% with {needed}")
    if figure is not None:
        save_figure(reach_plot(ranges.high, reached), figure)
        print(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
