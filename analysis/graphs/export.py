"""A `Graph` for other tools: networkx, and the JSON schema of circuit-tracer's frontend and Neuronpedia.

What those two read out of a file of schema version 1:

| field | what it is |
|---|---|
| node_id | layer_number_position, split at the underscores; of an embedding E_token_position |
| feature | of a feature Cantor's pairing of layer l and number n, (l + n)(l + n + 1) / 2 + n |
| | of a logit its token, of an embedding its position, of an error -1 |
| layer | a number as text, "E" for embeddings, one past the last for logits |
| feature_type | embeddings, features, errors and logits are known; others are shown as plain nodes |

The other kinds keep their names as feature types: eigenvector, direction, interaction, head, bias and target.
Their numbers begin behind those of all features and tokens of the graph, so that none reads as a feature.

The format has one set of features a layer, and we have one a site: where two sites of a layer have a feature
of the same number at the same position (or both an error), the layer of the later one is written with a zero
in front. Readers take "02" for the number 2, and keep the two nodes apart.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.graphs.elements import Node
from analysis.graphs.files import graph_json
from analysis.graphs.graph import Graph
from analysis.graphs.view import GraphView
from analysis.text.vocabulary import joined
from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.files import write_text
from bilinear_lm.sites import POINTS, Site

if TYPE_CHECKING:
    import networkx

SCHEMA_VERSION = 1

_FEATURE_TYPES = {
    "token": "embedding",
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
}

_SLUG = re.compile(r"[A-Za-z0-9_-]+")


@checked
def to_networkx(graph: Graph) -> networkx.DiGraph:
    """A networkx.DiGraph: the fields of nodes, and the numbers of edges, as attributes."""
    import networkx

    result = networkx.DiGraph(target=graph.target, model=graph.model)
    for node in graph.nodes:
        result.add_node(node.id, **{name: value for name, value in vars(node).items() if name != "id"})
    for edge in graph.edges:
        result.add_edge(edge.source, edge.target, weight=edge.weight, slope=edge.slope, grouped=edge.grouped)
    return result


@checked
def to_circuit_tracer(
    graph: Graph, slug: str, n_layers: int | None = None, view: GraphView | None = None
) -> dict[str, Any]:
    """The graph as circuit-tracer's JSON object: metadata, qParams, nodes and links.

    `slug` is the name of the file without its ending, by which readers look it up: letters, digits, hyphens
    and underscores. Node ids are `layer_number_position`, as the readers decode them; `clerp` is the label
    or our id, `activation` the value, and `influence` the part of the sum of all shares (`Graph.shares`) but
    the target's that the nodes up to this one have, strongest first: a reader that prunes at 0.8 keeps the
    strongest nodes that have 80% together.

    Nodes without a position (biases) stand at position 0. A graph of weights alone has no prompt: its nodes
    all stand at position 0 beside an empty token. `n_layers` is the row of logits, by default the one above
    the highest layer among the nodes.

    Of a `view` the format has the chosen node, the pinned ones and the supernodes; readers show the
    supernodes of pinned nodes, so that their nodes count as pinned. Its notes are in the metadata, under our
    name. A supernode that was chosen or noted stands for its first node.
    """
    if view is not None:
        view.check(graph)
    if not _SLUG.fullmatch(slug):
        raise InputError(f"slug {slug!r} of a graph; expected letters, digits, hyphens and underscores")
    layers = [node.layer for node in graph.nodes if node.layer is not None]
    top = n_layers if n_layers is not None else max(layers, default=-1) + 1
    texts = list(graph.texts or map(str, graph.tokens or ("",)))
    influence = _cumulative(graph.shares() | {graph.target: 0.0}) | {graph.target: 0.0}
    addresses = _addresses(graph, top)
    nodes = {
        node.id: _node(node, addresses[node.id])
        | {
            "influence": influence[node.id],
            "is_target_logit": node.kind == "logit" and node.id == graph.target,
        }
        for node in graph.nodes
    }
    probability = float(graph.settings.get("probability", 0.0))
    for node in graph.of_kind("logit"):
        # Readers take the probability from this text.
        nodes[node.id] |= {
            "clerp": f'Output "{node.text}" (p={probability:.3f})',
            "token_prob": probability,
        }
    ids = {node: written["node_id"] for node, written in nodes.items()}
    if view is not None:
        ids |= {group.id: ids[group.nodes[0]] for group in view.supernodes}
    return {
        "metadata": {
            "slug": slug,
            "scan": graph.model or "bilinear-lm",
            "transcoder_list": sorted({node.site for node in graph.of_kind("feature") if node.site}),
            "prompt_tokens": texts,
            "prompt": graph.settings.get("prompt", joined(texts)),
            "schema_version": SCHEMA_VERSION,
            **({"bilinear_lm": of_ours} if (of_ours := _faithfulness(graph) | _notes(view, ids)) else {}),
        },
        "qParams": {"linkType": "both", "sg_pos": "", **_chosen(view, ids)},
        "nodes": list(nodes.values()),
        "links": [
            {
                "source": ids[edge.source],
                "target": ids[edge.target],
                "weight": edge.weight,
                **({} if edge.slope is None else {"slope": edge.slope}),
            }
            for edge in graph.edges
        ],
    }


@checked
def save_circuit_tracer(
    graph: Graph,
    path: Path | str,
    slug: str | None = None,
    n_layers: int | None = None,
    view: GraphView | None = None,
) -> None:
    """Writes `to_circuit_tracer` as JSON, whole or not at all; the slug is by default the file's name."""
    path = Path(path)
    value = to_circuit_tracer(graph, file_slug(path) if slug is None else slug, n_layers, view)
    write_text(path, graph_json(value, path))


def file_slug(path: Path) -> str:
    """The slug of a graph in a file: its name without `.json`; InputError where readers cannot look it up."""
    if path.suffix != ".json" or not _SLUG.fullmatch(path.stem):
        named = re.sub(r"[^A-Za-z0-9_]+", "-", path.stem).strip("-") or "trace"
        raise InputError(
            f"{path}: readers of circuit-tracer's format look a graph up by its file's name; expected "
            f"letters, digits, hyphens and underscores, and .json behind them, such as {named}.json"
        )
    return path.stem


class _Address(NamedTuple):
    """Where readers find a node."""

    layer: str
    number: int
    position: int

    @property
    def paired(self) -> int:
        """Cantor's pairing of layer and number."""
        layer = int(self.layer)
        return (layer + self.number) * (layer + self.number + 1) // 2 + self.number


def _faithfulness(graph: Graph) -> dict[str, Any]:
    """How complete a graph on a prompt is, and what the check in the model found."""
    if not graph.on_prompt:
        return {}
    check = graph.settings.get("check")
    return {"followed": graph.followed_by_each(), **({} if check is None else {"check": check})}


def _chosen(view: GraphView | None, ids: dict[str, str]) -> dict[str, Any]:
    """A view as readers have it: nodes by the ids that they have there."""
    if view is None:
        return {"pinnedIds": [], "clickedId": "", "supernodes": []}
    pinned = [ids[node] for node in view.pinned]
    pinned += [ids[node] for group in view.supernodes for node in group.nodes]
    return {
        "pinnedIds": list(dict.fromkeys(pinned)),
        "clickedId": "" if view.chosen is None else ids[view.chosen],
        "supernodes": [[group.name, *(ids[node] for node in group.nodes)] for group in view.supernodes],
    }


def _notes(view: GraphView | None, ids: dict[str, str]) -> dict[str, Any]:
    if view is None or not view.notes:
        return {}
    notes: dict[str, list[str]] = defaultdict(list)
    for node, text in view.notes.items():
        notes[ids[node]].append(text)
    return {"notes": {node: "\n".join(texts) for node, texts in notes.items()}}


def _addresses(graph: Graph, top: int) -> dict[str, _Address]:
    """A layer, number and position for each node that no other has."""
    features_and_tokens = graph.of_kind("feature", "token", "logit")
    free = 1 + max((node.index for node in features_and_tokens if node.index is not None), default=-1)
    taken: Counter[_Address] = Counter()
    addresses = {}
    for index, node in sorted(enumerate(graph.nodes), key=lambda numbered: _point(numbered[1])):
        layer = "E" if node.kind == "token" else str(top if node.kind == "logit" else node.layer or 0)
        address = _Address(layer, _number(node, free + index), node.position or 0)
        addresses[node.id] = address._replace(layer="0" * taken[address] + layer)
        taken[address] += 1
    return addresses


def _point(node: Node) -> int:
    """Where in its block a node is computed."""
    return 0 if node.site is None else POINTS.index(Site.parse(node.site).point)


def _number(node: Node, free: int) -> int:
    if node.kind == "error":
        return -1
    if node.kind in ("feature", "token", "logit") and node.index is not None:
        return node.index
    return free


def _node(node: Node, address: _Address) -> dict[str, Any]:
    layer, number, position = address
    if node.kind == "token":
        feature = number if node.position is None else position
    else:
        feature = number if node.kind in ("logit", "error") else address.paired
    return {
        "node_id": f"{layer}_{number}_{position}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": _FEATURE_TYPES.get(node.kind, node.kind),
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{number}-{position}",
        "clerp": node.text,
        "influence": 0.0,
        "activation": node.value,
        **({} if node.slope is None else {"slope": node.slope}),
    }


def _cumulative(shares: dict[str, float]) -> dict[str, float]:
    order = sorted(shares, key=lambda node: -shares[node])
    sums = list(accumulate(shares[node] for node in order))
    return {node: reached / (sums[-1] or 1.0) for node, reached in zip(order, sums, strict=True)}
