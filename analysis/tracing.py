"""`trace`: a graph of what a logit, a feature or an attention score is made of, asked for by words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.attribution import attribute_prompt
from analysis.attribution_prompt import Dictionaries, Prompt, open_prompt
from analysis.attribution_targets import FeatureTarget, LogitTarget, ScoreTarget
from analysis.directions import parse_direction
from analysis.feature_names import document_windows, feature_names
from analysis.graph import Graph, Node
from analysis.static_circuits import static_circuit
from analysis.vocabulary import Vocabulary
from bilinear_lm.dictionary import Site
from bilinear_lm.errors import InputError
from bilinear_lm.weights import embedding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NODES = 200
"""Nodes of a graph that people can look through."""
_SHARE_ON_PROMPT, _SHARE_STATIC = 0.8, 0.5


def trace(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | None = None,
    *,
    token: str | None = None,
    feature: str | None = None,
    head: str | None = None,
    key: int | None = None,
    position: int = -1,
    dictionaries: Dictionaries | None = None,
    text: str | None = None,
    share: float | None = None,
    max_nodes: int = MAX_NODES,
    progress: bool = False,
) -> Graph:
    """What a logit, a feature or a score is made of: on a prompt by `attribute`, else by `static_circuit`.

    The target is the logit of `token` ("swim", or "swim - run, fly" for one against the mean of others), or
    the `feature` LAYER-POINT-NUMBER of a dictionary, such as 2-mlp-out-17, or on a prompt the attention score
    of the `head` LAYER.HEAD, such as 2.3, for the position `key`, by default the one that it attends to most.
    On a prompt it is read at `position` (the query of a score), and by default it is the logit of the
    likeliest next token. A prompt begins with the beginning-of-sequence token, where the tokenizer has one.

    `dictionaries` are followed where they are there, eigenvectors elsewhere. With a `text` (documents
    separated by <|endoftext|>) features are named by where they are most active in it. `share` is by default
    0.8 on a prompt and 0.5 by weights. `settings["left_out"]` of the graph tells how many nodes were strong
    enough for it and left out for `max_nodes`.

    >>> graph = trace(model, tokenizer, "Her mom gave her a big", dictionaries=scope)  # doctest: +SKIP

    Raises InputError for an empty prompt, one that the context does not hold, a target that does not exist,
    and for what `attribute` or `static_circuit` refuses.
    """
    given = {"token": token, "feature": feature, "head": head}
    targets = [f"{name} {value!r}" for name, value in given.items() if value is not None]
    if len(targets) > 1:
        raise InputError(f"trace: {' and '.join(targets)}; expected one of them as target")
    if head is None and key is not None:
        raise InputError(f"trace: key {key} without a head; expected the head whose score it is")
    if head is not None and prompt is None:
        raise InputError(f"trace: head {head} without a prompt; a score is that of two positions in one")
    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    if prompt is None:
        target = _target(vocabulary, token, feature, position)
        if target is None:
            raise InputError("trace: nothing to trace; give a prompt, a token or a feature")
        graph = static_circuit(
            model,
            target,
            dictionaries,
            share=_SHARE_STATIC if share is None else share,
            max_nodes=max_nodes,
            vocabulary=vocabulary,
            progress=progress,
        )
    else:
        on_prompt = _score(model, head, key, position) if head is not None else None
        measured = open_prompt(model, prompt_ids(model, tokenizer, prompt), dictionaries)
        graph = attribute_prompt(
            measured,
            on_prompt or _target(vocabulary, token, feature, position) or _likeliest(measured, position),
            share=_SHARE_ON_PROMPT if share is None else share,
            max_nodes=max_nodes,
            vocabulary=vocabulary,
            progress=progress,
        ).graph
        graph = replace(graph, settings={**graph.settings, "prompt": prompt})
    if text is None or not dictionaries:
        return graph
    return labelled(graph, _feature_labels(model, tokenizer, vocabulary, dictionaries, graph, text, progress))


def prompt_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens of a prompt, behind the beginning-of-sequence token; InputError where they do not fit."""
    if not prompt.strip():
        raise InputError("trace: the prompt is empty; expected a few words")
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*first, *tokenizer.encode(prompt, add_special_tokens=False, verbose=False)]
    longest = model.config.max_position_embeddings
    if len(ids) > longest:
        raise InputError(f"trace: a prompt of {len(ids)} tokens; expected at most {longest}, shorten it")
    return ids


def parse_feature(text: str) -> tuple[Site, int]:
    """Site and number of a feature that is written LAYER-POINT-NUMBER, such as 2-mlp-out-17."""
    site, _, number = text.rpartition("-")
    if not number.isdecimal() or len(number) > 9:
        raise InputError(f"feature {text!r}; expected LAYER-POINT-NUMBER, such as 2-mlp-out-17")
    return Site.parse(site), int(number)


def parse_head(text: str) -> tuple[int, int]:
    """Layer and number of a head that is written LAYER.HEAD, such as 2.3."""
    layer, _, number = text.partition(".")
    if not (layer.isdecimal() and number.isdecimal() and len(text) < 20):
        raise InputError(f"head {text!r}; expected LAYER.HEAD, such as 2.3")
    return int(layer), int(number)


def _target(
    vocabulary: Vocabulary, token: str | None, feature: str | None, position: int
) -> LogitTarget | FeatureTarget | None:
    if token is not None:
        direction = parse_direction(token, vocabulary)
        return LogitTarget(direction.token, direction.against, position)
    if feature is not None:
        return FeatureTarget(*parse_feature(feature), position)
    return None


def _score(model: PreTrainedModel, head: str, key: int | None, position: int) -> ScoreTarget:
    layer, number = parse_head(head)
    n_layers, n_heads = model.config.num_hidden_layers, model.config.num_attention_heads
    if layer >= n_layers or number >= n_heads:
        raise InputError(f"head {head} does not exist; expected 0.0 to {n_layers - 1}.{n_heads - 1}")
    return ScoreTarget(layer, number, position, key)


def _likeliest(prompt: Prompt, position: int) -> LogitTarget:
    logits = prompt.measured.logits[prompt.position(position)]
    return LogitTarget(int(logits.argmax()), position=position)


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
