"""A graph as it grows from its target down: which nodes come in, and what is left out.

Stages run from the last layer down, so a node is split only after all its readers. Its **share** is how much
of the target goes through it: a node hands its share on to its sources in proportion to their size in their
group. Within a stage nodes come in by share, as many as the budget allows; an interaction brings its inputs
along.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from analysis.circuits.catalogue import Catalogue
from analysis.circuits.offers import Offers, Waiting
from analysis.circuits.readers import BOTTOM, Group, Reader, Source, Stage, Write, writes_of_mlp
from analysis.graphs.columns import EdgeColumns, GraphColumns
from analysis.graphs.elements import Node
from analysis.graphs.nodes import input_name, interaction_node
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class Grown:
    """A graph that has grown; the target is the first of the nodes."""

    columns: GraphColumns
    writes: dict[str, Write]
    readers: dict[str, Reader]
    """The readers of the nodes that were split."""
    shown: dict[str, dict[str, float]]
    """The part of each group's whole that is shown, by node and group."""
    unsplit: list[str]
    """Nodes that were not split for the depth."""
    left_out: int
    """Nodes and interactions that were strong enough and left out for the number of nodes."""


@dataclass(frozen=True)
class Opened:
    """A node that has come in and is to be split."""

    number: int
    """The number of the node."""
    node: Node
    reader: Reader
    share: float = 1.0
    depth: int = 0
    """The fewest MLPs between it and the target."""


Split = Callable[[Sequence[Opened]], Iterable[tuple[Sequence[Opened], Iterable[Group]]]]
"""Splits the nodes of one stage into groups of contributions; yields some nodes together, in any order."""


def grow(
    target: Source,
    stages: Iterable[Stage],
    split: Split,
    max_nodes: int,
    catalogue: Catalogue,
    *,
    depth: int | None = None,
    progress: bool = False,
) -> Grown:
    """The nodes and edges below a target that is read: `max_nodes` at most, the target among them.

    `stages` are those that sources can stand at, the last first; `split` numbers sources by the `catalogue`.
    With `depth` MLP outputs are not split behind so many MLPs.
    """
    return _Growth(split, max_nodes, catalogue, depth).run(target, list(stages), progress)


@dataclass
class _Growth:
    split: Split
    max_nodes: int
    catalogue: Catalogue
    depth: int | None
    nodes: list[Node] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """The number of each in the catalogue."""
    edges: list[EdgeColumns] = field(default_factory=list)
    """From numbers in the catalogue to numbers of nodes."""
    writes: dict[str, Write] = field(default_factory=dict)
    readers: dict[int, Reader] = field(default_factory=dict)
    """By the number of the node, in the order in which they were split."""
    unsplit: list[str] = field(default_factory=list)
    left_out: int = 0
    offers: dict[Stage, list[Offers]] = field(default_factory=lambda: defaultdict(list))
    """By the stage of their sources, those of pairs by the stage of interactions."""
    rest: list[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 5"]]] = field(default_factory=list)
    """Contributions that the splitting of nodes kept back: nodes, and the numbers of `Pruned`."""
    left: list[EdgeColumns] = field(default_factory=list)
    """Contributions to nodes that were left out afterwards."""
    groups: list[tuple[str, str]] = field(default_factory=list)
    """Node and name of the groups of which it is counted how much is shown."""
    parts_shown: list[float] = field(default_factory=list)
    """How much of each is."""
    claimed: set[int] = field(default_factory=set)
    """The inputs of admitted interactions, by their numbers in the catalogue."""
    promised: int = 0
    """How many of these are not admitted themselves yet."""

    def run(self, target: Source, stages: list[Stage], progress: bool) -> Grown:
        reader = target.reader()
        assert reader is not None  # targets are read
        number = self._enter(target.node, self.catalogue.add(target), target.write())
        self._split([Opened(number, target.node, reader)])
        top = max(self.offers, default=BOTTOM)
        stages = [at for at in stages if at <= top]
        for turn, at in enumerate(tqdm(stages, desc="stages", disable=not progress)):
            if not (waiting := self.offers.pop(at, [])):
                continue
            budget = (self.max_nodes - len(self.nodes) - self.promised) // (len(stages) - turn)
            offers = Offers.joined(waiting)
            is_pair = offers.partners >= 0
            if is_pair.any():
                self._admit_pairs(offers[is_pair], budget)
            if not is_pair.all():
                self._split(self._admit(offers[~is_pair], budget))
        return self._grown()

    def _grown(self) -> Grown:
        edges, left = EdgeColumns.joined(self.edges), EdgeColumns.joined(self.left)
        by_number = np.zeros(max(self.numbers) + 1, dtype=np.int64)
        by_number[self.numbers] = np.arange(len(self.nodes))
        edges = replace(edges, sources=by_number[edges.sources])
        pruned = np.zeros((len(self.nodes), 5))
        for nodes, rest in self.rest:
            pruned[nodes] += rest
        np.add.at(pruned, left.targets, left.as_pruned())
        split = np.array(list(self.readers), dtype=np.int64)
        shown: dict[str, dict[str, float]] = {self.nodes[number].id: {} for number in self.readers}
        for (node, name), part in zip(self.groups, self.parts_shown, strict=True):
            shown[node][name] = part
        readers = {self.nodes[number].id: reader for number, reader in self.readers.items()}
        columns = GraphColumns(tuple(self.nodes), 0, edges, pruned, split)
        return Grown(columns, self.writes, readers, shown, self.unsplit, self.left_out)

    def _enter(self, node: Node, number: int, write: Write | None) -> int:
        """The number that a node has in the graph, beside the one of its source in the catalogue."""
        self.nodes.append(node)
        self.numbers.append(number)
        if write is not None:
            self.writes[node.id] = write
        return len(self.nodes) - 1

    def _admit(self, offers: Offers, budget: int) -> list[Opened]:
        """Admits the strongest sources of a stage; gives those that are to be split."""
        waiting = Waiting.of(offers)
        required, free = np.flatnonzero(waiting.required), np.flatnonzero(~waiting.required)
        ranked = np.concatenate([required, self._strongest_first(waiting, free)])
        n_admitted = len(required) + min(budget, len(free))
        self.promised -= len(required)
        self.left_out += len(ranked) - n_admitted
        rank = np.empty_like(ranked)
        rank[ranked] = np.arange(len(ranked))
        ranks = rank[waiting.of_offers]
        order = ranks.argsort(kind="stable")
        ranked_offers, n_offers = offers[order], np.count_nonzero(ranks < n_admitted)
        of_admitted, of_others = ranked_offers[:n_offers], ranked_offers[n_offers:]
        self.edges.append(of_admitted.edges().summed())
        self._leave_out(of_others, of_others.edges().summed())
        opened = []
        for index in ranked[:n_admitted].tolist():
            number, depth = int(waiting.numbers[index]), int(waiting.depths[index])
            source = self.catalogue[number]
            node, reader = self._enter(source.node, number, source.write()), source.reader()
            if reader is None:
                continue
            if self.depth is not None and depth >= self.depth and writes_of_mlp(source.stage):
                self.unsplit.append(source.node.id)
            else:
                opened.append(Opened(node, source.node, reader, float(waiting.shares[index]), depth))
        return opened

    def _strongest_first(self, waiting: Waiting, free: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The indices of sources, of the largest share first, equal ones by the ids of their nodes."""
        order = free[np.argsort(-waiting.shares[free], kind="stable")]
        shares = waiting.shares[order]
        if (shares[1:] == shares[:-1]).any():
            names = [self.catalogue[number].node.id for number in waiting.numbers[order].tolist()]
            order = order[np.lexsort((np.array(names), -shares))]
        return order

    def _admit_pairs(self, pairs: Offers, budget: int) -> None:
        """Admits the strongest interactions of a stage, and has their inputs wait for their turn."""
        pairs = pairs[np.argsort(-pairs.shares, kind="stable")]
        admitted, can_be_grouped = np.zeros(len(pairs), dtype=bool), ~np.isnan(pairs.grouped)
        for at, ends in enumerate(zip(pairs.sources.tolist(), pairs.partners.tolist(), strict=True)):
            if budget <= 0:
                break
            new = set(ends) - self.claimed
            if (cost := 1 + len(new)) <= budget:
                admitted[at] = True
                budget -= cost
                self.promised += len(new)
                self.claimed |= new
        others = pairs[~admitted & ~can_be_grouped]
        self.left_out += len(others)
        self._leave_out(others, others.edges())
        self._enter_pairs(pairs[admitted])
        by_inputs = admitted | can_be_grouped
        self._wait(pairs[by_inputs].of_inputs(admitted[by_inputs]))

    def _enter_pairs(self, pairs: Offers) -> None:
        """The nodes of pairs, with the edges to their outputs and from their inputs."""
        names = ("sources", "partners", "targets", "weights", "slopes")
        for left, right, target, weight, slope in zip(
            *(getattr(pairs, name).tolist() for name in names), strict=True
        ):
            output, inputs = self.nodes[target], list(dict.fromkeys((left, right)))
            source = _pair(output, self.catalogue[left].node, self.catalogue[right].node, weight, slope)
            write = self.writes.get(output.id)
            if write is not None:
                write = _part_of_write(write, output, weight, slope)
            number = self.catalogue.add(source)
            node = self._enter(source.node, number, write)
            n = len(inputs)
            self.edges.append(
                EdgeColumns(
                    np.array([number, *inputs]),
                    np.array([target] + [node] * n),
                    np.full(1 + n, weight),
                    # A square changes by twice as much as its input, relative to what they are.
                    np.array([slope] + [slope * (3 - n)] * n),
                    np.zeros(1 + n),
                )
            )

    def _leave_out(self, offers: Offers, edges: EdgeColumns) -> None:
        """Counts offers that do not come in, which are these edges."""
        self.left.append(edges)
        counted = offers.groups >= 0
        for group, part in zip(offers.groups[counted].tolist(), offers.parts[counted].tolist(), strict=True):
            self.parts_shown[group] = max(0.0, self.parts_shown[group] - part)

    def _split(self, opened: list[Opened]) -> None:
        """Splits nodes of one stage, and has their parts wait for their turn."""
        for outputs, groups in self.split(opened) if opened else ():
            self.readers |= {output.number: output.reader for output in outputs}
            for group in groups:
                self.rest.append((np.array([output.number for output in outputs]), group.pruned))
                self._wait(self._offered(outputs, group), group.pairs_at)

    def _offered(self, outputs: Sequence[Opened], group: Group) -> Offers:
        """The contributions of a group to nodes."""
        rows, counted, grouped = group.rows, np.full(len(outputs), -1), group.grouped
        if group.name:
            counted = np.arange(len(outputs)) + len(self.groups)
            self.groups += [(output.node.id, group.name) for output in outputs]
            self.parts_shown += [sum(group.shares[rows == row].tolist()) for row in range(len(outputs))]
        if grouped is None:
            grouped = np.where(group.partners >= 0, np.nan, 0.0)
        return Offers(
            group.sources,
            group.partners,
            np.array([output.number for output in outputs])[rows],
            group.weights,
            group.slopes,
            grouped,
            group.shares,
            counted[rows],
            np.array([output.share for output in outputs])[rows] * group.shares,
            np.array([output.depth for output in outputs])[rows],
            np.zeros(len(rows), dtype=bool),
        )

    def _wait(self, offers: Offers, pairs_at: Stage = BOTTOM) -> None:
        """Has offers wait for the turn of their stage."""
        stages = np.where(offers.partners >= 0, pairs_at, self.catalogue.stages(offers.sources))
        for at in np.unique(stages).tolist():
            self.offers[at].append(offers[stages == at])


def _pair(output: Node, left: Node, right: Node, weight: float, slope: float) -> Source:
    """The interaction of two inputs, whose value is known on a prompt."""
    value = None if math.isnan(slope) else weight
    return Source(interaction_node(output, (input_name(left), input_name(right)), value=value), BOTTOM)


def _part_of_write(whole: Write, output: Node, weight: float, slope: float) -> Write | None:
    """The part that an interaction has of the write of its output."""
    if not output.value:
        return None
    write = whole.times(weight / output.value)
    if not math.isnan(slope) and slope != weight:  # a norm lies between the product and the output
        write = replace(write, tangent=whole.slope * (slope / output.value))
    return write
