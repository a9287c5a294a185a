"""Follow a prediction down to pairs of features, and check in the model what the graph says.

    python examples/trace.py [PROMPT]

The likeliest next token after a prompt, split over the features of the model that ships. Then its strongest
interactions, features and tokens are taken away: what the graph says would change, and what does change in
the model, beside random nodes of equal weight.
"""

import sys

import bilinear_lm as bl
from analysis import (
    Intervention,
    LogitTarget,
    attribute,
    causal_check,
    describe,
    dictionaries_in,
    effects,
    open_prompt,
)

PROMPT = "Lily was sad because her toy was broken. Her mom gave her a big"
SCOPE, _ = bl.shipped_scope("stories")


def main(prompt: str = PROMPT) -> None:
    """Prints what is strongest behind a prediction, beside causal checks of it."""
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    dictionaries = dictionaries_in(SCOPE, model)

    measured = open_prompt(model, prompt, dictionaries, tokenizer=tokenizer)
    token = measured.likeliest()
    attribution = attribute(measured, LogitTarget(token, measured.runners_up()), share=0.95, max_nodes=1000)
    graph = attribution.graph
    print(f"{prompt}{tokenizer.decode([token])}")
    print(attribution)

    effect = effects(graph)
    for kind in ("interaction", "feature", "token"):
        nodes = sorted(graph.of_kind(kind), key=lambda node: -abs(effect[node.id]))[:8]
        check = causal_check(model, attribution, [(Intervention(node.id),) for node in nodes])
        print(f"without {kind}s one at a time, the target changes by (graph; model)")
        for node, predicted, free in zip(nodes, check.predicted.tolist(), check.free.tolist(), strict=True):
            print(f"  {predicted:+.3f}  {free:+.3f}  {describe(graph, node)}")
        print(f"  correlation {check.correlation_free:.2f}; ", end="")
        print(f"{check.strength:.1f} times the change that random ones of equal weight make")


if __name__ == "__main__":
    main(*sys.argv[1:])
