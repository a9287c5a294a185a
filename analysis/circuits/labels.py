"""What the nodes of a graph are called: tokens by their text, features by their passages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis.circuits.prompt.prompt import Dictionaries
from analysis.circuits.targets import LogitTarget, Target
from analysis.features.contexts import feature_names
from analysis.graphs.graph import Graph, Node
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import document_windows
from bilinear_lm.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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


def labelled(graph: Graph, labels: Mapping[str, str]) -> Graph:
    """The graph with other labels for some of its nodes, by id, and for the interactions between them."""

    def label(node: Node) -> str:
        if node.kind != "interaction":
            return labels.get(node.id, node.label)
        sources = [edge.source for edge in graph.into(node.id)]
        return " × ".join(_both([labels.get(source, graph.node(source).text) for source in sources]))

    return replace(graph, nodes=tuple(replace(node, label=label(node)) for node in graph.nodes))


def _both(inputs: Sequence[str]) -> Sequence[str]:
    """Of a square, which has one edge in, the input twice."""
    return inputs if len(inputs) == 2 else [*inputs, *inputs]


def _feature_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    dictionaries: Dictionaries,
    graph: Graph,
    text: str,
    progress: bool,
) -> dict[str, str]:
    """The names of the features of a graph, by node."""
    wanted: dict[Site, list[int]] = defaultdict(list)
    places: dict[str, tuple[Site, int]] = {}
    for node in graph.of_kind("feature"):
        if node.site is not None and node.index is not None:
            places[node.id] = Site.parse(node.site), node.index
            wanted[Site.parse(node.site)].append(node.index)
    windows = document_windows(tokenizer, text, model.config.max_position_embeddings)
    skip = int(tokenizer.bos_token_id is not None)
    moved = {site: dictionaries[site].to(model.device) for site in wanted}
    names = feature_names(model, moved, wanted, windows, vocabulary, skip, progress)
    return {node: names[site][feature] for node, (site, feature) in places.items()}
