"""Names of the features of a dictionary: short, and never the same for two of them.

A feature is named by the tokens at its highest peaks in a text, those with most of its code first, such as
`␣the, ␣a`. Where features of a dictionary share such a name, each gets what tells it apart, the first of
these that no other has:

1. the commonest token before its peaks (`␣the after ␣to`), or after them (`␣the before ␣park`), whichever is
   commoner, if it has half of the feature's code or more;
2. the token that it acts on by weights alone: an output feature raises its logit most (`␣the raises ␣park`),
   an input feature reads its embedding most (`␣the reads ␣an`);
3. the commonest token before and after its peaks, one or both, though rarer;
4. its number (`␣the (12)`).

A feature without peaks is named by weights alone, which its name says: `weights: raises ␣park, ␣beach`.
Tokens have signs for their blanks, so that a blank in a name always ends one. Equal text, model and
dictionary give equal names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilinear_lm.shown import shown

LONGEST = 40
"""Characters of a name, at most."""

N_TOKENS = 3
"""Tokens of a name, at most, before what tells it apart."""

TYPICAL = 0.5
"""The share of a feature's code from which a neighbour of its peaks is typical of it."""

_LONGEST_TOKEN = 10
"""Characters of a token that tells apart, and of each in a name that is too long with them whole."""


@shown
@dataclass(frozen=True)
class PeakTokens:
    """Tokens at and beside the highest peaks of features; -1 where there is none."""

    values: Float[Tensor, "n_feat k"]
    """Code at each peak; 0 where a feature has fewer."""
    at: Int[Tensor, "n_feat k"]
    before: Int[Tensor, "n_feat k"]
    after: Int[Tensor, "n_feat k"]

    @classmethod
    def of(
        cls,
        values: Float[Tensor, "n_feat k"],
        window: Int[Tensor, "n_feat k"],
        position: Int[Tensor, "n_feat k"],
        windows: Sequence[Sequence[int]],
    ) -> PeakTokens:
        """The tokens at peaks that are given by window and position in a text."""
        # All windows one after the other, with no token between them, so that neighbours are found at once.
        flat = torch.tensor([-1] + [token for each in windows for token in (*each, -1)])
        lengths = torch.tensor([len(each) + 1 for each in windows])
        places = 1 + (lengths.cumsum(0) - lengths)[window] + position
        return cls(values, flat[places], flat[places - 1], flat[places + 1])

    def ranked(
        self, tokens: Int[Tensor, "n_feat k"]
    ) -> tuple[Int[Tensor, "n_feat k"], Float[Tensor, "n_feat k"]]:
        """The different tokens of each row by their share of the code, and the shares; -1 and 0 behind them.

        Of equal shares the one at the higher peak comes first.
        """
        same = tokens[:, :, None] == tokens[:, None, :]
        weight = (same * self.values[:, None, :]).sum(dim=2)
        again = same.tril(diagonal=-1).any(dim=2)
        weight = torch.where(again | (tokens < 0) | (self.values <= 0), 0.0, weight)
        weight, order = weight.sort(dim=1, descending=True, stable=True)
        share = weight / self.values.clamp(min=0).sum(dim=1, keepdim=True).clamp(min=1e-30)
        return torch.where(weight > 0, tokens.gather(1, order), -1), share


def unique_names(
    peaks: PeakTokens,
    label: Callable[[int], str],
    by_weights: Callable[[Int[Tensor, " n"]], Int[Tensor, "n k"]],
    verb: str,
) -> tuple[str, ...]:
    """The names of all features of a dictionary by the rule above, in the order of their numbers.

    `label` gives the text of a token; `by_weights` the tokens that features act on by weights alone,
    strongest first, and is asked for those that need it; `verb` says how they do ("raises", "reads").

    >>> one = torch.tensor([[1], [1]])
    >>> peaks = PeakTokens(torch.ones(2, 1), one, torch.tensor([[2], [3]]), -one)
    >>> unique_names(peaks, "␣a ␣cat ␣big ␣red".split().__getitem__, lambda some: some[:, None], "raises")
    ('␣cat after ␣big', '␣cat after ␣red')
    """
    ranked = peaks.ranked(peaks.at)[0][:, :N_TOKENS].tolist()
    texts = [[label(token) for token in row if token >= 0] for row in ranked]
    firsts = [""] * len(texts)
    unnamed = [feature for feature, row in enumerate(texts) if not row]
    names = [_fitted(row) for row in texts]
    alike = [feature for feature in _sharing(names) if texts[feature]]
    asked = torch.tensor([*unnamed, *alike], dtype=torch.long)
    acted = dict(zip(asked.tolist(), by_weights(asked).tolist(), strict=True)) if len(asked) else {}
    for feature in unnamed:
        firsts[feature] = f"weights: {verb} "
        texts[feature] = [label(token) for token in acted[feature][:N_TOKENS]]
        names[feature] = _fitted(texts[feature], firsts[feature])
    # A token of the name itself tells little.
    own = {feature: {token for token in ranked[feature] if token >= 0} for feature in alike}
    most = [next((t for t in acted[f] if t not in own[f]), acted[f][0]) for f in alike]
    marks = _marks(peaks, alike, [f"{verb} {_cut(label(token))}" for token in most], label)
    return _told_apart(names, texts, firsts, marks)


def _sharing(names: Sequence[str]) -> list[int]:
    """The features whose name another has too."""
    counts = Counter(names)
    return [feature for feature, name in enumerate(names) if counts[name] > 1]


def _marks(
    peaks: PeakTokens, features: list[int], by_weights: list[str], label: Callable[[int], str]
) -> dict[int, list[str]]:
    """Marks that may tell each of the features apart, in the order in which they are tried."""
    columns = []
    for word, tokens in (("after", peaks.before), ("before", peaks.after)):
        ranked, share = peaks.ranked(tokens)
        first, its_share = ranked[features, 0].tolist(), share[features, 0].tolist()
        texts = ["" if token < 0 else f"{word} {_cut(label(token))}" for token in first]
        columns.append(list(zip(texts, its_share, strict=True)))
    marks = {}
    for feature, weights, *beside in zip(features, by_weights, *columns, strict=True):
        ordered = sorted((each for each in beside if each[0]), key=lambda each: -each[1])
        typical = [text for text, share in ordered if share >= TYPICAL]
        rarer = [text for text, share in ordered if share < TYPICAL]
        both = [" ".join(text for text, _ in beside)] if len(ordered) == 2 else []
        marks[feature] = [*typical, weights, *rarer, *both]
    return marks


def _told_apart(
    names: list[str], texts: list[list[str]], firsts: list[str], marks: dict[int, list[str]]
) -> tuple[str, ...]:
    """The names, with the first mark that no other of its name has; at last with the number."""
    names = list(names)
    left = _sharing(names)
    taken = set(names)
    for turn in range(max(map(len, marks.values()), default=0)):
        tried = {
            feature: _fitted(texts[feature], firsts[feature], f" {marks[feature][turn]}")
            for feature in left
            if turn < len(marks.get(feature, ()))
        }
        counts = Counter(tried.values())
        for feature, name in tried.items():
            if counts[name] == 1 and name not in taken:
                names[feature] = name
        taken |= {names[feature] for feature in tried}
        left = [feature for feature in left if names[feature] != tried.get(feature)]
    for feature in left:
        names[feature] = _fitted(texts[feature], firsts[feature], f" ({feature})")
    return tuple(names)


def _fitted(texts: Sequence[str], first: str = "", last: str = "") -> str:
    """As many of the texts as fit between `first` and `last`; they are cut where not all fit whole."""
    room = LONGEST - len(first) - len(last)
    shown = list(texts)
    if len(texts) > 1 and len(", ".join(texts)) > room:
        shown = [_cut(text) for text in texts]
    while len(shown) > 1 and len(", ".join(shown)) > room:
        shown.pop()
    return f"{first}{_cut(', '.join(shown), room)}{last}"


def _cut(text: str, longest: int = _LONGEST_TOKEN) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def numbered(feature: int, name: str) -> str:
    """A feature's number and name, `#12 ␣the, ␣a`; the number alone where there is no name."""
    return f"#{feature} {name}" if name else f"#{feature}"
