"""A `Graph` for other tools: networkx, and the JSON schema of circuit-tracer's frontend and Neuronpedia.

Circuit-tracer knows embeddings, features, errors and logits; its readers show other feature types as plain
nodes. The other kinds keep their names as feature types: eigenvector, direction, interaction, head, bias and
target. Layers are numbers as text, "E" for embeddings and one past the last for logits.
"""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.graph import Graph, Node
from bilinear_lm.dictionary import POINTS, Site
from bilinear_lm.errors import InputError
from bilinear_lm.files import write_json

if TYPE_CHECKING:
    import networkx

SCHEMA_VERSION = 1

_FEATURE_TYPES = {
    "token": "embedding",
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
}


def to_networkx(graph: Graph) -> networkx.DiGraph:
    """A networkx.DiGraph: the fields of nodes and the weights of edges as attributes."""
    import networkx

    result = networkx.DiGraph(target=graph.target, model=graph.model)
    for node in graph.nodes:
        result.add_node(node.id, **{name: value for name, value in vars(node).items() if name != "id"})
    result.add_weighted_edges_from((edge.source, edge.target, edge.weight) for edge in graph.edges)
    return result


def to_circuit_tracer(graph: Graph, slug: str, n_layers: int | None = None) -> dict[str, Any]:
    """The graph as circuit-tracer's JSON object: metadata, qParams, nodes and links.

    `slug` names the graph: letters, digits and hyphens. Node ids are `layer_number_position`, as the readers
    expect them; `clerp` is the label or our id, `activation` the value, and `influence` the part of the sum
    of all shares (`Graph.shares`) but the target's that the nodes up to this one have, strongest first: a
    reader that prunes at 0.8 keeps the strongest nodes that have 80% together.

    Nodes without a position (biases) stand at position 0. A graph of weights alone has no prompt: its nodes
    all stand at position 0 beside an empty token. `n_layers` is the row of logits, by default the one above
    the highest layer among the nodes.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", slug):
        raise InputError(f"slug {slug!r} of a graph; expected letters, digits and hyphens")
    layers = [node.layer for node in graph.nodes if node.layer is not None]
    top = n_layers if n_layers is not None else max(layers, default=-1) + 1
    texts = list(graph.texts or map(str, graph.tokens or ("",)))
    influence = _cumulative(graph.shares() | {graph.target: 0.0}) | {graph.target: 0.0}
    nodes = {}
    for place, node in enumerate(graph.nodes):
        nodes[node.id] = _node(node, place, top) | {
            "influence": influence[node.id],
            "is_target_logit": node.kind == "logit" and node.id == graph.target,
        }
    probability = float(graph.settings.get("probability", 0.0))
    for node in graph.of_kind("logit"):
        # Readers take the probability from this text.
        nodes[node.id] |= {
            "clerp": f'Output "{node.text}" (p={probability:.3f})',
            "token_prob": probability,
        }
    return {
        "metadata": {
            "slug": slug,
            "scan": graph.model or "bilinear-lm",
            "transcoder_list": sorted({node.site for node in graph.of_kind("feature") if node.site}),
            "prompt_tokens": texts,
            "prompt": "".join(texts),
            "node_threshold": None,
            "schema_version": SCHEMA_VERSION,
        },
        "qParams": {"linkType": "both", "pinnedIds": [], "clickedId": "", "supernodes": [], "sg_pos": ""},
        "nodes": list(nodes.values()),
        "links": [
            {
                "source": nodes[edge.source]["node_id"],
                "target": nodes[edge.target]["node_id"],
                "weight": edge.weight,
            }
            for edge in graph.edges
        ],
    }


def save_circuit_tracer(graph: Graph, path: Path | str, slug: str, n_layers: int | None = None) -> None:
    """Writes `to_circuit_tracer` as JSON, whole or not at all."""
    write_json(Path(path), to_circuit_tracer(graph, slug, n_layers))


def _node(node: Node, place: int, top: int) -> dict[str, Any]:
    position, number = node.position or 0, _number(node, place)
    layer = "E" if node.kind == "token" else str(top if node.kind == "logit" else node.layer or 0)
    name = node.index if node.kind == "token" else number
    return {
        "node_id": f"{layer}_{name}_{position}",
        "feature": number,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": _FEATURE_TYPES.get(node.kind, node.kind),
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{name}-{position}",
        "clerp": node.text,
        "influence": 0.0,
        "activation": node.value,
    }


def _number(node: Node, place: int) -> int:
    """A number that no other node has at the same layer and position."""
    if node.kind == "token":
        return node.position or 0
    if node.kind == "logit" and node.index is not None:
        return node.index
    if node.kind in ("feature", "error") and node.site is not None:
        point = POINTS.index(Site.parse(node.site).point)
        if node.kind == "error":
            return -1 - point
        number = node.index or 0
        # Cantor's pairing, since both MLP sides of a layer have a feature of each number.
        return (point + number) * (point + number + 1) // 2 + number
    return -1 - len(POINTS) - place


def _cumulative(shares: dict[str, float]) -> dict[str, float]:
    order = sorted(shares, key=lambda node: -shares[node])
    sums = list(accumulate(shares[node] for node in order))
    return {node: reached / (sums[-1] or 1.0) for node, reached in zip(order, sums, strict=True)}
