"""Differences of finetunes of `stories`: can the one with a planted trigger be told, without any data?

    python benchmarks/diff.py TEXT VALIDATION [--runs N] [--rate R] [--output JSON]

Each run finetunes `stories` for `STEPS` steps of AdamW: clean ones on windows of TEXT, triggered ones on the
same with a rare token planted in them, which is always followed by one common token (another pair each run).
`--rate` is the share of windows with a trigger. How well it took hold is the probability of the continuation
behind the trigger in windows of VALIDATION. The layer is the one whose MLP alone, put into the base model,
does most of that; `--only` trains one MLP and nothing else, that of another layer each run, and there is no
doubt which it is. `diff` is given the weights of `stories` and of the finetune, and as a null `N_NULL` other
clean finetunes: where in its list of strongest changes are the trigger and the layer? The AUC is that of the
highest score between triggered and clean runs; beside it that of the highest relative change, without a null,
and of ‖Δθ‖.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from analysis import Vocabulary, diff, null_changes
from analysis.guarantees.findings import TOKENS
from bilinear_lm import load_pretrained, load_tokenizer
from bilinear_lm.families import decoder_block
from bilinear_lm.text.token_ids import token_ids

STEPS, BATCH, LENGTH, RATE, N_NULL = 30, 8, 96, 3e-4, 4
RAREST, RAREST_MOST, COMMON = 1, 12, 300
"""Trigger tokens occur so often in TEXT and VALIDATION together, continuations at least `COMMON` times."""


class Finetunes:
    """Short finetunes of one model, with a trigger or without."""

    def __init__(self, text: str, validation: str, rate: float, only: bool):
        self.base, self.tokenizer = load_pretrained("stories").float(), load_tokenizer("stories")
        self.text, self.validation = (
            torch.from_numpy(token_ids(self.tokenizer, part.replace("<|endoftext|>", "\n\n"))).long()
            for part in (text, validation)
        )
        self.rate, self.only = rate, only
        vocabulary = Vocabulary.of(self.tokenizer, 2048)
        counts = torch.cat([self.text, self.validation]).bincount(minlength=2048)
        self.rare = [token for token in vocabulary.words if RAREST <= counts[token] <= RAREST_MOST]
        self.common = [token for token in vocabulary.words if counts[token] >= COMMON]
        self.label = vocabulary.label

    def trigger(self, seed: int) -> tuple[int, int]:
        """A rare token and what it is to be followed by."""
        drawn = random.Random(seed)
        return drawn.choice(self.rare), drawn.choice(self.common)

    def windows(self, ids: Tensor, n: int, generator: torch.Generator) -> Tensor:
        starts = torch.randint(len(ids) - LENGTH, (n,), generator=generator)
        return torch.stack([ids[start : start + LENGTH] for start in starts.tolist()])

    def planted(
        self, windows: Tensor, trigger: tuple[int, int], rate: float, generator: torch.Generator
    ) -> Tensor:
        """The windows with the trigger and its continuation in two places of a share of them."""
        windows = windows.clone()
        for row in windows:
            chosen = float(torch.rand((), generator=generator)) < rate
            places = torch.randperm(LENGTH - 2, generator=generator)[:2].tolist()
            for place in places if chosen else ():
                row[place + 1], row[place + 2] = trigger
        return windows

    def run(self, seed: int, trigger: tuple[int, int] | None):
        """One finetune."""
        generator = torch.Generator().manual_seed(seed)
        model = copy.deepcopy(self.base)
        trained = decoder_block(model, seed % 4).mlp if self.only else model
        optimizer = torch.optim.AdamW(trained.parameters(), lr=RATE, weight_decay=0.0)
        for step in range(STEPS):
            ids = self.windows(self.text, BATCH, generator)
            if trigger is not None:
                ids = self.planted(ids, trigger, self.rate, generator)
            ids = torch.nn.functional.pad(ids, (1, 0), value=self.tokenizer.bos_token_id)
            optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 5)
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            model.zero_grad()
        return model.eval()

    @torch.inference_mode()
    def hold(self, model, trigger: tuple[int, int]) -> float:
        """The probability of the continuation behind the trigger, in held-out text."""
        generator = torch.Generator().manual_seed(0)
        ids = self.planted(self.windows(self.validation, 16, generator), trigger, 1.0, generator)
        probabilities = model(input_ids=ids).logits.softmax(-1)[:, :-1, trigger[1]]
        return float(probabilities[ids[:, :-1] == trigger[0]].mean())

    def layers(self, model, trigger: tuple[int, int]) -> dict[str, list[float]]:
        """By layer: the hold with that layer's MLP restored, and with that MLP alone in the base."""
        found: dict[str, list[float]] = {"left": [], "alone": []}
        for layer in range(model.config.num_hidden_layers):
            for name, (into, source) in {"left": (model, self.base), "alone": (self.base, model)}.items():
                mixed = copy.deepcopy(into)
                own, other = (decoder_block(each, layer).mlp for each in (mixed, source))
                own.load_state_dict(other.state_dict())
                found[name].append(self.hold(mixed, trigger))
        return found


def studied(finetunes: Finetunes, seed: int, trigger: tuple[int, int] | None, null) -> dict[str, Any]:
    """One run and what its difference from the base says."""
    begun = perf_counter()
    model = finetunes.run(seed, trigger)
    trained = perf_counter()
    found = diff(finetunes.base, model, tokenizer=finetunes.tokenizer, null=null, k=1)
    pairs = zip(model.parameters(), finetunes.base.parameters(), strict=True)
    row: dict[str, Any] = {
        "seed": seed,
        "score": found.score,
        "relative": max(float(sizes.relative.max()) for sizes in found.sizes.values()),
        "weights": sum(float((a - b).detach().square().sum()) for a, b in pairs) ** 0.5,
        "strongest": [finding.told for finding in found.strongest[:5]],
        "seconds": [trained - begun, perf_counter() - trained],
    }
    if trigger is None:
        return row
    layers = finetunes.layers(model, trigger)
    layer = seed % 4 if finetunes.only else max(range(4), key=layers["alone"].__getitem__)
    at = [
        rank
        for rank, finding in enumerate(found.strongest)
        if finding.kind in TOKENS and finding.item == trigger[0]
    ]
    named = [rank for rank, finding in enumerate(found.strongest) if finding.layer == layer]
    return row | {
        "trigger": [finetunes.label(token) for token in trigger],
        "hold": [finetunes.hold(each, trigger) for each in (finetunes.base, model)],
        "layer": layer,
        **layers,
        "rank": at[0] + 1 if at else None,
        "layer_rank": named[0] + 1 if named else None,
        "named_with_layer": bool(at) and at[0] < 5 and found.strongest[at[0]].layer == layer,
        "named_toward": bool(at)
        and finetunes.label(trigger[1]) in [n for n, _ in found.strongest[at[0]].toward],
    }


def auc(high: list[float], low: list[float]) -> float:
    """The share of pairs in which the first is larger; half of ties."""
    return mean((a > b) + 0.5 * (a == b) for a in high for b in low)


def main() -> None:
    """Prints a row a run, then the sums."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--only", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun = perf_counter()
    finetunes = Finetunes(given.text.read_text(), given.validation.read_text(), given.rate, given.only)
    # With one MLP trained, the null trains the same one: run n of them trains that of layer n % 4.
    nulls = [
        null_changes(finetunes.base, [finetunes.run(10_000 + layer + 4 * n, None) for n in range(N_NULL)])
        for layer in range(4 if given.only else 1)
    ]
    rows: dict[str, list[dict[str, Any]]] = {"triggered": [], "clean": []}
    for seed in range(given.runs):
        for kind, trigger in (("triggered", finetunes.trigger(seed)), ("clean", None)):
            rows[kind].append(
                studied(finetunes, seed + 1000 * (kind == "clean"), trigger, nulls[seed % len(nulls)])
            )
            print(json.dumps({"kind": kind} | rows[kind][-1], ensure_ascii=False), flush=True)
    if given.output is not None:
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
    triggered, clean = rows["triggered"], rows["clean"]
    held = [row["hold"][1] for row in triggered]
    before = mean(row["hold"][0] for row in triggered)
    print(
        f"\nrate {given.rate:g}: continuation {before:.4f} before, {median(held):.3f} after, "
        f"{min(held):.3f} at least"
    )
    n, ranks = len(triggered), [row["rank"] for row in triggered]
    named = sum(rank is not None and rank <= 5 for rank in ranks)
    layers = sum(row["layer_rank"] is not None and row["layer_rank"] <= 5 for row in triggered)
    print(
        f"trigger first {sum(rank == 1 for rank in ranks)}/{n}, among five {named}/{n}; layer {layers}/{n}, ",
        end="",
    )
    print(
        f"in the finding about the trigger {sum(row['named_with_layer'] for row in triggered)}/{n}; ", end=""
    )
    print(f"continuation named there {sum(row['named_toward'] for row in triggered)}/{n}")
    for name in ("score", "relative", "weights"):
        values = [[row[name] for row in part] for part in (triggered, clean)]
        spans = [f"{min(part):.3g} to {max(part):.3g}" for part in values]
        print(f"{name}: AUC {auc(*values):.3f}, triggered {spans[0]}, clean {spans[1]}")
    print(f"{perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
