"""The graph of an attribution as it grows from its target down: which nodes come in, and what is left out.

Stages are gone through against the order of computation, so that when a node's turn comes all that it is part
of is known. Its **share** is how much of the target's absolute contributions goes through it: a node hands
its share on to its parts in proportion to |contribution|. Within a stage nodes come in by share, as many as
the budget allows; an interaction brings its inputs along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tqdm.auto import tqdm

from analysis.circuits.labels import Names
from analysis.circuits.prompt.mlp import split_mlp
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.prompt.readers import (
    BOTTOM,
    Limits,
    Linear,
    Part,
    Quadratic,
    Reader,
    Score,
    Source,
    Split,
    Stage,
    Write,
    stage,
)
from analysis.circuits.prompt.scores import split_score
from analysis.circuits.prompt.stream import split_stream
from analysis.circuits.prompt.targets import read_target
from analysis.circuits.targets import ScoreTarget, Target
from analysis.graphs.graph import Edge, Node, Pruned
from analysis.graphs.nodes import input_name, interaction_node


@dataclass
class Traced:
    """What has come in so far; the target is the first of the nodes."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    pruned: dict[str, Pruned] = field(default_factory=dict)
    writes: dict[str, Write] = field(default_factory=dict)
    left_out: int = 0


@dataclass(slots=True)
class _Waiting:
    """A source that nodes are made of, until its turn comes."""

    source: Source
    share: float = 0.0
    edges: dict[str, float] = field(default_factory=dict)
    """What it adds to which nodes."""
    required: bool = False
    """Whether it is an input of an interaction that is in the graph."""


@dataclass
class _Pairs:
    """The interactions of a stage until its turn comes, in columns: there may be a million of them."""

    outputs: list[Node] = field(default_factory=list)
    inputs: list[Part] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def add(self, output: Node, inputs: Part, weight: float, share: float) -> None:
        """Takes one more."""
        self.outputs.append(output)
        self.inputs.append(inputs)
        self.weights.append(weight)
        self.shares.append(share)

    @property
    def strongest(self) -> list[int]:
        """Their places, of the largest share first."""
        return sorted(range(len(self.shares)), key=self.shares.__getitem__, reverse=True)


def trace(prompt: Prompt, target: Target, limits: Limits, names: Names, progress: bool = False) -> Traced:
    """The nodes and edges below a target."""
    return _Tracing(prompt, limits, names).run(target, progress)


class _Tracing:
    def __init__(self, prompt: Prompt, limits: Limits, names: Names):
        self.prompt, self.limits, self.names = prompt, limits, names
        self.traced = Traced()
        self.waiting: dict[Stage, dict[str, _Waiting]] = defaultdict(dict)
        self.pairs: dict[Stage, _Pairs] = defaultdict(_Pairs)
        self.rest: dict[str, Pruned] = {}
        """By node that was split, what its splitting kept back."""
        self.left: dict[str, list[float]] = defaultdict(list)
        """By node, contributions of what was then left out."""
        self.promised = 0
        """Inputs of interactions that are in, which are not in themselves yet."""

    def run(self, target: Target, progress: bool) -> Traced:
        source = read_target(self.prompt, target)
        reader = source.reader()
        assert reader is not None  # targets are read
        label = self.names.of_target(target) or source.node.label
        source = replace(source, node=replace(source.node, label=label))
        self._split([(self._enter(source), 1.0, reader)])
        top = max([*self.waiting, *self.pairs], default=BOTTOM)
        stages = [place for place in self._stages(target) if place <= top]
        for turn, place in enumerate(tqdm(stages, desc="stages", disable=not progress)):
            left = self.limits.max_nodes - len(self.traced.nodes) - self.promised
            budget = left // (len(stages) - turn)
            self._admit_pairs(self.pairs.pop(place, _Pairs()), budget)
            self._split(list(self._admit(self.waiting.pop(place, {}), budget)))
        self.traced.pruned = self._pruned()
        return self.traced

    def _stages(self, target: Target) -> Iterator[Stage]:
        """The stages that nodes can be at, those of the last layer first."""
        steps = ["out", "pairs", "in"]
        if isinstance(target, ScoreTarget):
            yield stage(target.layer, "score")
        if isinstance(target, ScoreTarget) or self.limits.split_heads:
            steps.append("head")
        for layer in reversed(range(self.prompt.n_layers)):
            yield from (stage(layer, step) for step in steps)
        yield BOTTOM

    def _enter(self, source: Source) -> Node:
        node = replace(source.node, label=self.names.of(source.node))
        self.traced.nodes[node.id] = node
        if (write := source.write()) is not None:
            self.traced.writes[node.id] = write
        return node

    def _admit(self, waiting: dict[str, _Waiting], budget: int) -> Iterator[tuple[Node, float, Reader]]:
        """Lets the strongest sources of a stage in; those that are read in turn are returned."""
        required = [entry for entry in waiting.values() if entry.required]
        free = sorted((entry for entry in waiting.values() if not entry.required), key=lambda e: -e.share)
        for entry in [*required, *free[:budget]]:
            node = self._enter(entry.source)
            self.traced.edges += [Edge(node.id, output, weight) for output, weight in entry.edges.items()]
            if (reader := entry.source.reader()) is not None:
                yield node, entry.share, reader
        self.promised -= len(required)
        for entry in free[budget:]:
            self.traced.left_out += 1
            for output, weight in entry.edges.items():
                self._leave_out(output, weight)

    def _admit_pairs(self, pairs: _Pairs, budget: int) -> None:
        """Lets the strongest interactions of a stage in, and has their inputs wait for their turn."""
        for place in pairs.strongest:
            output, weight = pairs.outputs[place], pairs.weights[place]
            # Where no room is left, which most of very many come to, inputs need no look.
            sources = {source.node.id: source for source in pairs.inputs[place]} if budget > 0 else {}
            cost = 1 + sum(not self._is_required(source) for source in sources.values())
            if cost > budget:
                self.traced.left_out += 1
                self._leave_out(output.id, weight)
                continue
            budget -= cost
            self.promised += cost - 1
            node = self._enter_pair(output, pairs.inputs[place], weight)
            for source in sources.values():
                entry = self._waiting_for(source)
                entry.required = True
                entry.share += pairs.shares[place] / len(sources)
                entry.edges[node.id] = weight

    def _enter_pair(self, output: Node, inputs: Part, weight: float) -> Node:
        left, right = (source.node for source in inputs)
        label = self.names.of_pair((left, right))
        node = interaction_node(output, (input_name(left), input_name(right)), label, weight)
        self.traced.nodes[node.id] = node
        self.traced.edges.append(Edge(node.id, output.id, weight))
        if output.id in self.traced.writes and output.value:
            write = self.traced.writes[output.id]
            self.traced.writes[node.id] = replace(write, vector=write.vector * (weight / output.value))
        return node

    def _leave_out(self, output: str, weight: float) -> None:
        self.left[output].append(weight)

    def _pruned(self) -> dict[str, Pruned]:
        """What is not shown of each node that was split."""
        found = {}
        for output, rest in self.rest.items():
            left = self.left[output]
            signed, absolute = sum(left, rest.signed), sum(map(abs, left), rest.absolute)
            found[output] = Pruned(signed, absolute, rest.count + len(left))
        return found

    def _is_required(self, source: Source) -> bool:
        entry = self.waiting[source.stage].get(source.node.id)
        return entry is not None and entry.required

    def _waiting_for(self, source: Source) -> _Waiting:
        waiting, name = self.waiting[source.stage], source.node.id
        if name not in waiting:
            waiting[name] = _Waiting(source)
        return waiting[name]

    def _split(self, entries: list[tuple[Node, float, Reader]]) -> None:
        """Splits nodes of one stage, and has their parts wait for their turn."""
        linear = [(node, reader) for node, _, reader in entries if isinstance(reader, Linear)]
        quadratic = [(node, reader) for node, _, reader in entries if isinstance(reader, Quadratic)]
        quadratic.sort(key=lambda pair: pair[1].position)
        scores = [(node, reader) for node, _, reader in entries if isinstance(reader, Score)]
        shares = {node.id: own for node, own, _ in entries}
        streams = split_stream(self.prompt, linear, self.limits)
        for (node, _), split in zip(linear, streams, strict=True):
            self._offer(node, shares[node.id], split, BOTTOM)
        written = split_mlp(self.prompt, quadratic, self.limits)
        for (node, reader), split in zip(quadratic, written, strict=True):
            self._offer(node, shares[node.id], split, stage(reader.layer, "pairs"))
        for node, score in scores:
            split = split_score(self.prompt, score, self.limits)
            self._offer(node, shares[node.id], split, stage(score.layer, "score"))

    def _offer(self, node: Node, share: float, split: Split, place: Stage) -> None:
        self.rest[node.id] = split.pruned
        whole = split.absolute
        for weight, part in zip(split.weights, split.parts, strict=True):
            part_share = share * abs(weight) / whole
            if len(part) == 2:
                self.pairs[place].add(node, part, weight, part_share)
                continue
            waiting = self._waiting_for(part[0])
            waiting.share += part_share
            waiting.edges[node.id] = waiting.edges.get(node.id, 0.0) + weight
