"""Graphs on disk: one JSON file, with the number of its format."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

from analysis.graphs.elements import Edge, Kind, Node, Pruned
from analysis.graphs.graph import Graph
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, write_text

FORMAT = "bilinear-lm graph"

VERSION = 3
"""Version 1 had no slopes: nodes without `slope`, edges and pruned of three entries. Version 2 had no grouped
interactions: edges of four entries. Both are still read."""

_GRAPH_KEYS = ["format", "version", *(field.name for field in fields(Graph))]

_NODE_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "kind": (str,),
    "layer": (int,),
    "position": (int,),
    "index": (int,),
    "site": (str,),
    "key": (int,),
    "label": (str,),
    "value": (int, float),
    "slope": (int, float),
}


@checked
def save_graph(graph: Graph, path: Path | str) -> None:
    """Writes a graph as JSON, whole or not at all.

    An object with `format`, `version` and the fields of `Graph`: nodes as objects without the fields that
    they have no entry for, edges as [source, target, weight, slope, grouped] (without slope where there is
    none, and without grouped where it is 0), and pruned as
    {id: [signed, absolute, count, slope, absolute_slope]}.
    """
    write_text(Path(path), as_text(graph, Path(path)))


def as_text(graph: Graph, path: Path) -> str:
    """The text of a graph's file; `path` is what an InputError is about."""
    nodes = [
        {
            field.name: value
            for field in fields(Node)
            if (value := getattr(node, field.name)) != field.default or field.default is MISSING
        }
        for node in graph.nodes
    ]
    value = {
        "format": FORMAT,
        "version": VERSION,
        "target": graph.target,
        "model": graph.model,
        "tokens": graph.tokens,
        "texts": graph.texts,
        "settings": dict(graph.settings),
        "nodes": nodes,
        "edges": [_listed(edge) for edge in graph.edges],
        "pruned": {
            node: [part.signed, part.absolute, part.count, part.slope, part.absolute_slope]
            for node, part in graph.pruned.items()
        },
    }
    return graph_json(value, path)


def graph_json(value: dict[str, Any], path: Path) -> str:
    """A graph's object as JSON; InputError, which names the file it is for, for what JSON does not have."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a graph that JSON cannot hold ({error}); expected finite numbers, and settings of "
            "numbers, texts, lists and objects"
        ) from error


@checked
def load_graph(path: Path | str) -> Graph:
    """The graph in a file that `save_graph` wrote; a file with anything else in it is refused.

    Files of version 1 have no slopes, and those of version 2 no grouped interactions.
    """
    return from_object(read_json(Path(path)), Path(path))


def from_object(value: dict[str, Any], path: Path) -> Graph:
    """The graph in the object that a file holds."""
    if value.get("format") != FORMAT or value.get("version") not in range(1, VERSION + 1):
        raise InputError(
            f"{path}: format {value.get('format')!r}, version {value.get('version')!r}; expected "
            f"{FORMAT!r}, version 1 to {VERSION}, as save_graph writes it"
        )
    if sorted(value) != sorted(_GRAPH_KEYS):
        odd = sorted(set(value) ^ set(_GRAPH_KEYS))
        raise InputError(f"{path}: keys {', '.join(odd)} are unknown or missing; expected those of a graph")
    try:
        return Graph(
            nodes=tuple(_node(entry) for entry in _list(value["nodes"], "nodes")),
            edges=tuple(_edge(entry) for entry in _list(value["edges"], "edges")),
            target=_typed(value["target"], (str,), "target"),
            model=None if value["model"] is None else _typed(value["model"], (str,), "model"),
            tokens=_row(value["tokens"], int, "tokens"),
            texts=_row(value["texts"], str, "texts"),
            settings=_typed(value["settings"], (dict,), "settings"),
            pruned={node: _pruned(part) for node, part in _typed(value["pruned"], (dict,), "pruned").items()},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _node(entry: Any) -> Node:
    _typed(entry, (dict,), "a node")
    if unknown := entry.keys() - _NODE_TYPES.keys():
        raise InputError(f"a node has unknown keys {', '.join(sorted(unknown))}; expected fields of Node")
    if not {"id", "kind"} <= entry.keys() or entry["kind"] not in get_args(Kind):
        raise InputError(f"a node {entry!r}; expected an id and a kind of {', '.join(get_args(Kind))}")
    for name, value in entry.items():
        _typed(value, _NODE_TYPES[name], f"{name} of node {entry['id']!r}")
    numbers = {name: float(entry[name]) for name in ("value", "slope") if name in entry}
    return Node(**entry | numbers)


def _listed(edge: Edge) -> list[Any]:
    numbers = [edge.weight, *([] if edge.slope is None else [edge.slope])]
    return [edge.source, edge.target, *numbers, *([edge.grouped] if edge.grouped else [])]


def _edge(entry: Any) -> Edge:
    if not isinstance(entry, list) or len(entry) not in (3, 4, 5):
        raise InputError(
            f"an edge {entry!r}; expected [source, target, weight], and its slope and what of the weight is "
            "grouped interactions where it has them"
        )
    source, target = (_typed(end, (str,), "an edge") for end in entry[:2])
    return Edge(source, target, *map(_number, entry[2:]))


def _pruned(entry: Any) -> Pruned:
    if not isinstance(entry, list) or len(entry) not in (3, 5):
        raise InputError(
            f"an entry {entry!r} of pruned; expected [signed, absolute, count], or two numbers more: slope, "
            "absolute_slope"
        )
    signed, absolute, count, *slopes = entry
    count = _typed(count, (int,), "count of pruned")
    return Pruned(_number(signed), _number(absolute), count, *map(_number, slopes))


def _number(value: Any) -> float:
    return float(_typed(value, (int, float), "a weight"))


def _row(value: Any, kind: type, name: str) -> tuple[Any, ...] | None:
    return None if value is None else tuple(_typed(entry, (kind,), name) for entry in _list(value, name))


def _list(value: Any, name: str) -> list[Any]:
    return _typed(value, (list,), name)


def _typed(value: Any, kinds: tuple[type, ...], name: str) -> Any:
    """The value, checked to be of one of these kinds, and finite; True and False are no numbers."""
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if wrong or (isinstance(value, float) and not math.isfinite(value)):
        expected = "a finite number" if float in kinds else kinds[0].__name__
        raise InputError(f"{name} of a graph is {value!r}; expected {expected}")
    return value
