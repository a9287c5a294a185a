"""A user's view of a graph: nodes chosen, pinned, hidden, grouped and written about; and its file.

The page of a graph writes and reads the same file. It belongs to one graph: the one of its target on its
prompt that has the nodes it names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.graphs.graph import Graph
from analysis.text.vocabulary import visible
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_number
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json, write_text

FORMAT = "bilinear-lm graph view"

VERSION = 1

_KEYS = ["chosen", "format", "hidden", "least", "notes", "pinned", "supernodes", "target", "texts", "version"]


@dataclass(frozen=True)
class Supernode:
    """Nodes that are shown as one; the weights of its edges are the sums of theirs."""

    name: str
    nodes: tuple[str, ...]
    is_open: bool = False
    """Whether its nodes are shown instead."""

    @property
    def id(self) -> str:
        """The name by which a view chooses, pins, hides and notes it."""
        return f"supernode {self.name}"


@dataclass(frozen=True)
class GraphView:
    """A view of a graph; nodes by their ids, supernodes by `Supernode.id`."""

    target: str
    texts: tuple[str, ...] | None = None
    """The prompt, token by token, as the page shows it; None for a graph of weights alone."""
    chosen: str | None = None
    """The node whose details are shown; None: the target."""
    pinned: tuple[str, ...] = ()
    """Nodes that are shown whatever their share."""
    hidden: tuple[str, ...] = ()
    least: float = 0.0
    """Nodes of a smaller share are left out."""
    supernodes: tuple[Supernode, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    """Remarks about nodes."""

    @classmethod
    def of(cls, graph: Graph, **parts: Any) -> GraphView:
        """A view of a graph, checked; `parts` are fields of the view.

        >>> GraphView.of(graph, supernodes=supernodes(graph), pinned=("token 5 @1",))  # doctest: +SKIP
        """
        view = cls(graph.target, shown_texts(graph), **parts)
        view.check(graph)
        return view

    def check(self, graph: Graph) -> None:
        """Raises InputError unless this is a view of the graph: its target, its prompt, and nodes of it.

        A node is in one supernode at most, and the target in none; names of supernodes differ.
        """
        if self.target != graph.target or self.texts != shown_texts(graph):
            raise InputError(
                f"a view of {_told(self.target, self.texts)} for the graph of "
                f"{_told(graph.target, shown_texts(graph))}; expected one of the same target and prompt"
            )
        members = [node for group in self.supernodes for node in group.nodes]
        known = {node.id for node in graph.nodes}
        ours = known | {group.id for group in self.supernodes}
        chosen = () if self.chosen is None else (self.chosen,)
        named = [*chosen, *self.pinned, *self.hidden, *self.notes]
        unknown = [node for node in members if node not in known] + [
            node for node in named if node not in ours
        ]
        if unknown:
            raise InputError(
                f"a view names {unknown[0]!r}, which the graph does not have ({len(set(unknown))} in all); "
                "expected nodes of this graph: it may have been traced again with other settings"
            )
        if doubled := _doubled(members):
            raise InputError(f"node {doubled!r} is in two supernodes; expected one at most")
        if graph.target in members:
            raise InputError("the target of a graph is in a supernode; expected it on its own")
        if doubled := _doubled(group.name for group in self.supernodes):
            raise InputError(f"two supernodes are called {doubled!r}; expected names of their own")
        if empty := [group.name for group in self.supernodes if not group.nodes or not group.name.strip()]:
            raise InputError(f"supernode {empty[0]!r} has no nodes or no name; expected both")
        require_number(self.least, f"least={self.least} of a view", "0 to 1", least=0, most=1)

    def supernode_of(self, node: str) -> Supernode | None:
        """The supernode that has a node."""
        return next((group for group in self.supernodes if node in group.nodes), None)


def shown_texts(graph: Graph) -> tuple[str, ...] | None:
    """The tokens of a graph's prompt as pages show them."""
    return None if graph.texts is None else tuple(visible(text, keep=" ") for text in graph.texts)


@checked
def save_view(view: GraphView, path: Path | str) -> None:
    """Writes a view as JSON, whole or not at all; the page of the graph opens it.

    An object with `format`, `version` and the fields of `GraphView`, supernodes as objects of `name`, `nodes`
    and `open`.
    """
    value = {
        "format": FORMAT,
        "version": VERSION,
        "target": view.target,
        "texts": view.texts,
        "chosen": view.chosen,
        "pinned": view.pinned,
        "hidden": view.hidden,
        "least": view.least,
        "supernodes": [
            {"name": group.name, "nodes": group.nodes, "open": group.is_open} for group in view.supernodes
        ],
        "notes": dict(view.notes),
    }
    write_text(Path(path), json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n")


@checked
def load_view(path: Path | str, graph: Graph) -> GraphView:
    """The view in a file that `save_view` or the page wrote; InputError where it is not one of the graph.

    >>> save_circuit_tracer(graph, "hug.json", view=load_view("view.json", graph))  # doctest: +SKIP
    """
    path = Path(path)
    value = read_json(path)
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        raise InputError(
            f"{path}: format {value.get('format')!r}, version {value.get('version')!r}; expected {FORMAT!r}, "
            f"version {VERSION}, as the page of a graph or save_view writes it"
        )
    if sorted(value) != _KEYS:
        odd = sorted(set(value) ^ set(_KEYS))
        raise InputError(f"{path}: keys {', '.join(odd)} are unknown or missing; expected those of a view")
    try:
        view = _view(value)
        view.check(graph)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return view


def _view(value: dict[str, Any]) -> GraphView:
    notes, least = value["notes"], value["least"]
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise InputError("notes of a view; expected an object of texts, by node")
    if isinstance(least, bool) or not isinstance(least, int | float):
        raise InputError(f"least of a view is {least!r}; expected a number")
    if not isinstance(value["supernodes"], list):
        raise InputError("supernodes of a view; expected a list")
    return GraphView(
        target=_text(value["target"], "target"),
        texts=None if value["texts"] is None else _texts(value["texts"], "texts"),
        chosen=None if value["chosen"] is None else _text(value["chosen"], "chosen"),
        pinned=_texts(value["pinned"], "pinned"),
        hidden=_texts(value["hidden"], "hidden"),
        least=float(least),
        supernodes=tuple(map(_supernode, value["supernodes"])),
        notes=notes,
    )


def _supernode(entry: Any) -> Supernode:
    if (
        not isinstance(entry, dict)
        or entry.keys() != {"name", "nodes", "open"}
        or not isinstance(entry["open"], bool)
    ):
        raise InputError(f"a supernode {entry!r}; expected an object of name, nodes and open")
    return Supernode(
        _text(entry["name"], "a supernode's name"), _texts(entry["nodes"], "nodes"), entry["open"]
    )


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InputError(f"{name} of a view is {value!r}; expected a list of texts")
    return tuple(_text(entry, name) for entry in value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} of a view has {value!r}; expected a text")
    return value


def _told(target: str, texts: tuple[str, ...] | None) -> str:
    return f"{target!r} " + ("by weights alone" if texts is None else f"on “{''.join(texts).strip()}”")


def _doubled(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
