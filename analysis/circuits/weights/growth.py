"""The graph of a static circuit as it grows from its target down.

Stages are gone through against the order of computation, so that a node is split once all that reads it is
known. Its **importance**, 1 for the target, decides which nodes of a stage come in: a node hands on to each
of its sources its own importance times the source's part of the squares of its group.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from tqdm.auto import tqdm

from analysis.circuits.labels import Names
from analysis.circuits.prompt.readers import BOTTOM, Stage, stage
from analysis.circuits.weights.model import StaticModel
from analysis.circuits.weights.sources import Group, Limits, Reader, StaticPart, StaticSource, split_reader
from analysis.graphs.graph import Edge, Node, Pruned
from analysis.graphs.nodes import input_name, interaction_node


@dataclass
class Grown:
    """What has come in; the target is the first of the nodes."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    pruned: dict[str, Pruned] = field(default_factory=lambda: defaultdict(Pruned))
    shown: dict[str, dict[str, float]] = field(default_factory=dict)
    """By node and group, how much of the squared coefficients is shown."""
    unsplit: list[str] = field(default_factory=list)
    """Nodes that were not split for their depth."""
    left_out: int = 0
    """Nodes and interactions that were strong enough and left out for the limit of nodes."""


@dataclass
class _Waiting:
    """A source until its stage's turn comes."""

    source: StaticSource
    depth: int
    """The fewest MLPs between it and the target."""
    importance: float = 0.0
    edges: list[tuple[str, float, Group]] = field(default_factory=list)
    """The nodes that read it; none where it only takes part in interactions."""
    inside: bool = False
    """Whether it is in the graph, as an input of an interaction."""


@dataclass(frozen=True)
class _Pair:
    """An interaction until its stage's turn comes."""

    output: Node
    part: StaticPart
    group: Group
    depth: int
    importance: float


def grow(
    model: StaticModel,
    target: Node,
    reader: Reader,
    limits: Limits,
    depth: int,
    max_nodes: int,
    names: Names,
    progress: bool = False,
) -> Grown:
    """The nodes and edges below a target: at most `depth` MLPs deep and `max_nodes` in all."""
    return _Growth(model, limits, depth, max_nodes, names).run(target, reader, progress)


class _Growth:
    def __init__(self, model: StaticModel, limits: Limits, depth: int, max_nodes: int, names: Names):
        self.model, self.limits, self.names = model, limits, names
        self.depth, self.max_nodes = depth, max_nodes
        self.grown = Grown()
        self.waiting: dict[Stage, dict[str, _Waiting]] = defaultdict(dict)
        self.pairs: dict[Stage, list[_Pair]] = defaultdict(list)

    def run(self, target: Node, reader: Reader, progress: bool) -> Grown:
        self._split(self._enter(target), reader, 1.0, 0)
        top = max([*self.waiting, *self.pairs], default=BOTTOM)
        steps = ("out", "pairs", "in", "head")
        stages = [stage(layer, step) for layer in reversed(range(self.model.n_layers)) for step in steps]
        stages = [place for place in [*stages, BOTTOM] if place <= top]
        for turn, place in enumerate(tqdm(stages, desc="stages", disable=not progress)):
            budget = (self.max_nodes - len(self.grown.nodes)) // (len(stages) - turn)
            self._admit_pairs(self.pairs.pop(place, []), budget)
            for entry in self._admit(self.waiting.pop(place, {}), budget):
                if entry.source.reader is None:
                    continue
                if place[1] == stage(0, "out")[1] and entry.depth >= self.depth:
                    self.grown.unsplit.append(entry.source.node.id)
                else:
                    self._split(entry.source.node, entry.source.reader(), entry.importance, entry.depth)
        return self.grown

    def _enter(self, node: Node) -> Node:
        node = replace(node, label=self.names.of(node))
        self.grown.nodes[node.id] = node
        return node

    def _admit(self, waiting: dict[str, _Waiting], budget: int) -> list[_Waiting]:
        """Lets the strongest sources of a stage in, beside those that are in as inputs of interactions."""
        inside = [entry for entry in waiting.values() if entry.inside]
        free = [entry for entry in waiting.values() if not entry.inside]
        free.sort(key=lambda entry: (-entry.importance, entry.source.node.id))
        admitted = sorted([*inside, *free[:budget]], key=lambda e: (-e.importance, e.source.node.id))
        for entry in admitted:
            if not entry.inside:
                self._enter(entry.source.node)
            for output, weight, _ in entry.edges:
                self.grown.edges.append(Edge(entry.source.node.id, output, weight))
        for entry in free[budget:]:
            self.grown.left_out += 1
            for output, weight, group in entry.edges:
                self._leave_out(output, weight, group)
        return admitted

    def _admit_pairs(self, pairs: list[_Pair], budget: int) -> None:
        """Lets the strongest interactions of a stage in, with their inputs."""
        for pair in sorted(pairs, key=lambda pair: -pair.importance):
            sources = list({source.node.id: source for source in pair.part.sources}.values())
            cost = 1 + sum(source.node.id not in self.grown.nodes for source in sources)
            if cost > budget:
                self.grown.left_out += 1
                self._leave_out(pair.output.id, pair.part.weight, pair.group)
                continue
            budget -= cost
            node = self._enter_pair(pair)
            for source in sources:
                entry = self._waiting_for(source, pair.depth)
                entry.importance += pair.importance / len(sources)
                if not entry.inside:
                    entry.inside = True
                    self._enter(source.node)
                self.grown.edges.append(Edge(source.node.id, node.id, pair.part.weight))

    def _enter_pair(self, pair: _Pair) -> Node:
        left, right = (source.node for source in pair.part.sources)
        label = self.names.of_pair((left, right))
        node = interaction_node(pair.output, (input_name(left), input_name(right)), label)
        self.grown.nodes[node.id] = node
        self.grown.edges.append(Edge(node.id, pair.output.id, pair.part.weight))
        return node

    def _waiting_for(self, source: StaticSource, depth: int) -> _Waiting:
        entry = self.waiting[source.stage].setdefault(source.node.id, _Waiting(source, depth))
        entry.depth = min(entry.depth, depth)
        return entry

    def _split(self, node: Node, reader: Reader, importance: float, depth: int) -> None:
        shown = self.grown.shown[node.id] = {}
        for group in split_reader(self.model, node, reader, self.limits):
            if group.name != "biases" and group.square:
                shown[group.name] = group.shown
            if group.pruned.count:
                self.grown.pruned[node.id] += group.pruned
            for part in group.kept:
                own = importance * part.weight**2 / group.square
                if len(part.sources) == 2:
                    place = stage(part.sources[0].stage[0], "pairs")
                    self.pairs[place].append(_Pair(node, part, group, depth + 1, own))
                    continue
                entry = self._waiting_for(part.sources[0], depth)
                entry.importance += own
                entry.edges.append((node.id, part.weight, group))

    def _leave_out(self, output: str, weight: float, group: Group) -> None:
        self.grown.pruned[output] += Pruned(weight, abs(weight), 1)
        shown = self.grown.shown[output]
        if group.name in shown:
            shown[group.name] = max(0.0, shown[group.name] - weight**2 / group.square)
