"""What a graph of a prompt says of taking a node away, beside what that does in the model.

    python benchmarks/faithfulness.py TEXT [MODEL] [--dictionaries DIR] [--prompts N] [--output JSON]

Prompts are the first `WORDS` words of the first N paragraphs of TEXT that have `LEAST` words or more. The
target is the likeliest token's logit against the mean of its runners-up. Graphs of each prompt are compared:
**held**, chosen by weight, whose effects are those of the polynomial that the weights are, as attribution
graphs are commonly made; **followed**, chosen by slope; **scores**, which follows attention scores too. Of
each kind the `N_NODES` nodes of
largest effect by the graph itself are taken away one at a time in the model, with everything free. r is the
correlation of predicted and measured changes, size the least-squares slope of measured on predicted; both are
means over prompts. Random nodes of equal weight (`N_CONTROLS` draws each) are taken away in place of the
graph's: their r is with what was predicted of the graph's nodes.

Then `N_TRIED` nodes of the followed graph, drawn at random, are taken away one at a time: how many of the
`N_NODES` that change the target most are among the first `N_NODES` by slope, by weight, and by chance.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random
from time import perf_counter

import torch
from torch import Tensor

from analysis import (
    Intervention,
    LogitTarget,
    attribute,
    causal_check,
    completeness,
    dictionaries_in,
    effects,
    open_prompt,
    predict_target,
)
from analysis.circuits.agreement import Agreement
from analysis.circuits.attribution import Attribution
from analysis.features.dictionaries import around_mlps
from bilinear_lm import load_pretrained, load_tokenizer
from bilinear_lm.shipped import shipped_scope

LEAST, WORDS = 20, 14
N_NODES, N_CONTROLS, N_TRIED = 24, 3, 300
KINDS = ("interaction", "feature", "error", "token")


def prompts(text: str, n: int) -> list[str]:
    """The beginnings of the first n paragraphs that are long enough."""
    paragraphs = [words for line in text.splitlines() if len(words := line.split()) >= LEAST]
    return [" ".join(words[:WORDS]) for words in paragraphs[:n]]


def checked(model, attribution: Attribution, by: str) -> dict[str, dict[str, float]]:
    """By kind: r and size of what the graph predicts, and of random nodes in place of its own."""
    graph, rows = attribution.graph, {}
    sizes = effects(graph, by)
    for kind in KINDS:
        nodes = [node.id for node in graph.of_kind(kind) if node.id in attribution.writes]
        nodes = sorted(nodes, key=lambda node: -abs(sizes[node]))[:N_NODES]
        if len(nodes) < 3:
            continue
        check = causal_check(
            model, attribution, [(Intervention(node),) for node in nodes], controls=N_CONTROLS
        )
        predicted, own = check.predicted, graph.node(graph.target).value or 0.0
        if by == "weight":
            values = [predict_target(graph, {node: 0.0}, "weight") - own for node in nodes]
            predicted = predicted.new_tensor(values)
        agreement = Agreement.of(predicted, check.free)
        random = Agreement.of(predicted.repeat(N_CONTROLS), check.control_free.flatten())
        rows[kind] = {
            "n": len(nodes),
            "r": agreement.correlation,
            "size": agreement.slope,
            "random_r": random.correlation,
            "times_random": check.strength,
        }
    return rows


def ranked(model, attribution: Attribution, seed: int) -> dict[str, float]:
    """How many of the nodes that change the target most are among the first by slope and by weight."""
    graph = attribution.graph
    nodes = [node.id for kind in KINDS for node in graph.of_kind(kind) if node.id in attribution.writes]
    nodes = Random(seed).sample(nodes, min(N_TRIED, len(nodes)))
    check = causal_check(model, attribution, [(Intervention(node),) for node in nodes], controls=0)

    def first(sizes: Tensor) -> set[int]:
        return set(sizes.abs().topk(N_NODES).indices.tolist())

    truly, found = first(check.free), {}
    for by in ("slope", "weight"):
        of_nodes = effects(graph, by)
        found[by] = len(truly & first(torch.tensor([of_nodes[node] for node in nodes])))
    return found | {"chance": N_NODES**2 / len(nodes), "tried": len(nodes)}


def main() -> None:
    """Prints a row a prompt, then means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("model", nargs="?", default="stories")
    parser.add_argument("--dictionaries", type=Path)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--max-nodes", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    model, tokenizer = load_pretrained(given.model), load_tokenizer(given.model)
    folder = given.dictionaries or shipped_scope(given.model)[0]
    dictionaries = None if folder is None else around_mlps(dictionaries_in(folder, model))
    arms = {
        "held": {"by": "weight", "norms": "held", "attention": "held", "interactions": "pairs"},
        "followed": {"by": "slope"},
        "scores": {"by": "slope", "attention": "followed"},
    }
    rows = []
    for number, text in enumerate(prompts(given.text.read_text(), given.prompts)):
        prompt = open_prompt(model, text, dictionaries, tokenizer=tokenizer)
        target = LogitTarget(prompt.likeliest(), prompt.runners_up())
        row: dict = {"prompt": text, "tokens": prompt.n_pos}
        for arm, options in arms.items():
            begun = perf_counter()
            attribution = attribute(prompt, target, share=0.95, max_nodes=given.max_nodes, **options)
            if arm == "followed":
                followed = attribution
            row[arm] = {
                "seconds": perf_counter() - begun,
                "followed": completeness(attribution.graph).followed,
                "carried": completeness(attribution.graph).carried,
                "kinds": checked(model, attribution, options["by"]),
            }
        row["ranked"] = ranked(model, followed, number)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if given.output is not None:
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{given.model}, {len(rows)} prompts of {WORDS} words\n")
    print(
        "| kind | graph | r, mean (least) | size, mean (range) | random r | times random |\n"
        + 6 * "|---"
        + "|"
    )
    for kind in KINDS:
        for arm in arms:
            found = [row[arm]["kinds"][kind] for row in rows if kind in row[arm]["kinds"]]
            if not found:
                continue
            r, size, random, times = (
                torch.tensor([one[name] for one in found])
                for name in ("r", "size", "random_r", "times_random")
            )
            print(
                f"| {kind} | {arm} | {r.mean():.3f} ({r.min():.3f}) | {size.mean():.2f} ({size.min():.2f} to "
                f"{size.max():.2f}) | {random.mean():.2f} | {times.mean():.1f} |"
            )
    for arm in arms:
        followed = {
            by: sum(row[arm]["followed"][by] for row in rows) / len(rows) for by in ("slope", "weight")
        }
        seconds = sum(row[arm]["seconds"] for row in rows) / len(rows)
        carried = sum(row[arm]["carried"] for row in rows) / len(rows)
        print(f"{arm}: {seconds:.1f} s a graph; followed {followed}; edges carry {carried:.2f} of the slopes")
    sums = {name: sum(row["ranked"][name] for row in rows) / len(rows) for name in rows[0]["ranked"]}
    print(f"of the {N_NODES} nodes of largest effect among those tried: {sums}")


if __name__ == "__main__":
    main()
