"""The section of the page about graphs, and a page of it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from string import Template
from typing import Any, get_args

from analysis.graphs.elements import By, Node
from analysis.graphs.graph import Graph
from analysis.graphs.groups import GroupRule, supernodes
from analysis.graphs.shares import ends, variance_carried
from analysis.graphs.view import shown_texts
from analysis.report.document import BASE_SCRIPTS, document, page_file, script_json
from analysis.report.graphs_words import ON_PROMPT, SCRIPTS, STATIC, STYLES
from analysis.report.html import rounded
from analysis.text.vocabulary import visible


def graphs_section(graphs: Sequence[Graph]) -> str:
    """The section, with a picture that the scripts draw, and the data; without graphs it waits for some."""
    kinds = (
        (ON_PROMPT, [graph.on_prompt for graph in graphs]),
        (STATIC, [not graph.on_prompt for graph in graphs]),
    )
    about = " ".join(text for text, there in kinds if any(there) or not graphs)
    return Template(page_file("graphs/section.html")).substitute(about=about, data=graphs_json(graphs))


def graphs_page(graphs: Sequence[Graph], name: str) -> str:
    """A self-contained page about graphs of a model that is called `name`."""
    header = (
        '<header id="model"><p class="kicker">A bilinear language model, followed to what it is made of</p>'
        f"<h1>What {escape(name)} computes</h1></header>"
    )
    return document(
        title=f"Graphs of {name}",
        nav='<ul><li><a href="#circuits">Graphs</a></li></ul>',
        main=header + graphs_section(graphs),
        styles=("page.css", *STYLES),
        scripts=(*BASE_SCRIPTS, *SCRIPTS),
        plotly=False,
    )


_COLUMNS = ("id", "kind", "layer", "position", "index", "site", "label")


def graphs_json(graphs: Sequence[Graph]) -> str:
    """Graphs as JSON that can stand in a script element.

    Each graph has its nodes by column, and its edges as source, target, weight, part (`Graph.parts`), slope
    and grouped in turn, where nodes are given by their index.
    """
    return script_json([packed(graph) for graph in graphs])


def graph_name(graph: Graph) -> str:
    """A graph in a few words: its target, and on which prompt it is."""
    target = graph.node(graph.target)
    name = f"{target.label} ({target.id})" if target.label else target.id
    if target.kind == "logit" and target.label:
        name, _ = _apart(target.label)
    if not graph.on_prompt:
        return f"{name}, from weights alone"
    if graph.texts is None:
        return f"{name} on a prompt of {len(graph.tokens or ())} tokens"
    position = target.position or 0
    words = "".join(graph.texts[max(0, position - 5) : position + 1])
    return f"{name} on “…{visible(words, keep=' ').strip()}”"


def packed(graph: Graph) -> dict[str, Any]:
    """A graph as the page reads it: one object that JSON can hold, for `graphs.add` of its scripts.

    Numbers have four significant digits. Nodes come by column, and `edges` as `graphs_json` says. `answer` is
    the target in words with its probability; `ends` the part of the target that ends at nodes of each kind
    (`analysis.graphs.shares.ends`); `check` the agreement by kind and `checked` each node's own changes
    (`analysis.causal_check`); `variance` what stands in for them by weights alone; `groups` the supernodes
    that each rule finds (`analysis.supernodes`), nodes by their index.
    """
    shares = graph.shares()
    indices = {node.id: index for index, node in enumerate(graph.nodes)}
    rows = [asdict(node) for node in graph.nodes]
    edges: list[int | float | None] = []
    for edge in graph.edges:
        edges += [indices[edge.source], indices[edge.target]]
        edges += [_short(edge.weight), _short(graph.parts[edge]), _short_or_none(edge.slope)]
        edges += [_short(edge.grouped)]
    return {
        "name": graph_name(graph),
        "target": indices[graph.target],
        "texts": shown_texts(graph),
        "probability": graph.settings.get("probability"),
        "answer": _answer(graph),
        **{column: [row[column] for row in rows] for column in _COLUMNS},
        "by": graph.by,
        "followed": _followed(graph),
        "ends": {kind: _short(share) for kind, share in ends(graph).items()} if graph.on_prompt else None,
        "check": _check(graph),
        "checked": _checked(graph, indices),
        "variance": [[layer, _short(part)] for layer, part in sorted(variance_carried(graph).items())],
        "carried": {indices[node]: _short(part) for node, part in graph.settings.get("variance", {}).items()},
        "groups": {
            rule: [[group.name, [indices[node] for node in group.nodes]] for group in supernodes(graph, rule)]
            for rule in get_args(GroupRule)
        },
        "value": [_short_or_none(node.value) for node in graph.nodes],
        "slope": [_short_or_none(node.slope) for node in graph.nodes],
        "strength": [_short(shares[node.id]) for node in graph.nodes],
        "left": [_left(graph, node) for node in graph.nodes],
        "edges": edges,
    }


def _answer(graph: Graph) -> list[Any] | None:
    """The target on a prompt: what it is called, what it is against, and its probability if it has one."""
    if not graph.on_prompt:
        return None
    target = graph.node(graph.target)
    own, against = _apart(target.text) if target.kind == "logit" else (target.text, "")
    return [own, against, _short_or_none(graph.settings.get("probability"))]


def _apart(logit: str) -> tuple[str, str]:
    """The token of a logit and those that it is against, of its label."""
    # Blanks of tokens are signs in labels, so that this one is between two lists of them.
    own, _, against = logit.partition(" - ")
    return own, against


def _followed(graph: Graph) -> dict[By, int | float]:
    """The part of slopes and of contributions that is followed to the end; of squares by weights alone."""
    if not graph.on_prompt:
        return {"weight": _short(graph.shown)}
    return {by: _short(share) for by, share in graph.followed_by_each().items()}


def _checked(graph: Graph, indices: Mapping[str, int]) -> list[list[Any]]:
    """Each checked node and the changes without it: predicted, measured, both held, and by random nodes."""
    columns = ("predicted", "free", "predicted_held", "held")
    return [
        [
            indices[node],
            *(_short(changes[column]) for column in columns),
            *(list(map(_short, changes[column])) for column in ("random_free", "random_held")),
        ]
        for node, changes in graph.settings.get("checked", {}).items()
        if node in indices
    ]


def _check(graph: Graph) -> list[list[Any]] | None:
    """The check in the model (`CausalCheck.summary`): a row a kind of node."""
    if "check" not in graph.settings:
        return None
    columns = ("free_correlation", "free_size", "held_correlation", "held_size", "random_correlation")
    return [
        [kind, numbers["n"], *(_short_or_none(numbers[column]) for column in (*columns, "strength"))]
        for kind, numbers in graph.settings["check"].items()
    ]


def _left(graph: Graph, node: Node) -> list[int | float] | None:
    """Contributions to a node that are not shown: sum, sum of magnitudes, number; and the sums of slopes."""
    pruned = graph.pruned.get(node.id)
    if pruned is None or not pruned.count:
        return None
    slopes = [_short(pruned.slope), _short(pruned.absolute_slope)] if graph.has_slopes else []
    return [_short(pruned.signed), _short(pruned.absolute), pruned.count, *slopes]


def _short_or_none(value: float | None) -> int | float | None:
    return None if value is None else _short(value)


def _short(value: float) -> int | float:
    """Four significant digits."""
    return rounded(value, 4)
