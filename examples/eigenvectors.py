"""Eigenvectors behind " sad", and behind " swim" rather than " run" or " fly", read in tokens.

    python examples/eigenvectors.py [CHECKPOINT]

A token's output direction against the mean of all tokens or of its like (the recipe of arXiv 2406.03947 for
"swim"), the top eigenvectors of its interaction matrix in the first layer, and the tokens at their two ends,
directly and through the attention head that writes most along them.
"""

import sys

import torch

import bilinear_lm as bl
from analysis import Vocabulary, direct_scores, eigendecompose, read_tokens, token_direction, virtual_scores

DIRECTIONS = {"sad": [], "swim": ["run", "climb", "eat", "see", "fly", "sit", "sleep", "walk"]}


def main(checkpoint: str = "stories", layer: int = 0) -> None:
    """Prints two eigenvectors of each direction."""
    model, tokenizer = bl.load_pretrained(checkpoint), bl.load_tokenizer(checkpoint)
    tensor, W_E, W_U = bl.mlp_tensor(model, layer), bl.embedding(model), bl.unembedding(model)
    heads = bl.attention_weights(model, layer)
    vocabulary = Vocabulary.of(tokenizer, len(W_E))
    words = torch.tensor(vocabulary.words)

    def ends(scores: torch.Tensor) -> str:
        found = read_tokens(scores[words], k=7)
        sides = (words[found.top].tolist(), words[found.bottom].tolist())
        return "   |   ".join(" ".join(map(vocabulary.label, side)) for side in sides)

    for token, like in DIRECTIONS.items():
        against = [vocabulary.find(other) for other in like]
        u = token_direction(W_U, vocabulary.find(token), against or None)
        found = eigendecompose(tensor, u, k=2)
        for value, vector in zip(found.values.tolist(), found.vectors, strict=True):
            virtual = virtual_scores(vector, W_E, heads.W_V, heads.W_O)
            loudest = int(virtual.abs().amax(dim=-1).argmax())
            print(f"{token}: eigenvalue {value:+.3f}")
            print(f"  direct  {ends(direct_scores(vector, W_E))}")
            print(f"  head {loudest}  {ends(virtual[loudest])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
