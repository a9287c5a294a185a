"""Changes of all parts of a model in one ranking, measured by what a null changes.

Changes of unlike parts (a layer's tensor, a head, a token's embedding) have no common unit. With a null,
other checkpoints that differ from the first by as much training without what is looked for, each is measured
by the null's change of the same item:

    score = log(change / null) / spread,

null the geometric mean over the null's checkpoints, spread the standard deviation of the same quantity for
the null's own checkpoints, each against the others, over all items of the kind. A score of 1 is what chance
does. Without a null the score is the relative change, change / own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.guarantees.changes import Kind, Place, Sizes
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

LEAST_SPREAD = 0.02
"""A null of two checkpoints may agree by accident; changes by less than 2% beyond it count as none."""

QUIET = 0.1
"""The least part of the null's mean change of a kind: items that it changes less are quiet by accident."""

NEGLIGIBLE = 1e-6
"""The least part of an item's own size: a smaller change of the null cannot be told from none."""


@shown
@dataclass(frozen=True)
class Finding:
    """One part of the model that has changed, and by how much."""

    kind: Kind
    layer: int | None
    item: int | None
    """Number of the token, feature or head; None for a whole MLP."""
    name: str
    """The token, feature, head or MLP in words."""
    score: float
    change: float
    """The norm of the difference of the two functions."""
    relative: float
    """`change` as a part of the first model's own."""
    times_null: float | None
    """`change` over the null's; None without a null."""
    largest: float | None = None
    """No input changes the part's output by more: of an MLP and a head in the residual stream, along a token
    in its logit, of attention in the score. None where it was not computed."""
    found: float | None = None
    """The largest change at an input that was found; equal to `largest` where that is exact."""
    toward: tuple[tuple[str, float], ...] = field(default=())
    """Tokens whose logits the change moves most, where it is read in tokens, each with by how much."""

    def __str__(self) -> str:
        return f"{self.score:.3g} {self.told}"

    @property
    def told(self) -> str:
        """The finding in words, without numbers."""
        layer = "" if self.layer is None else f"layer {self.layer}: "
        return f"{layer}{self.kind} {self.name}" if self.kind != "MLP" else self.name

    @property
    def subject(self) -> tuple[str, int | None, int | None]:
        """The thing that it is about: a token wherever it is met, else a part of one layer."""
        if self.kind in TOKENS:
            return "token", None, self.item
        return self.kind.split()[0], self.layer, self.item


TOKENS: tuple[Kind, ...] = ("MLP reads token", "MLP writes token", "embedding", "unembedding")
"""Kinds whose items are tokens."""


@dataclass(frozen=True)
class NullChanges:
    """The changes that a null makes: `Sizes` of each of its checkpoints, by place."""

    checkpoints: tuple[Mapping[Place, Sizes], ...]

    def __post_init__(self):
        if not self.checkpoints:
            raise InputError("a null without checkpoints; expected one or more")


def scores(found: Mapping[Place, Sizes], null: NullChanges | None) -> dict[Place, Float[Tensor, " items"]]:
    """The score of every item."""
    if null is None:
        return {place: sizes.relative for place, sizes in found.items()}
    levels = {place: _logs([part[place] for part in null.checkpoints]) for place in found}  # [n_null, items]
    floors = {place: _floor([part[place] for part in null.checkpoints]) for place in found}
    beyond = {
        place: sizes.change.clamp(min=floors[place]).log() - levels[place].mean(0)
        for place, sizes in found.items()
    }
    spreads = {kind: _spread(kind, levels, beyond) for kind in {kind for kind, _ in found}}
    return {
        place: torch.where(found[place].change > 0, beyond[place] / spreads[place[0]], 0) for place in found
    }


def null_level(place: Place, null: NullChanges) -> Float[Tensor, " items"]:
    """The null's change of each item: the geometric mean over its checkpoints."""
    return _logs([part[place] for part in null.checkpoints]).mean(0).exp()


def _floor(sizes: Sequence[Sizes]) -> Tensor:
    """A tenth of the null's mean change: what it changes less, as tokens that never occur, counts as this."""
    change = torch.stack([part.change for part in sizes])
    return torch.maximum(QUIET * change.mean(), NEGLIGIBLE * sizes[0].own.mean()).clamp(min=1e-300)


def _logs(sizes: Sequence[Sizes]) -> Tensor:
    return torch.stack([part.change for part in sizes]).clamp(min=_floor(sizes)).log()


def _spread(kind: Kind, levels: Mapping[Place, Tensor], beyond: Mapping[Place, Tensor]) -> float:
    """The standard deviation of log(change / null) that chance makes.

    Of the null's checkpoints against the mean of the others; of one alone, over the items of the difference.
    """
    places = [place for place in levels if place[0] == kind]
    n = len(levels[places[0]])
    if n > 1:
        # x_j − mean of the others = (x_j − mean) n / (n − 1), and the mean of all n is what is compared with.
        apart = [(levels[place] - levels[place].mean(0)) * (n / (n - 1)) for place in places]
        squares = torch.cat([part.flatten() for part in apart]).square().mean()
        squares = squares * (1 + 1 / n) / (1 + 1 / (n - 1))
    else:
        squares = torch.cat([beyond[place] - beyond[place].median() for place in places]).square().mean()
    return max(float(squares.sqrt()), LEAST_SPREAD)


def ranked(
    found: Mapping[Place, Sizes], null: NullChanges | None, names: Mapping[Place, Sequence[str]], k: int
) -> tuple[Finding, ...]:
    """The k items of highest score that have changed at all, highest first."""
    by_place = scores(found, null)
    rows: list[tuple[float, Place, int]] = []
    for place, values in by_place.items():
        top = values.topk(min(k, len(values)))
        rows += [
            (score, place, item)
            for score, item in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
    rows = sorted((row for row in rows if row[0] > 0), key=lambda row: -row[0])[:k]
    return tuple(_finding(found, null, names, *row) for row in rows)


def _finding(
    found: Mapping[Place, Sizes],
    null: NullChanges | None,
    names: Mapping[Place, Sequence[str]],
    score: float,
    place: Place,
    item: int,
) -> Finding:
    kind, layer = place
    change, sizes = float(found[place].change[item]), found[place]
    return Finding(
        kind,
        layer,
        None if kind == "MLP" else item,
        names[place][item],
        score,
        change,
        float(sizes.relative[item]),
        None if null is None else change / float(null_level(place, null)[item]),
    )


def first_of_each_subject(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The highest finding about each token, head, feature or MLP: one that is everywhere is named once."""
    seen: dict[Any, Finding] = {}
    for finding in findings:
        seen.setdefault(finding.subject, finding)
    return tuple(seen.values())
