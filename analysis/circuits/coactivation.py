"""Interference: interactions of a static circuit between features that a text never has active together.

A coefficient of two features says what their product would do; where the two do not occur together it does
nothing, however large it is. What two features that had nothing to do with each other would do together,
n_left · n_right / n, is the null beside what they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from analysis.features.dictionaries import Dictionaries, dictionaries_by_site
from analysis.graphs.elements import Node
from analysis.graphs.graph import Graph
from analysis.text.windows import Windows, activations_on_windows
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.sites import Site


@dataclass(frozen=True)
class Coactivation:
    """How often the two features of an interaction are active at one position of a text."""

    interaction: Node
    left: Node
    right: Node
    weight: float
    """The coefficient with which their product enters its output."""
    n_left: int
    n_right: int
    n_both: int
    expected: float
    """n_left · n_right / n: what n_both would be if the one said nothing of the other."""

    @property
    def never_together(self) -> bool:
        """Whether both are active in the text, and never at one position."""
        return self.n_both == 0 and min(self.n_left, self.n_right) > 0


@checked
def coactivations(
    model: nn.Module,
    graph: Graph,
    dictionaries: Dictionaries | Sequence[Dictionary],
    windows: Windows,
    skip: int = 0,
    progress: bool = False,
) -> tuple[Coactivation, ...]:
    """The interactions of two features in a static circuit, largest |weight| first, with their coactivations.

    `windows` of a text (`token_windows`) are read once; the first `skip` positions of each do not count, such
    as a beginning-of-sequence token. Squares are left out.

    >>> circuit = static_circuit(model, LogitTarget(token=261), dictionaries)  # doctest: +SKIP
    >>> found = coactivations(model, circuit, dictionaries, windows, skip=1)  # doctest: +SKIP
    >>> [each.interaction.id for each in found if each.never_together]  # doctest: +SKIP

    Raises InputError for a graph of a prompt, one without interactions of two features, and dictionaries that
    it is not of.
    """
    require_count(skip, f"skip={skip} positions", "0 or more", least=0)
    if graph.on_prompt:
        raise InputError("coactivations of a graph of a prompt; expected one from weights alone")
    pairs = _pairs(graph)
    if not pairs:
        raise InputError(
            "the graph has no interactions of two features; expected a static circuit with dictionaries of "
            "what MLPs read"
        )
    by_site = dictionaries_by_site(dictionaries)
    features = sorted({(Site.parse(str(node.site)), node.index or 0) for _, *both in pairs for node in both})
    for site, feature in features:
        if site not in by_site or feature >= by_site[site].n_feat:
            raise InputError(f"feature {feature} at {site} of the graph is in none of the dictionaries")
    rows = {each: row for row, each in enumerate(features)}
    ends = torch.tensor(
        [[rows[Site.parse(str(node.site)), node.index or 0] for node in pair[1:]] for pair in pairs]
    )
    n, single = 0, torch.zeros(len(features), dtype=torch.long)
    both = torch.zeros(len(pairs), dtype=torch.long)
    chosen: dict[Site, list[int]] = {}
    for site, feature in features:
        chosen.setdefault(site, []).append(feature)
    for _, seen in activations_on_windows(model, windows, list(chosen), progress=progress):
        active = []
        for site, own in chosen.items():
            dictionary = by_site[site]
            code = dictionary.encode(seen[site][:, skip:].to(dictionary.device, dictionary.dtype))
            active.append((code[..., own] != 0).flatten(0, 1).cpu())
        together = torch.cat(active, dim=1)
        n += len(together)
        single += together.sum(dim=0)
        both += (together[:, ends[:, 0]] & together[:, ends[:, 1]]).sum(dim=0)
    found = [
        Coactivation(
            *pair,
            weight=graph.out_of(pair[0].id)[0].weight,
            n_left=int(single[left]),
            n_right=int(single[right]),
            n_both=int(count),
            expected=float(single[left]) * float(single[right]) / n if n else 0.0,
        )
        for pair, (left, right), count in zip(pairs, ends.tolist(), both, strict=True)
    ]
    return tuple(sorted(found, key=lambda each: -abs(each.weight)))


def _pairs(graph: Graph) -> list[tuple[Node, Node, Node]]:
    """The interactions of two different features, with these."""
    pairs = []
    for node in graph.of_kind("interaction"):
        inputs = [graph.node(edge.source) for edge in graph.into(node.id)]
        if len(inputs) == 2 and all(each.kind == "feature" for each in inputs):
            left, right = sorted(inputs, key=lambda each: each.index or 0)
            pairs.append((node, left, right))
    return pairs
