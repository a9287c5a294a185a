"""Circuits from weights alone: the parts of a logit or a feature in any prompt, down to tokens.

From the target downwards, every MLP is expanded into the strongest interactions of the direction that is
read from it: pairs of input features where there is a dictionary of its input, else eigenvectors of the
interaction matrix, whose directions are in turn read from the layers below (arXiv 2406.03947, deep models).
Every direction of the residual stream is followed to tokens, directly and through heads, to features of
earlier MLPs, and to earlier MLPs themselves. The tree grows exponentially with depth, so only the strongest
sources of each node are kept.

Scales of norms and weights of attention are 1, codes of features are those of features that are active.
An edge's weight is a coefficient: the product of the weights along all paths from inputs to the target, each
interaction once and with the product of both of its inputs, is what these inputs add to the target. To have
edges from heads and from MLPs without a dictionary tell their strength, these nodes are normalised; see
`analysis.circuits.weights.sources`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from analysis.circuits.catalogue import Catalogue
from analysis.circuits.growth import Opened, Split, grow
from analysis.circuits.labels import labelled
from analysis.circuits.readers import BOTTOM, Group, Limits, Linear, Quadratic, ReadBy, Reader, stage
from analysis.circuits.targets import (
    DirectionTarget,
    FeatureTarget,
    LogitTarget,
    StaticTarget,
    Target,
    as_target,
    checked_direction,
    passed_before,
)
from analysis.circuits.weights.model import StaticModel, static_model
from analysis.circuits.weights.sources import read_source, split_reader, written_source
from analysis.circuits.weights.variance import product_shares
from analysis.features.dictionaries import Dictionaries
from analysis.graphs.elements import Node
from analysis.graphs.graph import Graph
from analysis.graphs.nodes import feature_node, logit_node
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_number
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@checked
def static_circuit(
    model: nn.Module,
    target: StaticTarget | str,
    dictionaries: Dictionaries | Sequence[Dictionary] | None = None,
    *,
    share: float = 0.5,
    beam: int = 5,
    depth: int = 2,
    heads_in_a_row: int = 1,
    max_nodes: int = 500,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: bool = False,
) -> Graph:
    """The graph of the parts of `target` by the weights of a model; positions of targets are not used.

    The sources of a node come in groups whose coefficients have one unit: tokens; heads; MLPs; the features
    of one dictionary; pairs of features, or eigenvectors. Each group keeps the fewest of its strongest
    coefficients whose squares have `share` of all, at most `beam`. At most `depth` MLPs are passed on the way
    down, and `heads_in_a_row` heads between two of them. Nodes come in by their share of the target
    (`analysis.graphs.shares`) until there are `max_nodes`. Errors of dictionaries at mlp-out are not
    followed. With a `tokenizer` the target may be the text of a token, or "A - B, C" for the logit of A
    against the mean of others, and nodes are labelled.

    `pruned` of the graph counts the coefficients of each node that are not shown, exactly: sum, sum of
    magnitudes, and number. `settings["shown"]` holds the share of the squares that is shown, by node and
    group; `settings["unsplit"]` the nodes that were not split because of `depth`; `settings["left_out"]` the
    number of nodes and interactions that `max_nodes` kept out; `settings["variance"]` the share of each MLP
    output's variance at z ~ N(0, I) that its products in the circuit can carry at most
    (`analysis.circuits.weights.variance`).

    Edges have weights alone: the derivative of a norm depends on what it reads, which only a prompt has, so
    that slopes are not available here.

    Permuting hidden units, or exchanging gate and in, changes nothing but rounding.

    >>> graph = static_circuit(load_pretrained("stories"), LogitTarget(token=261))  # doctest: +SKIP
    >>> [edge.source for edge in graph.into(graph.target)]  # doctest: +SKIP

    Raises InputError for settings out of range, a target that does not exist, and for what `static_model`
    refuses.
    """
    _require_settings(share, beam, depth, heads_in_a_row, max_nodes)
    weights = static_model(model, dictionaries)
    vocabulary = None if tokenizer is None else Vocabulary.of(tokenizer, len(weights.W_E))
    node, reader = _read(weights, as_target(target, vocabulary, "give tokenizer="))
    limits, catalogue = Limits(share, beam, heads_in_a_row), Catalogue()
    steps = ("out", "pairs", "in", "head")
    stages = [stage(layer, step) for layer in reversed(range(weights.n_layers)) for step in steps]
    grown = grow(
        ReadBy(node, BOTTOM, lambda: reader),
        [*stages, BOTTOM],
        _splitting(weights, limits, catalogue),
        max_nodes,
        catalogue,
        depth=depth,
        progress=progress,
    )
    settings: dict[str, Any] = {
        "dictionaries": sorted(map(str, weights.sites)),
        "share": share,
        "beam": beam,
        "depth": depth,
        "heads_in_a_row": heads_in_a_row,
        "max_nodes": max_nodes,
        "shown": grown.shown,
        "unsplit": grown.unsplit,
        "left_out": grown.left_out,
        "variance": product_shares(weights, grown),
    }
    graph = Graph(
        nodes=grown.columns.nodes,
        edges=grown.columns.edges.listed(grown.columns.ids),
        target=node.id,
        model=weights.name,
        settings=settings,
        pruned={name: rest for name, rest in grown.columns.listed_pruned().items() if rest.count},
    )
    return graph if vocabulary is None else labelled(graph, vocabulary)


def _splitting(model: StaticModel, limits: Limits, catalogue: Catalogue) -> Split:
    def split(opened: Sequence[Opened]) -> Iterator[tuple[Sequence[Opened], Iterable[Group]]]:
        for one in opened:
            yield [one], split_reader(model, one.node, one.reader, limits, catalogue)

    return split


def _read(model: StaticModel, target: Target) -> tuple[Node, Reader]:
    """The node of a target and its reader; raises InputError for a target that only a prompt has."""
    if isinstance(target, LogitTarget):
        reader = Linear(2 * model.n_layers, target.of(model.W_U))
        return logit_node([target.token], target.against), reader
    if isinstance(target, FeatureTarget):
        return _read_feature(model, target)
    if isinstance(target, DirectionTarget):
        return _read_direction(model, target)
    raise InputError(
        f"a {type(target).__name__} by weights alone; expected a logit, a feature or a direction, or a prompt"
    )


def _read_feature(model: StaticModel, target: FeatureTarget) -> tuple[Node, Reader]:
    site, layer = target.site, model.layer(target.site.layer)
    for side, source in ((layer.outputs, written_source), (layer.inputs, read_source)):
        if side is not None and side[0] == site:
            return feature_node(site, target.feature), source(layer, target.feature).reader()
    raise InputError(f"there is no dictionary of {site}; expected one among the dictionaries")


def _read_direction(model: StaticModel, target: DirectionTarget) -> tuple[Node, Reader]:
    site, layer = target.site, model.layer(target.site.layer)
    vector = checked_direction(target.vector, model.W_E)
    node = Node(f"direction {site}", "target", layer=site.layer, site=str(site))
    if site.point == "mlp-out":
        return node, Quadratic(site.layer, vector)
    depth = 2 * site.layer + passed_before(site)
    return node, Linear(depth, layer.from_stream(vector, site.point))


def _require_settings(share: float, beam: int, depth: int, heads_in_a_row: int, max_nodes: int) -> None:
    require_number(share, f"share={share}", "more than 0, up to 1", least=sys.float_info.min, most=1)
    least = {"beam": (beam, 1), "depth": (depth, 0), "max_nodes": (max_nodes, 1)}
    for name, (value, smallest) in (least | {"heads_in_a_row": (heads_in_a_row, 0)}).items():
        require_count(value, f"{name}={value}", f"at least {smallest}", least=smallest)
