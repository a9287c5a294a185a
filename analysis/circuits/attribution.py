"""Attribution on a prompt: a value as a sum of contributions, from pairs of features down to tokens.

With attention patterns and the scales of norms frozen at their measured values, a bilinear model is a
polynomial of its embeddings. So each of its values, a logit say, is a sum of contributions, and each
contribution is a value again:

- a value linear in the residual stream (a logit, a feature before an MLP, v · x of an eigenvector) splits
  over embeddings, features of earlier MLPs' outputs with their errors, and biases, through heads;
- a value read from an MLP's output (a feature after it, or any direction) splits into **interactions** of two
  features before it, or without these into λ (v · x)² over eigenvectors; see `analysis.circuits.prompt.mlp`;
- an attention score splits into pairs of one part of the stream at the query and one at the key.

Every split is exact. Contributions that are not shown are counted in `Graph.pruned`, so the sums still hold.

A contribution is one number, its **weight**; what happens to the value when its source changes is another,
its **slope**: the scales of norms are not held in it, for a source that lies along the residual stream makes
the norm larger and all else smaller. Slopes are exact derivatives, and what nodes are chosen by.
(The bilinear layer's decomposition is that of arXiv 2410.08417; replacing MLPs by sparse features and holding
attention is the method of Ameisen et al. 2025, "Circuit Tracing", whose MLP features are linear instead.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from analysis.circuits.catalogue import Catalogue
from analysis.circuits.growth import Opened, Split, grow
from analysis.circuits.labels import labelled
from analysis.circuits.prompt.gradients import slopes, strongest_scores, target_gradients
from analysis.circuits.prompt.mlp import split_mlp
from analysis.circuits.prompt.prompt import Prompt
from analysis.circuits.prompt.scores import split_score
from analysis.circuits.prompt.stream import split_stream
from analysis.circuits.prompt.targets import read_target
from analysis.circuits.readers import (
    BOTTOM,
    Group,
    Limits,
    Linear,
    Quadratic,
    Score,
    Spread,
    Stage,
    Write,
    stage,
)
from analysis.circuits.targets import LogitTarget, ScoreTarget, Target, as_target
from analysis.graphs.columns import GraphColumns
from analysis.graphs.elements import By, Node
from analysis.graphs.graph import Graph
from analysis.graphs.pruning import Part, part_of, strongest_nodes
from analysis.graphs.shares import node_shares, parts_on_prompt
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_choice, require_count, require_number
from bilinear_lm.errors import InputError
from bilinear_lm.files import versions
from bilinear_lm.shown import shown, shown_by
from bilinear_lm.sites import Site

Heads = Literal["paths", "nodes"]

Frozen = Literal["followed", "held"]

Interactions = Literal["grouped", "pairs"]

_PER_SCORE = 8
"""One attention score can come in for so many nodes that there is room for: those of the largest slopes."""

_PER_INTERACTION = 8
"""One node in so many is an interaction, at least, where interactions are grouped."""

_ROOM = 2
"""A graph grows to `_ROOM` · `max_nodes` before its weakest nodes go: only nodes in it have a known share."""


@shown
@dataclass(frozen=True)
class Attribution:
    """A graph of a value on a prompt, and the vectors that its nodes write; made by `attribute`."""

    graph: Graph
    target: Target
    prompt: Prompt = field(repr=False)
    """The measured prompt, with the features of the dictionaries."""
    left_out: int
    """Nodes that were strong enough for `share` and left out for `max_nodes`."""
    writes: Mapping[str, Write] = field(repr=False)
    """The vector that each node adds to the activations of a site, which interventions take away.

    For a feature it is its code times its decoder row; for an interaction the same for its output; for an MLP
    or a head read along a direction u it is value · u / |u|², for an eigenvector value · v / |v|². For parts
    of an MLP's input it is in coordinates of mlp-in, so that it changes nothing but the MLP.
    """
    readers: Mapping[str, Quadratic] = field(repr=False)
    """How each node that reads an MLP's output reads it."""

    def _told(self) -> dict[str, Any]:
        return {"graph": self.graph, "left_out": self.left_out, "writes": len(self.writes)}

    _repr_html_ = shown_by("analysis.report.notebook", "attribution_html")

    def __str__(self) -> str:
        graph = self.graph
        text = f"{graph.target}: {len(graph)} nodes, {len(graph.edges)} edges, {graph.shown:.0%} of the "
        text += "absolute contributions followed to the end"
        if self.left_out:
            text += f"; {self.left_out} more nodes pruned for max_nodes={graph.settings['max_nodes']}"
        return text


@checked
def attribute(
    prompt: Prompt,
    target: Target | str,
    *,
    share: float = 0.8,
    max_nodes: int = 500,
    heads: Heads = "paths",
    by: By = "slope",
    norms: Frozen = "followed",
    attention: Frozen = "held",
    interactions: Interactions = "grouped",
    progress: bool = False,
) -> Attribution:
    """Trace the value of `target` on a prompt down to tokens.

    `open_prompt` measures the prompt and takes the dictionaries. Where there is none, an MLP's output is
    followed along the directions that are read, and its input by eigenvectors. heads="paths" sums over all
    ways through attention; heads="nodes" makes a node of each head and pair of positions for each of its
    readers. For a prompt with a tokenizer the target may be the text of a token, or "A - B, C" for the logit
    of A against the mean of others; nodes are then labelled.

    Each edge has a weight, with attention patterns and scales of norms held: weights add up to the value. And
    it has a slope, the derivative of the value by its source times the source. With norms="followed" it goes
    through every norm between the two. With attention="followed" the scores that move a value by way of the
    softmax are nodes, above what moves them, with slopes alone: those of the largest slopes of the target, at
    most one for eight nodes. "held" leaves either out of the edges' slopes.

    Of the interactions of features at an output, the strongest can be nodes: those that have a twentieth of
    all that the inputs add there, and of these at least as many as make an eighth of the nodes. With
    interactions="grouped" the others, and those for which there is no room, are half in the edge of either
    input (`Edge.grouped`; `open_interactions` lists them), which follows far more of the target with as many
    nodes. With "pairs" each is a node or pruned, and a graph chosen by weight is the polynomial that the
    model is with norms and attention held.

    A node that writes to the stream or to an MLP, and a score, has a slope of the target too, by one backward
    pass of the model with everything free, whatever the edges follow; what they carry of it is
    `analysis.carried`.

    Each node keeps the fewest contributions that sum to `share` of the absolute contributions to it, by slope
    or by weight as `by` says, and the graph keeps at most `max_nodes` nodes, the target counted. It first
    grows to twice as many: each layer may add an equal part of them and passes on what it leaves. Then the
    nodes weakest by `Graph.shares` go. The rest is in `pruned`.

    Memory grows with the number of active features, not of all, and with the length n of the prompt, not its
    square: above model and dictionaries it takes twelve numbers for each of n · n_layers · d_model, what one
    block computes, three times the logits, and pieces of at most `bilinear_lm.numerics.memory.CHUNK_BYTES`.
    Only attention="followed" takes n² numbers, some ten times: it looks at one head after the other.

    >>> model, tokenizer = load_pretrained("stories"), load_tokenizer("stories")  # doctest: +SKIP
    >>> scope = [load_dictionary(f"stories-scope/{layer}-{point}")  # doctest: +SKIP
    ...          for layer in range(4) for point in ("mlp-in", "mlp-out")]
    >>> prompt = open_prompt(model, "Her mom gave her a big", scope, tokenizer=tokenizer)  # doctest: +SKIP
    >>> graph = attribute(prompt, " hug").graph  # doctest: +SKIP
    >>> [edge.source for edge in graph.into(graph.target)[:2]]  # doctest: +SKIP

    Raises InputError for settings out of range, and for a target that does not exist.
    """
    if not isinstance(prompt, Prompt):
        raise InputError(
            f"prompt: got a {type(prompt).__name__}; expected what open_prompt(model, prompt, …) gives"
        )
    target = as_target(target, prompt.vocabulary, "open the prompt with tokenizer=")
    require_number(share, f"share={share}", "more than 0, up to 1", least=sys.float_info.min, most=1)
    require_count(max_nodes, f"max_nodes={max_nodes}", "at least 1, the target")
    require_choice(heads, get_args(Heads), "heads")
    require_choice(by, get_args(By), "by")
    require_choice(norms, get_args(Frozen), "norms")
    require_choice(attention, get_args(Frozen), "attention")
    require_choice(interactions, get_args(Interactions), "interactions")
    opened = prompt
    if norms == "held":
        prompt = prompt.holding_norms()
    settings: dict[str, Any] = {
        "target": _described(target),
        "dictionaries": sorted(map(str, prompt.sites)),
        "share": share,
        "max_nodes": max_nodes,
        "heads": heads,
        "by": by,
        "norms": "held" if prompt.norms_held else "followed",
        "attention": attention,
        "interactions": interactions,
        "dtype": str(prompt.like.dtype).removeprefix("torch."),
        "versions": versions(),
    }
    source = read_target(prompt, target)
    gradients = target_gradients(opened, target)
    n_scores = max(1, max_nodes // _PER_SCORE)
    limits = Limits(
        share,
        _ROOM * max_nodes,
        sys.maxsize if heads == "nodes" else 0,
        by,
        None if attention == "held" else strongest_scores(opened, gradients, n_scores),
        interactions == "grouped",
    )
    catalogue, stages = Catalogue(), _stages(prompt, target, limits)
    split = _splitting(prompt, limits, catalogue)
    grown = grow(source, stages, split, limits.at_most, catalogue, progress=progress)
    if isinstance(target, LogitTarget):
        settings["probability"] = float(prompt.measured.logits[target.position].softmax(0)[target.token])
    columns = _strongest_part(grown.columns, max_nodes, by, limits.grouped)
    settings["left_out"] = left_out = grown.left_out + len(grown.columns.nodes) - len(columns.nodes)
    writes = {node: grown.writes[node] for node in columns.ids if node in grown.writes}
    graph = Graph(
        nodes=_with_slopes(columns.nodes, source.node, opened, gradients, writes),
        edges=columns.edges.listed(columns.ids),
        target=source.node.id,
        model=prompt.model,
        tokens=tuple(prompt.measured.ids.tolist()),
        settings=settings,
        pruned=columns.listed_pruned(),
    )
    if prompt.vocabulary is not None:
        graph = labelled(graph, prompt.vocabulary)
    readers = {
        node: reader
        for node, reader in grown.readers.items()
        if isinstance(reader, Quadratic) and node in graph
    }
    return Attribution(graph, target, opened, left_out, writes, readers)


def _strongest_part(whole: GraphColumns, max_nodes: int, by: By, grouped: bool) -> GraphColumns:
    """The graph with its strongest nodes; where interactions are grouped, one in `_PER_INTERACTION` is an
    interaction if there are so many.

    Grouped in the edges of its inputs an interaction is lost to nobody but the reader, and beside features
    few have a share that would bring them in.
    """
    shares = node_shares(whole, parts_on_prompt(whole, by))

    def strongest(n: int) -> Part:
        return part_of(whole, strongest_nodes(whole, shares, n), grouped)

    if not grouped:
        return strongest(max_nodes).columns
    part = strongest(max_nodes - max_nodes // _PER_INTERACTION)
    n_kept, edges = int(part.kept.sum()), whole.edges
    # Interactions all of whose ends are kept, strongest first.
    between = whole.is_interaction.copy()
    between[edges.targets[~part.kept[edges.sources]]] = False
    between[edges.sources[~part.kept[edges.targets]]] = False
    added = np.flatnonzero(between)
    added = added[np.argsort(-shares[added], kind="stable")][: max_nodes - n_kept]
    if n_kept + len(added) < max_nodes:
        part = strongest(max_nodes - len(added))
    together = part.kept.copy()
    together[added] = True
    return part_of(whole, together, grouped).columns


def _with_slopes(
    nodes: Sequence[Node],
    target: Node,
    prompt: Prompt,
    gradients: Mapping[Site, Tensor],
    writes: Mapping[str, Write],
) -> tuple[Node, ...]:
    """Nodes with the slope of each that writes, and of scores; that of the target is its value."""
    of_nodes = slopes(prompt, gradients, writes, [node for node in nodes if node.kind == "score"])
    of_nodes[target.id] = target.value or 0.0
    return tuple(replace(node, slope=of_nodes.get(node.id)) for node in nodes)


def _stages(prompt: Prompt, target: Target, limits: Limits) -> Iterator[Stage]:
    """The stages that nodes can be at, from the last layer down."""
    steps = ["out", "pairs", "in"]
    if isinstance(target, ScoreTarget):
        yield stage(target.layer, "score")
    if isinstance(target, ScoreTarget) or limits.heads_in_a_row:
        steps.append("head")
    if limits.scores is not None:
        steps.append("attention")
    for layer in reversed(range(prompt.n_layers)):
        yield from (stage(layer, step) for step in steps)
    yield BOTTOM


def _splitting(prompt: Prompt, limits: Limits, catalogue: Catalogue) -> Split:
    """Splits the nodes of a stage together, those that read an MLP by position."""

    def split(opened: Sequence[Opened]) -> Iterator[tuple[Sequence[Opened], Iterable[Group]]]:
        linear = [(one, one.reader) for one in opened if isinstance(one.reader, Linear | Spread)]
        quadratic = [(one, one.reader) for one in opened if isinstance(one.reader, Quadratic)]
        quadratic.sort(key=lambda pair: pair[1].position)
        streams = split_stream(prompt, [(one.node, reader) for one, reader in linear], limits, catalogue)
        mlps = split_mlp(prompt, [(one.node, reader) for one, reader in quadratic], limits, catalogue)
        for readers, groups in ((linear, streams), (quadratic, mlps)):
            left = iter(readers)
            for group in groups:
                yield [one for one, _ in islice(left, len(group.pruned))], [group]
        for one in opened:
            if isinstance(one.reader, Score):
                yield [one], [split_score(prompt, one.reader, limits, catalogue)]

    return split


def _described(target: Target) -> dict[str, Any]:
    """A target as JSON can hold it; a direction is given by its width alone."""
    described: dict[str, Any] = {"kind": type(target).__name__}
    for name, value in vars(target).items():
        if isinstance(value, Tensor):
            value = f"{len(value)} numbers"
        if isinstance(value, Site):
            value = str(value)
        described[name] = list(value) if isinstance(value, tuple) else value
    return described
