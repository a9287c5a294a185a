"""An edit of one interaction of `stories` that takes a behaviour away, beside steering of equal effect.

    python benchmarks/edits.py TEXT [--positions N TEXT...] [--output JSON]

The behaviour: behind "girl named" the model says Lily. At the MLP of layer 3 two features of its dictionary
are active there, 193 ("named") and 287 (a girl); their interaction into Lily's logit (against the mean of all
tokens) is changed by one hidden unit, by the least amount that makes the probability fall by 90% in the first
`N_WINDOWS` windows of TEXT. Everything told is of as many others. **Elsewhere** is every other position: the
loss in nats, the divergence KL(model ‖ edited) and its largest value. Steering adds a multiple of the same
output direction at every position of the MLP's output, as large as it must be for the same fall. Controls are
the same change of `N_CONTROLS` random pairs of features. The bound is compared with the unit's output at all
positions of the texts behind `--positions`.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from analysis import Vocabulary
from analysis.text.windows import token_windows
from bilinear_lm import Site, load_dictionary, load_pretrained, load_tokenizer, unembedding
from bilinear_lm.sites import mlp_inputs, replaced
from finetune import Edit, edit, interaction

LAYER, PAIR, N_CONTROLS = 3, (193, 287), 3
MOST, FALL, N_WINDOWS = -2.0, 0.92, 200


class Behaviour:
    """A token behind two others, in windows of a text."""

    def __init__(self, model, windows: Tensor, before: tuple[int, int], token: int):
        self.model, self.windows, self.token = model, windows, token
        previous = torch.nn.functional.pad(windows[:, :-1], (1, 0), value=-1)
        self.there = ((previous == before[0]) & (windows == before[1]))[:, :-1]

    @torch.inference_mode()
    def probability(self, model) -> float:
        """Of the token where it is expected, in the windows that have the place."""
        rows = self.there.any(1)
        pairs = zip(self.windows[rows].split(8), self.there[rows].split(8), strict=True)
        found = [model(input_ids=ids).logits[:, :-1][there].softmax(-1) for ids, there in pairs]
        return float(torch.cat(found)[:, self.token].mean())

    @torch.inference_mode()
    def told(self, changed: Callable[[], AbstractContextManager]) -> dict[str, float]:
        """The behaviour, and what happens elsewhere; `changed` opens the changed model."""
        kept: dict[str, list[Tensor]] = {"loss": [], "divergence": [], "probability": []}
        for ids in self.windows.split(8):
            old = self.model(input_ids=ids).logits[:, :-1].log_softmax(-1)
            with changed() as model:
                new = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
            kept["loss"].append((old - new).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1))
            kept["divergence"].append((old.exp() * (old - new)).sum(-1))
            kept["probability"].append(new[..., self.token].exp())
        loss, divergence, probability = (torch.cat(part) for part in kept.values())
        elsewhere = ~self.there
        own = elsewhere & (self.windows[:, 1:] == self.token)
        return {
            "probability": float(probability[self.there].mean()),
            "nats elsewhere": float(loss[elsewhere].mean()),
            "KL elsewhere": float(divergence[elsewhere].mean()),
            "largest KL elsewhere": float(divergence[elsewhere].max()),
            "nats where the token follows elsewhere": float(loss[own].mean()),
        }


@contextmanager
def steered(model, direction: Tensor, amount: float) -> Iterator[Any]:
    """The model with a constant vector added to what an MLP writes, at every position."""
    with replaced(model, Site(LAYER, "mlp-out"), lambda x: x + amount * direction):
        yield model


def least(most: float, probability: Callable[[float], float], wanted: float) -> float:
    """The amount of least size, from 0 to `most`, by which a probability falls so far; by bisection."""
    low, high = 0.0, most
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (low, middle) if probability(middle) <= wanted else (middle, high)
    return high


def main() -> None:
    """Prints a row for the edit, steering and controls, and the largest outputs beside the bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--positions", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_pretrained("stories").float(), load_tokenizer("stories")
    vocabulary, W_U = Vocabulary.of(tokenizer, 2048), unembedding(model)
    named = [window for window in token_windows(tokenizer, given.text.read_text(), 256) if len(window) == 256]
    named = named[: 2 * N_WINDOWS]
    tokens = [vocabulary.find(word) for word in (" girl", " named", " Lily")]
    first, second = (
        Behaviour(model, torch.tensor(part), (tokens[0], tokens[1]), tokens[2])
        for part in (named[:N_WINDOWS], named[N_WINDOWS:])
    )
    u = W_U[:, tokens[2]] - W_U.mean(dim=1)
    decoder = load_dictionary(f"stories-scope/{LAYER}-mlp-in").decoder

    def edited(amount: float, pair: tuple[int, int] = PAIR):
        new = copy.deepcopy(model)
        return new, edit(new, [Edit(LAYER, u, (decoder[pair[0]], decoder[pair[1]]), amount)])

    own = first.probability(model)
    amount = least(MOST, lambda a: first.probability(edited(a)[0]), (1 - FALL) * own)
    new, report = edited(amount)
    direction = u / u.norm()

    def by_steering(size: float) -> float:
        with steered(model, direction, size) as changed:
            return first.probability(changed)

    size = least(-32.0, by_steering, first.probability(new))
    before = interaction(model, LAYER, u, (decoder[PAIR[0]], decoder[PAIR[1]]))
    deleted, _ = edited(-before)
    rows = {
        "model": second.told(partial(nullcontext, model)),
        "edit": second.told(partial(nullcontext, new)),
        "deleted alone": second.told(partial(nullcontext, deleted)),
        "steering": second.told(partial(steered, model, direction, size)),
    }
    drawn = Random(0)
    for number in range(N_CONTROLS):
        pair = (drawn.randrange(len(decoder)), drawn.randrange(len(decoder)))
        rows[f"random pair {number}: {pair[0]} × {pair[1]}"] = second.told(
            partial(nullcontext, edited(amount, pair)[0])
        )
    n, rest = int(second.there.sum()), int((~second.there).sum())
    print(f"coefficient {before:+.4f}, changed by {amount:+.2f} to {report.interactions[0].after:+.4f}")
    print(f"steering by {size:g} along the direction; {n} places of the behaviour, {rest:,} elsewhere")
    columns = list(rows["model"])
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.5f}" for column in columns) + " |")
    found: dict[str, Any] = {"rows": rows, "amount": amount, "size": size, "before": before}
    if given.positions:
        found |= _largest(model, tokenizer, given.positions, report, u)
        print(
            f"{found['positions']:,} positions: along the direction {found['low']:+.3f} to "
            f"{found['high']:+.3f}, "
            f"certified {report.interactions[0].low:+.3f} to {report.interactions[0].high:+.3f}; norm "
            f"{found['norm']:.3f}, certified {report.layers[0].high:.3f}"
        )
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1) + "\n")


def _largest(model, tokenizer, texts: list[Path], report, u: Tensor) -> dict[str, Any]:
    """The largest outputs of the added unit at all positions of texts, computed in float64."""
    factor = model.model.layers[LAYER].post_attention_layernorm.weight.detach().double()
    units = report.units[LAYER].to(torch.float64).behind(factor)
    low, high, norm, positions = 0.0, 0.0, 0.0, 0
    for path in texts:
        windows = token_windows(tokenizer, path.read_text().replace("<|endoftext|>", "\n\n"), 256)
        whole = torch.tensor([window for window in windows if len(window) == 256])
        for part in whole.split(16):
            out = units(mlp_inputs(model, part, [LAYER])[0].double())
            along = out @ u.double()
            low, high = min(low, float(along.min())), max(high, float(along.max()))
            norm, positions = max(norm, float(out.norm(dim=-1).max())), positions + part.numel()
    return {"low": low, "high": high, "norm": norm, "positions": positions}


if __name__ == "__main__":
    main()
