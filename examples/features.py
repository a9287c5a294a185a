"""What a feature is made of: where it is active, what it predicts, and the pairs that activate it.

    python examples/features.py [LAYER] [FEATURE]

An output feature of the model that ships, named by its passages in the text that ships; the tokens whose
logits it raises and lowers most, and its strongest interactions, read from the weights; and how far two
eigenvectors explain it (arXiv 2410.08417, section 5).
"""

import sys

import bilinear_lm as bl
from analysis import (
    Vocabulary,
    direct_scores,
    explained_on_text,
    feature_layer,
    read_tokens,
    strongest_interactions,
    token_windows,
    top_contexts,
)

_, TEXT = bl.shipped_scope("stories")


def main(layer: str = "3", feature: str = "540") -> None:
    """Prints passages, tokens, interactions and correlations of one output feature."""
    at, number = int(layer), int(feature)
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    vocabulary = Vocabulary.of(tokenizer, len(bl.embedding(model)))
    inputs, outputs = (bl.load_dictionary(f"stories-scope/{at}-{point}") for point in ("mlp-in", "mlp-out"))
    windows = token_windows(tokenizer, TEXT.read_text(encoding="utf-8"), model.config.max_position_embeddings)

    # The first position holds the token that begins every window.
    read = top_contexts(model, inputs, windows, k=3, skip=1, tokenizer=tokenizer)
    written = top_contexts(model, outputs, windows, k=3, skip=1, tokenizer=tokenizer)
    print(f"output feature {written.name(number)}")
    for context in written.of(number):
        labels = [vocabulary.label(token) for token in context.tokens]
        labels[context.peak] = f"[{labels[context.peak]}]"
        print(f"  {context.activations[context.peak]:6.2f}  {''.join(labels)}")

    ends = read_tokens(direct_scores(outputs.decoder[number], bl.unembedding(model).T), k=6)
    for verb, tokens in (("raises", ends.top), ("lowers", ends.bottom)):
        print(f"{verb} {', '.join(vocabulary.label(token) for token in tokens.tolist())}")

    print("its strongest interactions")
    for pair in strongest_interactions(feature_layer(model, at, inputs, outputs), [number], k=8):
        names = (read.name(side) for side in (pair.left, pair.right))
        print(f"  {pair.value:+.3f}  {'  ×  '.join(names)}")

    found = explained_on_text(model, at, outputs, windows, [number], k=2, skip=1)
    active, everywhere = float(found.active_tokens[0, 1]), float(found.all_tokens[0, 1])
    print(f"two eigenvectors: correlation {active:.2f} where it is active, {everywhere:.2f} everywhere")


if __name__ == "__main__":
    main(*sys.argv[1:])
