"""Names of features: whether a name tells its feature's passages from another feature's, in a held-out text.

    python benchmarks/feature_names.py [--features 20] [--seeds 2] [--sheet FILE --key FILE]

Features of the dictionaries that ship with `stories` are drawn at random, those with 5 peaks or more in the
first part of TinyStories' validation text, of which names are not made. For each there are its 5 highest
passages in that text, and those of another feature of its dictionary: a random one of about the same activity
(the 20 next to it by active tokens), or a twin, one that has the same tokens at its highest peaks in the
text of the names. A rule chooses between the two: a passage counts 1 if its peak's token is one of the
name's, ½ more if the token before it is that after "after", and ½ if the token after it is that after
"before"; what counts more is chosen, a tie is half right. Compared are the names; the different tokens of the
highest peaks alone, up to three; and, as control, the names of other features of the dictionary.

`--sheet` writes the same choice for a reader, in random order, and `--key` which is which.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import bilinear_lm as bl
from analysis.features.contexts import Activity, activity_on_text
from analysis.features.dictionaries import around_mlps, dictionaries_in
from analysis.features.peaks import Context, Contexts
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import document_windows
from bilinear_lm.shipped import shipped_names, shipped_scope
from bilinear_lm.sites import Site

TEXT = Path(__file__).parents[2] / "shared" / "data" / "text" / "tinystories" / "clean_v1_valid.txt"
PASSAGES, NEAR, WIDTH = 5, 20, 6

Mark = tuple[set[str], str, str]
"""Tokens at the peak, before and after it, that a name tells."""


@dataclass(frozen=True)
class Read:
    """A dictionary's features: their names, and their passages in both texts."""

    names: tuple[str, ...]
    plain: tuple[str, ...]
    """The tokens of the three highest peaks alone."""
    held_out: Activity


def plain_names(contexts: Contexts, label: Vocabulary) -> tuple[str, ...]:
    names = []
    for feature in range(len(contexts.values)):
        peaks = dict.fromkeys(context.tokens[context.peak] for context in contexts.of(feature))
        names.append(", ".join(label.label(token) for token in list(peaks)[:3]))
    return tuple(names)


def read(n_characters: int) -> tuple[dict[Site, Read], Vocabulary]:
    model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
    folder, text = shipped_scope("stories")
    assert folder is not None
    assert text is not None
    dictionaries, length = around_mlps(dictionaries_in(folder, model)), model.config.max_position_embeddings
    vocabulary = Vocabulary.of(tokenizer, model.config.vocab_size)
    own, other = (
        activity_on_text(model, dictionaries, document_windows(tokenizer, words, length), k, width, 1)
        for words, k, width in (
            (text.read_text(encoding="utf-8"), 10, 10),
            (TEXT.read_text(encoding="utf-8")[:n_characters], PASSAGES, WIDTH),
        )
    )
    names = shipped_names("stories")
    return {
        site: Read(names[site], plain_names(own[site].contexts, vocabulary), other[site])
        for site in dictionaries
    }, vocabulary


def marks(name: str) -> Mark:
    before = re.search(r" after (\S+)", name)
    after = re.search(r" before (\S+)", name)
    own = re.split(r" (?:after|before|raises|reads) | \(\d", name)[0]
    tokens = set() if own.startswith("weights:") else set(own.split(", "))
    return tokens, before[1] if before else "", after[1] if after else ""


def score(name: str, passages: tuple[Context, ...], vocabulary: Vocabulary) -> float:
    own, before, after = marks(name)
    found = 0.0
    for passage in passages:
        texts = ["", *map(vocabulary.label, passage.tokens), ""]
        at = passage.peak + 1
        if texts[at] in own:
            found += 1 + (texts[at - 1] == before != "") / 2 + (texts[at + 1] == after != "") / 2
    return found


def drawn(layers: dict[Site, Read], n: int, seed: int, twins: bool) -> list[tuple[Site, int, int, int]]:
    """Site, feature, the feature beside it, and the one whose name is the control."""
    draw, found = random.Random(seed), []
    while len(found) < n:
        site = draw.choice(sorted(layers))
        layer = layers[site]
        active = layer.held_out.n_active.tolist()
        usable = [f for f in range(len(active)) if len(layer.held_out.contexts.of(f)) == PASSAGES]
        feature = draw.choice(usable)
        others = [f for f in usable if f != feature]
        if twins:
            others = [f for f in others if layer.plain[f] == layer.plain[feature]]
        else:
            others = sorted(others, key=lambda f: (abs(active[f] - active[feature]), f))[:NEAR]
        if others:
            found.append((site, feature, draw.choice(others), draw.choice(usable)))
    return found


def right(name: str, layer: Read, feature: int, other: int, vocabulary: Vocabulary) -> float:
    mine, theirs = (score(name, layer.held_out.contexts.of(each), vocabulary) for each in (feature, other))
    return 1.0 if mine > theirs else 0.5 if mine == theirs else 0.0


def shown(passage: Context, vocabulary: Vocabulary) -> str:
    texts = [vocabulary.texts[token].replace("\n", "⏎") for token in passage.tokens]
    texts[passage.peak] = f"[{texts[passage.peak]}]"
    return "".join(texts)


def sheet(layers: dict[Site, Read], seeds: int, n: int, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """For a reader: names with two sets of passages, and which is the feature's."""
    draw, items = random.Random(1000), []
    for seed in range(seeds):
        for twins in (False, True):
            for number, (site, feature, other, control) in enumerate(drawn(layers, n, seed, twins)):
                layer = layers[site]
                sets = [layer.held_out.contexts.of(each)[:3] for each in (feature, other)]
                turn = draw.randrange(2)
                kinds = {
                    "name": layer.names[feature],
                    "plain": layer.plain[feature],
                    "other": layer.names[control],
                }
                kind = "name" if not twins and number % 2 == 0 else draw.choice(sorted(kinds))
                lines = [
                    f"{mark}: {' | '.join(shown(p, vocabulary) for p in sets[at])}"
                    for mark, at in (("A", turn), ("B", 1 - turn))
                ]
                items.append(
                    ([kinds[kind], *lines], f"{'B' if turn else 'A'} {kind} {'twin' if twins else 'random'}")
                )
    draw.shuffle(items)
    text = "\n".join(f"{i}. {lines[0]}\n{lines[1]}\n{lines[2]}" for i, (lines, _) in enumerate(items))
    return text, [key for _, key in items]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--features", type=int, default=20, help="features a seed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--characters", type=int, default=60_000, help="characters of the held-out text")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--key", type=Path)
    given = parser.parse_args()
    layers, vocabulary = read(given.characters)
    if given.sheet and given.key:
        text, key = sheet(layers, given.seeds, given.features, vocabulary)
        given.sheet.write_text(text, encoding="utf-8")
        given.key.write_text(json.dumps(key), encoding="utf-8")
    print("| beside the feature | told right by | mean | over seeds |\n|---|---|---|---|")
    for twins in (False, True):
        shares: dict[str, list[float]] = defaultdict(list)
        for seed in range(given.seeds):
            rows = drawn(layers, given.features, seed, twins)
            for kind in ("names", "peaks' tokens alone", "names of other features"):
                total = 0.0
                for site, feature, other, control in rows:
                    layer = layers[site]
                    named = layer.plain if kind.startswith("peaks") else layer.names
                    name = named[control if kind.endswith("features") else feature]
                    total += right(name, layer, feature, other, vocabulary)
                shares[kind].append(total / len(rows))
        for kind, found in shares.items():
            mean = sum(found) / len(found)
            beside = "a twin" if twins else "a random one"
            print(f"| {beside} | {kind} | {mean:.2f} | {min(found):.2f} to {max(found):.2f} |")
    for site, layer in sorted(layers.items()):
        alike, before = (
            sum(count for count in Counter(names).values() if count > 1)
            for names in (layer.names, layer.plain)
        )
        print(f"{site}: {alike} features share a name, {before} by their peaks' tokens alone")


if __name__ == "__main__":
    main()
