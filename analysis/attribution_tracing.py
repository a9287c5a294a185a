"""The graph of an attribution as it grows from its target down: which nodes come in, and what is left out.

Stages are gone through against the order of computation, so that when a node's turn comes all that it is part
of is known. Its **share** is how much of the target's absolute contributions goes through it: a node hands
its share on to its parts in proportion to |contribution|. Within a stage nodes come in by share, as many as
the budget allows; an interaction brings its inputs along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn
from tqdm.auto import tqdm

from analysis.attribution_mlp import split_mlp
from analysis.attribution_parts import (
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
from analysis.attribution_prompt import Prompt
from analysis.attribution_scores import split_score
from analysis.attribution_stream import split_stream
from analysis.attribution_targets import LogitTarget, ScoreTarget, Target, read_target
from analysis.graph import Edge, Node, Pruned
from analysis.graph_nodes import input_name, interaction_node
from analysis.vocabulary import Vocabulary
from bilinear_lm.dictionary import Site


@dataclass(frozen=True)
class Names:
    """What nodes are called."""

    vocabulary: Vocabulary | None
    features: Mapping[Site, Sequence[str]]

    def of(self, node: Node) -> str:
        """A token's text or a feature's name; nothing where there is none."""
        if node.label or node.index is None:
            return node.label
        if node.kind == "token":
            return "" if self.vocabulary is None else self.vocabulary.label(node.index)
        if node.kind == "feature" and node.site is not None:
            names = self.features.get(Site.parse(node.site))
            return "" if names is None else names[node.index]
        return ""

    def of_target(self, target: Target) -> str:
        """The tokens of a logit or of a difference of logits."""
        if self.vocabulary is None or not isinstance(target, LogitTarget):
            return ""
        others = ", ".join(map(self.vocabulary.label, target.against))
        return self.vocabulary.label(target.token) + (f" - {others}" if others else "")

    def of_pair(self, inputs: Sequence[Node]) -> str:
        """Both inputs of an interaction."""
        return " × ".join(self.of(node) or node.id for node in inputs)


@dataclass
class Traced:
    """What has come in so far; the target is the first of the nodes."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    pruned: dict[str, Pruned] = field(default_factory=lambda: defaultdict(Pruned))
    writes: dict[str, Write] = field(default_factory=dict)
    left_out: int = 0


@dataclass
class _Waiting:
    """A source that nodes are made of, until its turn comes."""

    source: Source
    share: float = 0.0
    edges: list[tuple[str, float]] = field(default_factory=list)
    required: bool = False
    """Whether it is an input of an interaction that is in the graph."""


@dataclass(frozen=True)
class _Pair:
    """An interaction, until its turn comes."""

    output: Node
    part: Part
    share: float


def trace(
    model: nn.Module, prompt: Prompt, target: Target, limits: Limits, names: Names, progress: bool = False
) -> Traced:
    """The nodes and edges below a target."""
    return _Tracing(model, prompt, limits, names).run(target, progress)


class _Tracing:
    def __init__(self, model: nn.Module, prompt: Prompt, limits: Limits, names: Names):
        self.model, self.prompt, self.limits, self.names = model, prompt, limits, names
        self.traced = Traced()
        self.waiting: dict[Stage, dict[str, _Waiting]] = defaultdict(dict)
        self.pairs: dict[Stage, list[_Pair]] = defaultdict(list)
        self.promised = 0
        """Inputs of interactions that are in, which are not in themselves yet."""

    def run(self, target: Target, progress: bool) -> Traced:
        source, reader = read_target(self.prompt, target)
        label = self.names.of_target(target) or source.node.label
        source = replace(source, node=replace(source.node, label=label))
        self._split([(self._enter(source), 1.0, reader)])
        top = max([*self.waiting, *self.pairs], default=BOTTOM)
        stages = [place for place in self._stages(target) if place <= top]
        for turn, place in enumerate(tqdm(stages, desc="stages", disable=not progress)):
            left = self.limits.max_nodes - len(self.traced.nodes) - self.promised
            budget = left // (len(stages) - turn)
            self._admit_pairs(self.pairs.pop(place, []), budget)
            self._split(list(self._admit(self.waiting.pop(place, {}), budget)))
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
        if source.write is not None:
            self.traced.writes[node.id] = source.write()
        return node

    def _admit(self, waiting: dict[str, _Waiting], budget: int) -> Iterator[tuple[Node, float, Reader]]:
        """Lets the strongest sources of a stage in; those that are read in turn are returned."""
        required = [entry for entry in waiting.values() if entry.required]
        free = sorted((entry for entry in waiting.values() if not entry.required), key=lambda e: -e.share)
        for entry in [*required, *free[:budget]]:
            node = self._enter(entry.source)
            self.traced.edges += [Edge(node.id, output, weight) for output, weight in entry.edges]
            if entry.source.reader is not None:
                yield node, entry.share, entry.source.reader()
        self.promised -= len(required)
        for entry in free[budget:]:
            self.traced.left_out += 1
            for output, weight in entry.edges:
                self.traced.pruned[output] += Pruned(weight, abs(weight), 1)

    def _admit_pairs(self, pairs: list[_Pair], budget: int) -> None:
        """Lets the strongest interactions of a stage in, and has their inputs wait for their turn."""
        for pair in sorted(pairs, key=lambda pair: -pair.share):
            sources = {source.node.id: source for source in pair.part.sources}.values()
            cost = 1 + sum(not self._is_required(source) for source in sources)
            if cost > budget:
                self.traced.left_out += 1
                weight = pair.part.weight
                self.traced.pruned[pair.output.id] += Pruned(weight, abs(weight), 1)
                continue
            budget -= cost
            self.promised += cost - 1
            node = self._enter_pair(pair)
            for source in sources:
                entry = self._waiting_for(source)
                entry.required = True
                entry.share += pair.share / len(sources)
                entry.edges.append((node.id, pair.part.weight))

    def _enter_pair(self, pair: _Pair) -> Node:
        weight, output = pair.part.weight, pair.output
        left, right = (source.node for source in pair.part.sources)
        label = self.names.of_pair((left, right))
        node = interaction_node(output, (input_name(left), input_name(right)), label, weight)
        self.traced.nodes[node.id] = node
        self.traced.edges.append(Edge(node.id, output.id, weight))
        if output.id in self.traced.writes and output.value:
            write = self.traced.writes[output.id]
            self.traced.writes[node.id] = replace(write, vector=write.vector * (weight / output.value))
        return node

    def _is_required(self, source: Source) -> bool:
        entry = self.waiting[source.stage].get(source.node.id)
        return entry is not None and entry.required

    def _waiting_for(self, source: Source) -> _Waiting:
        return self.waiting[source.stage].setdefault(source.node.id, _Waiting(source))

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
            split = split_score(self.model, self.prompt, score, self.limits)
            self._offer(node, shares[node.id], split, stage(score.layer, "score"))

    def _offer(self, node: Node, share: float, split: Split, place: Stage) -> None:
        self.traced.pruned[node.id] += split.pruned
        whole = split.absolute
        for part in split.kept:
            part_share = share * abs(part.weight) / whole
            if part.is_interaction:
                self.pairs[place].append(_Pair(node, part, part_share))
                continue
            waiting = self._waiting_for(part.sources[0])
            waiting.share += part_share
            waiting.edges.append((node.id, part.weight))
