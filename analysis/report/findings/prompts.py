"""The finding about a prompt: the head that a prediction hangs on most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.graphs.graph import Graph
from analysis.interventions.head_moves import HeadMoves
from analysis.text.vocabulary import Vocabulary

LEAST_PART = 0.1
"""The least part of the target's value that a head has to carry."""

TIMES_CHANCE = 5
"""How many times larger its effect has to be than the median of random moves."""


@dataclass(frozen=True)
class HeadReason:
    """The head on which a prediction hangs most, and where it looks.

    Rule: of all heads, and all earlier words they look at from where the prediction is made, the one without
    whose move the target falls or rises most in the model itself; by a tenth of its value or more, and by
    five times as much as without a random move.
    """

    graph: int
    """The place of its graph among those of the page."""
    texts: tuple[str, ...]
    """The prompt, without what follows the prediction; empty for marks that are no text."""
    token: str
    """The next word whose logit it is."""
    against: tuple[str, ...]
    """The words that its logit is compared with, by their mean; none: it stands alone."""
    value: float
    """The logit, or how far it is ahead."""
    layer: int
    head: int
    key: int
    """The position that it reads."""
    attention: float
    """How much of its attention it gives there."""
    effect: float
    """How much the value falls without what it moves."""
    next: float | None
    """The effect of the second strongest."""
    median: float | None
    """The median |effect| of random moves."""
    n_random: int


def head_reason(
    graphs: Sequence[Graph], moves: Sequence[HeadMoves | None], vocabulary: Vocabulary
) -> HeadReason | None:
    """The finding that `HeadReason` describes, of the first graph that has one; None where none has."""
    for place, (graph, moved) in enumerate(zip(graphs, moves, strict=False)):
        reason = None if moved is None else _reason(place, graph, moved, vocabulary)
        if reason is not None:
            return reason
    return None


def _reason(place: int, graph: Graph, moved: HeadMoves, vocabulary: Vocabulary) -> HeadReason | None:
    effect, n_random = float(moved.effects[0]), len(moved.random)
    median = float(moved.random.abs().median()) if n_random else None
    enough = abs(effect) >= LEAST_PART * abs(moved.value)
    if graph.tokens is None or not enough or (median is not None and abs(effect) < TIMES_CHANCE * median):
        return None
    target, special = graph.settings["target"], set(vocabulary.tokenizer.all_special_ids)
    read = graph.tokens[: moved.position + 1]
    return HeadReason(
        graph=place,
        texts=tuple("" if token in special else vocabulary.texts[token] for token in read),
        token=vocabulary.label(target["token"]),
        against=tuple(map(vocabulary.label, target["against"])),
        value=moved.value,
        layer=int(moved.layers[0]),
        head=int(moved.heads[0]),
        key=int(moved.keys[0]),
        attention=float(moved.attention[0]),
        effect=effect,
        next=float(moved.effects[1]) if len(moved) > 1 else None,
        median=median,
        n_random=n_random,
    )
