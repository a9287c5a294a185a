"""A graph in a few lines: its target, its strongest nodes and paths, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.graphs.effects import effects
from analysis.graphs.elements import By, Kind, Node
from analysis.graphs.graph import Graph
from analysis.graphs.shares import variance_carried
from analysis.text.vocabulary import visible
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count

_N_NODES, _N_PAIRS, _N_PATHS = 8, 6, 5

_WIDTH = 46


@dataclass(frozen=True)
class GraphPath:
    """A way down from the target."""

    nodes: tuple[str, ...]
    """From the target on."""
    share: float
    """The product of the parts of its steps."""


@checked
def strongest_paths(graph: Graph, k: int = 5, ends: Sequence[Kind] = ("token",)) -> tuple[GraphPath, ...]:
    """The k ways from the target down to nodes of the kinds `ends` with the largest shares, strongest first.

    `Graph.parts` says what a step has; `Graph.shares` adds up all ways through a node.
    """
    require_count(k, f"k={k} paths")
    below: dict[str, list[GraphPath]] = {}
    for name in graph.order:
        paths = [
            GraphPath((name, *path.nodes), graph.parts[edge] * path.share)
            for edge in graph.into(name)
            for path in below[edge.source]
        ]
        paths.sort(key=lambda path: -path.share)
        below[name] = [GraphPath((name,), 1.0)] if graph.node(name).kind in ends else paths[:k]
    return tuple(path for path in below[graph.target] if path.share > 0)


@checked
def summary(graph: Graph) -> str:
    """Target, strongest nodes, interactions and paths, and what was pruned, as lines of text.

    On a prompt nodes are shown with their effect, the first-order change of the target with them
    (`effects`); by weights alone with their share (`Graph.shares`), without biases.
    """
    on_prompt = graph.on_prompt
    by: By = "slope" if graph.has_slopes else "weight"
    measure = effects(graph, by) if on_prompt else graph.shares()
    skipped = ["interaction"] if on_prompt else ["interaction", "bias"]
    others = [node for node in graph.nodes if node.kind not in skipped and node.id != graph.target]
    parts = [_title(graph)]
    for title, nodes, n in (
        ("strongest nodes", others, _N_NODES),
        ("strongest interactions", list(graph.of_kind("interaction")), _N_PAIRS),
    ):
        nodes = sorted(nodes, key=lambda node: -abs(measure[node.id]))[:n]
        if nodes:
            rows = [f"  {_number(measure[node.id], on_prompt)}  {describe(graph, node)}" for node in nodes]
            parts.append("\n".join([f"{title}, by {'effect' if on_prompt else 'share'}", *rows]))
    paths = [
        f"  {_percent(path.share)}  {'  <-  '.join(_steps(graph, path))}"
        for path in strongest_paths(graph, _N_PATHS)
        if len(path.nodes) > 1
    ]
    if paths:
        parts.append("\n".join(["strongest paths to tokens, by share", *paths]))
    return "\n".join([*parts, _left(graph)])


@checked
def describe(graph: Graph, node: Node) -> str:
    """A node in a line: what it is called, what it is, and at which token."""
    where = ""
    if node.position is not None and graph.texts is not None:
        where = f"  at {_cut(visible(graph.texts[node.position]), 20)}"
    label = _cut(_label(graph, node), _WIDTH)
    return f"{label}  [{_short_id(node)}]{where}" if label else f"[{_short_id(node)}]{where}"


def _label(graph: Graph, node: Node) -> str:
    """The label; of the interaction of an input with itself, that of the input, squared."""
    edges = graph.into(node.id) if node.kind == "interaction" else ()
    return f"({_short(graph.node(edges[0].source))})²" if len(edges) == 1 else node.label


def _title(graph: Graph) -> str:
    target = graph.node(graph.target)
    title = describe(graph, target)
    if target.value is not None:
        title += f" = {target.value:.3f}"
    if "probability" in graph.settings:
        title += f", probability {graph.settings['probability']:.1%}"
    return title if target.value is not None else f"{title}, from weights alone"


def _left(graph: Graph) -> str:
    left = sum(part.count for part in graph.pruned.values())
    lines = [f"{len(graph):,} nodes, {len(graph.edges):,} edges; {left:,} weaker contributions are not shown"]
    if graph.node(graph.target).value is not None:
        names = {"slope": "slopes", "weight": "contributions"}
        each = graph.followed_by_each().items()
        shares = [f"{share:.0%} of the absolute {names[by]}" for by, share in each]
        lines[0] += f"; {' and '.join(shares)} are followed to the end"
    if out := graph.settings.get("left_out"):
        lines.append(
            f"{out:,} more nodes were strong enough and pruned for max_nodes={graph.settings['max_nodes']}"
        )
    if variance := _variance(graph):
        lines.append(f"products shown can carry, of the variance at N(0, I): {variance}")
    for kind, numbers in graph.settings.get("check", {}).items():
        lines.append(f"checked in the model, {_checked(kind, numbers)}")
    return "\n".join(lines)


def _variance(graph: Graph) -> str:
    carried = sorted(variance_carried(graph).items(), reverse=True)
    return ", ".join(f"{mean:.1%} in layer {layer}" for layer, mean in carried)


def _checked(kind: str, numbers: dict[str, Any]) -> str:
    """The effect of taking nodes of a kind away in the model, beside what was predicted."""
    free, held, random = (
        " and ".join(
            f"{name} {value:.2f}"
            for name, value in (("r", numbers[f"{of}_correlation"]), ("size", numbers[f"{of}_size"]))
            if value is not None
        )
        or "no r"
        for of in ("free", "held", "random")
    )
    plural = "s" if numbers["n"] != 1 else ""
    return f"{numbers['n']} {kind}{plural} taken away: {free}; held {held}; random ones instead {random}"


def _steps(graph: Graph, path: GraphPath) -> list[str]:
    """The nodes on a path, without the squares between eigenvectors and the nodes that they add to."""
    nodes = [graph.node(name) for name in path.nodes[1:]]
    return [_short(node) for node in nodes if node.kind != "interaction" or len(graph.into(node.id)) > 1]


def _short(node: Node) -> str:
    """A node in a word or two, beside others of its path."""
    if node.label:
        return _cut(node.label, 28)
    if node.kind == "eigenvector":
        return f"eigenvector {node.index} of MLP {node.layer}"
    return f"MLP {node.layer}" if node.kind == "direction" else _short_id(node)


def _short_id(node: Node) -> str:
    """The id up to what reads the node, which the edges tell."""
    return _cut(node.id.split(" > ")[0], _WIDTH)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _number(value: float, is_signed: bool) -> str:
    return f"{value:>+8.3f}" if is_signed else _percent(value)


def _percent(value: float) -> str:
    return f"{100 * value:>7.2g}%"
