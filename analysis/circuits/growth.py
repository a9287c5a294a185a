"""A graph as it grows from its target down: which nodes come in, and what is left out.

Stages run from the last layer down, so a node is split only after all its readers. Its **share** is how much
of the target goes through it: a node hands its share on to its sources in proportion to their size in their
group. Within a stage nodes come in by share, as many as the budget allows; an interaction brings its inputs
along.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tqdm.auto import tqdm

from analysis.circuits.readers import BOTTOM, Group, Part, Reader, Source, Stage, Write, writes_of_mlp
from analysis.graphs.elements import Edge, Node, Pruned
from analysis.graphs.nodes import input_name, interaction_node
from bilinear_lm.shown import shown


@shown
@dataclass
class Grown:
    """The graph so far; the target is the first of the nodes."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    pruned: dict[str, Pruned] = field(default_factory=dict)
    writes: dict[str, Write] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)
    """The readers of the nodes that were split."""
    shown: dict[str, dict[str, float]] = field(default_factory=dict)
    """The part of each group's whole that is shown, by node and group."""
    unsplit: list[str] = field(default_factory=list)
    """Nodes that were not split for the depth."""
    left_out: int = 0
    """Nodes and interactions that were strong enough and left out for the number of nodes."""


@dataclass(frozen=True)
class Opened:
    """A node that has come in and is to be split."""

    node: Node
    reader: Reader
    share: float = 1.0
    depth: int = 0
    """The fewest MLPs between it and the target."""


Split = Callable[[Sequence[Opened]], Iterable[tuple[Opened, Iterable[Group]]]]
"""Splits the nodes of one stage into groups of contributions; yields them in any order."""


@dataclass(slots=True)
class _Added:
    """The contribution of a source to one node."""

    weight: float
    slope: float | None
    part: float
    """The part that it has in its group."""
    group: str
    grouped: float = 0.0
    """The part of the weight that is interactions with others."""

    def added_to(self, other: _Added | None) -> _Added:
        """The sum of two contributions of a source."""
        if other is None:
            return self
        slope = None if self.slope is None or other.slope is None else self.slope + other.slope
        weight, part = self.weight + other.weight, self.part + other.part
        return _Added(weight, slope, part, self.group, self.grouped + other.grouped)


@dataclass(slots=True)
class _Waiting:
    """A source of nodes in the graph, until its stage's turn comes."""

    source: Source
    depth: int
    share: float = 0.0
    edges: dict[str, _Added] = field(default_factory=dict)
    """Its contributions, by the node that it adds to."""
    required: bool = False
    """Whether it is an input of an interaction that is in the graph."""


@dataclass
class _Pairs:
    """The interactions of a stage until its turn comes, in columns: there may be a million of them."""

    outputs: list[Opened] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    """The index of each in its group."""
    shares: list[float] = field(default_factory=list)

    def add(self, output: Opened, group: Group, index: int, share: float) -> None:
        """Takes one more."""
        self.outputs.append(output)
        self.groups.append(group)
        self.indices.append(index)
        self.shares.append(share)

    @property
    def strongest(self) -> list[int]:
        """Their indices, of the largest share first."""
        return sorted(range(len(self.shares)), key=self.shares.__getitem__, reverse=True)


def grow(
    target: Source,
    stages: Iterable[Stage],
    split: Split,
    max_nodes: int,
    *,
    depth: int | None = None,
    progress: bool = False,
) -> Grown:
    """The nodes and edges below a target that is read: `max_nodes` at most, the target among them.

    `stages` are those that sources can stand at, the last first. With `depth` MLP outputs are not split
    behind so many MLPs.
    """
    with _no_collection():
        return _Growth(split, max_nodes, depth).run(target, list(stages), progress)


@contextmanager
def _no_collection() -> Iterator[None]:
    """While open, nobody looks for cycles: a graph grows by many small objects and none, and the search among
    them takes as long as making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Growth:
    def __init__(self, split: Split, max_nodes: int, depth: int | None):
        self.split, self.max_nodes, self.depth = split, max_nodes, depth
        self.grown = Grown()
        self.waiting: dict[Stage, dict[str, _Waiting]] = defaultdict(dict)
        self.pairs: dict[Stage, _Pairs] = defaultdict(_Pairs)
        self.rest: dict[str, Pruned] = {}
        """Contributions that the splitting of each node kept back."""
        self.left: dict[str, list[float]] = defaultdict(list)
        """Weights of the contributions to each node that were left out afterwards."""
        self.left_slopes: dict[str, list[float]] = defaultdict(list)
        """Their slopes, on a prompt."""
        self.promised = 0
        """Number of inputs of admitted interactions that are not admitted themselves yet."""

    def run(self, target: Source, stages: list[Stage], progress: bool) -> Grown:
        reader = target.reader()
        assert reader is not None  # targets are read
        self._split([Opened(self._enter(target), reader)])
        top = max([*self.waiting, *self.pairs], default=BOTTOM)
        stages = [at for at in stages if at <= top]
        for turn, at in enumerate(tqdm(stages, desc="stages", disable=not progress)):
            budget = (self.max_nodes - len(self.grown.nodes) - self.promised) // (len(stages) - turn)
            self._admit_pairs(self.pairs.pop(at, _Pairs()), budget)
            self._split(list(self._admit(self.waiting.pop(at, {}), budget)))
        self.grown.pruned = self._pruned()
        return self.grown

    def _enter(self, source: Source) -> Node:
        self.grown.nodes[source.node.id] = source.node
        if (write := source.write()) is not None:
            self.grown.writes[source.node.id] = write
        return source.node

    def _admit(self, waiting: dict[str, _Waiting], budget: int) -> Iterator[Opened]:
        """Admits the strongest sources of a stage; yields those that are to be split."""
        required = [entry for entry in waiting.values() if entry.required]
        free = [entry for entry in waiting.values() if not entry.required]
        free.sort(key=lambda entry: (-entry.share, entry.source.node.id))
        self.promised -= len(required)
        for entry in free[budget:]:
            self.grown.left_out += 1
            for output, added in entry.edges.items():
                self._leave_out(output, added)
        for entry in [*required, *free[:budget]]:
            node = self._enter(entry.source)
            self.grown.edges += [
                Edge(node.id, output, added.weight, added.slope, added.grouped)
                for output, added in entry.edges.items()
            ]
            reader = entry.source.reader()
            if reader is None:
                continue
            if self.depth is not None and entry.depth >= self.depth and writes_of_mlp(entry.source.stage):
                self.grown.unsplit.append(node.id)
            else:
                yield Opened(node, reader, entry.share, entry.depth)

    def _admit_pairs(self, pairs: _Pairs, budget: int) -> None:
        """Admits the strongest interactions of a stage, and has their inputs wait for their turn."""
        for at in pairs.strongest:
            output, group, index = pairs.outputs[at], pairs.groups[at], pairs.indices[at]
            part, weight = group.parts[index], group.weights[index]
            slope = None if group.slopes is None else group.slopes[index]
            # Where no room is left, which most of very many come to, inputs need no look.
            needed = budget > 0 or group.grouped is not None
            sources = {source.node.id: source for source in part} if needed else {}
            # A square changes by twice as much as its input, relative to what they are.
            of_input = None if slope is None else slope * (2 if len(sources) == 1 else 1)
            cost = 1 + sum(not self._is_required(source) for source in sources.values())
            if cost > budget and group.grouped is not None:
                for source in sources.values():
                    each, own = weight / len(sources), group.shares[index] / len(sources)
                    added = _Added(each, of_input, own, group.name, each)
                    self._wait(source, output, added, pairs.shares[at] / len(sources))
                continue
            if cost > budget:
                self.grown.left_out += 1
                added = _Added(weight, slope, group.shares[index], group.name)
                self._leave_out(output.node.id, added)
                continue
            budget -= cost
            self.promised += cost - 1
            node = self._enter_pair(output.node, part, weight, slope)
            for source in sources.values():
                entry = self._waiting_for(source, output.depth + 1)
                entry.required = True
                entry.share += pairs.shares[at] / len(sources)
                self.grown.edges.append(Edge(source.node.id, node.id, weight, of_input))

    def _enter_pair(self, output: Node, part: Part, weight: float, slope: float | None) -> Node:
        """The node of a pair, whose write is its part of its output's write."""
        left, right = (source.node for source in part)
        value = None if slope is None else weight
        node = interaction_node(output, (input_name(left), input_name(right)), value=value)
        self.grown.nodes[node.id] = node
        self.grown.edges.append(Edge(node.id, output.id, weight, slope))
        if output.id in self.grown.writes and output.value:
            whole = self.grown.writes[output.id]
            write = whole.times(weight / output.value)
            if slope is not None and slope != weight:  # a norm lies between the product and the output
                write = replace(write, tangent=whole.slope * (slope / output.value))
            self.grown.writes[node.id] = write
        return node

    def _leave_out(self, output: str, added: _Added) -> None:
        self.left[output].append(added.weight)
        if added.slope is not None:
            self.left_slopes[output].append(added.slope)
        shown = self.grown.shown[output]
        if added.group in shown:
            shown[added.group] = max(0.0, shown[added.group] - added.part)

    def _pruned(self) -> dict[str, Pruned]:
        """Contributions to each split node that the graph does not show."""
        pruned = {}
        for output, rest in self.rest.items():
            left, slopes = self.left[output], self.left_slopes[output]
            pruned[output] = Pruned(
                sum(left, rest.signed),
                sum(map(abs, left), rest.absolute),
                rest.count + len(left),
                sum(slopes, rest.slope),
                sum(map(abs, slopes), rest.absolute_slope),
            )
        return pruned

    def _is_required(self, source: Source) -> bool:
        entry = self.waiting[source.stage].get(source.node.id)
        return entry is not None and entry.required

    def _waiting_for(self, source: Source, depth: int) -> _Waiting:
        waiting, name = self.waiting[source.stage], source.node.id
        if name not in waiting:
            waiting[name] = _Waiting(source, depth)
        entry = waiting[name]
        entry.depth = min(entry.depth, depth)
        return entry

    def _split(self, opened: list[Opened]) -> None:
        """Splits nodes of one stage, and has their parts wait for their turn."""
        for output, groups in self.split(opened) if opened else ():
            name = output.node.id
            self.grown.readers[name] = output.reader
            self.rest[name], self.grown.shown[name] = Pruned(), {}
            for group in groups:
                self.rest[name] += group.pruned
                if group.name and group.whole:
                    self.grown.shown[name][group.name] = sum(group.shares)
                self._offer(output, group)

    def _offer(self, output: Opened, group: Group) -> None:
        slopes: Sequence[float | None] = group.slopes or [None] * len(group.weights)
        for index, part in enumerate(group.parts):
            own = group.shares[index]
            share = output.share * own
            if len(part) == 2:
                self.pairs[group.pairs_at].add(output, group, index, share)
                continue
            grouped = 0.0 if group.grouped is None else group.grouped[index]
            added = _Added(group.weights[index], slopes[index], own, group.name, grouped)
            self._wait(part[0], output, added, share)

    def _wait(self, source: Source, output: Opened, added: _Added, share: float) -> None:
        """Has a source with a contribution to a node wait for its turn."""
        entry = self._waiting_for(source, output.depth)
        entry.share += share
        entry.edges[output.node.id] = added.added_to(entry.edges.get(output.node.id))
