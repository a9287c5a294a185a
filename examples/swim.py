"""What makes a model say " swim" rather than " run", " climb" or " eat": one output direction, in tokens.

    python examples/swim.py [CHECKPOINT]

The recipe of arXiv 2406.03947: the direction of a token against the mean of its like, the top eigenvectors of
its interaction matrix, and the tokens at their two ends, directly and through each head.
"""

import sys

import bilinear_lm as bl
from analysis import direct_scores, eigendecompose, read_tokens, token_direction, virtual_scores

LIKE = [" run", " climb", " eat", " see", " fly", " sit", " sleep", " walk"]


def main(checkpoint: str = "stories") -> None:
    """Prints the two strongest eigenvectors of " swim" in the last layer."""
    model, tokenizer = bl.load_pretrained(checkpoint), bl.load_tokenizer(checkpoint)
    layer = model.config.num_hidden_layers - 1

    def single(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    like = [single(text)[0] for text in LIKE if len(single(text)) == 1]
    u = token_direction(bl.unembedding(model), single(" swim")[0], against=like)
    found = eigendecompose(bl.mlp_tensor(model, layer), u, k=2)
    W_E, heads = bl.embedding(model), bl.attention_weights(model, layer)
    readings = {"direct": read_tokens(direct_scores(found.vectors, W_E), k=6)}
    for head, scores in enumerate(virtual_scores(found.vectors, W_E, heads.W_V, heads.W_O).unbind(1)):
        readings[f"head {head}"] = read_tokens(scores, k=6)
    for i, value in enumerate(found.values.tolist()):
        print(f"eigenvalue {value:+.3f}")
        for name, reading in readings.items():
            ends = (reading.top[i], reading.bottom[i])
            top, bottom = (" ".join(tokenizer.batch_decode(ids[:, None])) for ids in ends)
            print(f"  {name:<7} {top}   |   {bottom}")


if __name__ == "__main__":
    main(*sys.argv[1:])
