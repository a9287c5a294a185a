"""The section of the page about graphs, and a page of it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from string import Template
from typing import Any

from analysis.graphs.elements import By, Node
from analysis.graphs.graph import Graph
from analysis.report.html import BASE_SCRIPTS, document, page_file, rounded, script_json
from analysis.text.vocabulary import visible

SCRIPTS = (
    "graphs/data.js",
    "graphs/layout.js",
    "graphs/drawing.js",
    "graphs/node.js",
    "graphs/prompt.js",
    "graphs/main.js",
)
"""In the order in which they build on each other, behind `BASE_SCRIPTS`."""

STYLES = ("features/style.css", "graphs/style.css")

_ON_PROMPT = (
    "On a prompt, with attention and the sizes of inner states held at what they are there, contributions "
    "to a number add up to it exactly: the <em>weight</em> of an edge. What happens when a node changes is "
    "its <em>slope</em>, in which those sizes are free: how much more there would be of the number with "
    "twice as much of the node, in proportion. Weak products are in the edges of their inputs, half in "
    "either. What dictionaries miss are <em>errors</em>, which are not followed."
)

_STATIC = "From weights alone, without a prompt, edges are coefficients: what the inputs are multiplied by."


def graphs_section(graphs: Sequence[Graph]) -> str:
    """The section, with a picture that the scripts draw, and the data."""
    kinds = (
        (_ON_PROMPT, [graph.on_prompt for graph in graphs]),
        (_STATIC, [not graph.on_prompt for graph in graphs]),
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
    return script_json([_packed(graph) for graph in graphs])


def graph_name(graph: Graph) -> str:
    """A graph in a few words: its target, and on which prompt it is."""
    target = graph.node(graph.target)
    name = f"{target.label} ({target.id})" if target.label else target.id
    if not graph.on_prompt:
        return f"{name}, from weights alone"
    if graph.texts is None:
        return f"{name} on a prompt of {len(graph.tokens or ())} tokens"
    position = target.position or 0
    words = "".join(graph.texts[max(0, position - 5) : position + 1])
    return f"{name} on “…{visible(words, keep=' ').strip()}”"


def _packed(graph: Graph) -> dict[str, Any]:
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
        "texts": None if graph.texts is None else [visible(text, keep=" ") for text in graph.texts],
        "probability": graph.settings.get("probability"),
        **{column: [row[column] for row in rows] for column in _COLUMNS},
        "by": graph.by,
        "followed": _followed(graph),
        "check": _check(graph),
        "value": [_short_or_none(node.value) for node in graph.nodes],
        "slope": [_short_or_none(node.slope) for node in graph.nodes],
        "strength": [_short(shares[node.id]) for node in graph.nodes],
        "left": [_left(graph, node) for node in graph.nodes],
        "edges": edges,
    }


def _followed(graph: Graph) -> dict[By, int | float] | None:
    """The part of slopes and of contributions that is followed to the end; None by weights alone."""
    if not graph.on_prompt:
        return None
    return {by: _short(share) for by, share in graph.followed_by_each().items()}


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
