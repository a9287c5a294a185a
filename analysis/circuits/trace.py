"""`trace`: the graph of a logit, a feature or an attention score, asked for by words; of many prompts too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.circuits.attribution import Frozen, Interactions, attribute
from analysis.circuits.causal import can_intervene, causal_check
from analysis.circuits.labels import labelled, sites_of
from analysis.circuits.prompt.prompt import Prompt, open_prompt
from analysis.circuits.static import static_circuit
from analysis.circuits.targets import FeatureTarget, LogitTarget, ScoreTarget, parse_feature, parse_head
from analysis.features.chosen_names import chosen_names
from analysis.features.dictionaries import Dictionaries, dictionaries_by_site
from analysis.graphs.elements import By
from analysis.graphs.files import as_text, from_object
from analysis.graphs.graph import Graph
from analysis.text.tokens import parse_direction
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.distributed import Worker, divided
from bilinear_lm.errors import InputError
from bilinear_lm.progress import tqdm
from bilinear_lm.weights import embedding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NODES = 200
"""Nodes of a graph that people can look through."""

_SHARE_ON_PROMPT, _SHARE_STATIC = 0.8, 0.5

_FILE = Path("trace.json")
"""The name of graphs between processes."""


@checked
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
    dictionaries: Dictionaries | Sequence[Dictionary] | None = None,
    text: str | None = None,
    share: float | None = None,
    max_nodes: int = MAX_NODES,
    by: By = "slope",
    attention: Frozen = "held",
    interactions: Interactions = "grouped",
    check: int | bool | None = None,
    progress: bool = False,
) -> Graph:
    """Trace a logit, a feature or a score: on a prompt by `attribute`, else by `static_circuit`.

    The target is the logit of `token` ("swim", or "swim - run, fly" for one against the mean of others), or
    the `feature` LAYER-POINT-NUMBER of a dictionary, such as 2-mlp-out-17, or on a prompt the attention score
    of the `head` LAYER.HEAD, such as 2.3, for the position `key`, by default the one that it attends to most.
    On a prompt it is read at `position` (the query of a score), and by default it is the logit of the
    likeliest next token against the mean of its five runners-up. A prompt begins with the
    beginning-of-sequence token, where the tokenizer has one.

    MLPs are split by the features of `dictionaries`, and by eigenvectors where they have none. With a `text`
    (documents separated by <|endoftext|>) features are named by the passages where they are most active.
    On a prompt nodes are chosen `by` slope or weight, `attention` says whether attention scores are nodes,
    and `interactions` whether weak ones are grouped by their inputs (`attribute`). With `check` that many
    nodes of each kind are taken away in the model, one at a time; True: 20 of each kind, or as many as there
    are. `settings["check"]` says how what happens agrees with what the graph predicts
    (`CausalCheck.summary`), and `settings["checked"]` has the numbers of each node (`CausalCheck.by_node`).
    `share` is by default 0.8 on a prompt and 0.5 by weights. `settings["left_out"]` of the graph counts the
    nodes that were strong enough for `share` and left out for `max_nodes`.

    >>> graph = trace(model, tokenizer, "Her mom gave her a big", dictionaries=scope)  # doctest: +SKIP

    Raises InputError for an empty prompt, one that the context does not hold, a target that does not exist,
    and for what `attribute` or `static_circuit` refuses.
    """
    given = {"token": token, "feature": feature, "head": head}
    targets = [f"{name} {value!r}" for name, value in given.items() if value is not None]
    if len(targets) > 1:
        raise InputError(f"{' and '.join(targets)}; expected one of them as target")
    if head is None and key is not None:
        raise InputError(f"key {key} without a head; expected the head whose score it is")
    if head is not None and prompt is None:
        raise InputError(f"head {head} without a prompt; a score is that of two positions in one")
    if check is False:
        check = None
    if check is not None and prompt is None:
        raise InputError(f"a check of {check} nodes without a prompt; interventions need one")
    if check is not None and check is not True:
        require_count(check, f"check={check} nodes")
    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    if prompt is None:
        target = _target(vocabulary, token, feature, position)
        if target is None:
            raise InputError("nothing to trace; give a prompt, a token or a feature")
        graph = static_circuit(
            model,
            target,
            dictionaries,
            share=_SHARE_STATIC if share is None else share,
            max_nodes=max_nodes,
            tokenizer=tokenizer,
            progress=progress,
        )
    else:
        on_prompt = _score(model, head, key, position) if head is not None else None
        measured = open_prompt(model, prompt, dictionaries, tokenizer=tokenizer)
        attribution = attribute(
            measured,
            on_prompt or _target(vocabulary, token, feature, position) or _likeliest(measured, position),
            share=_SHARE_ON_PROMPT if share is None else share,
            max_nodes=max_nodes,
            by=by,
            attention=attention,
            interactions=interactions,
            progress=progress,
        )
        settings = {**attribution.graph.settings, "prompt": prompt}
        if check is not None and (check is not True or can_intervene(attribution)):
            n = None if check is True else check
            measured_changes = causal_check(model, attribution, n=n, each_kind=True)
            settings |= {"check": measured_changes.summary(), "checked": measured_changes.by_node()}
        graph = replace(attribution.graph, settings=settings)
    return _named([graph], model, tokenizer, vocabulary, dictionaries, text, progress)[0]


@checked
def trace_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    dictionaries: Dictionaries | Sequence[Dictionary] | None = None,
    text: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> list[Graph]:
    """The graphs of several prompts, each as `trace` makes it; `settings` are the other arguments of `trace`.

    With a `text` the features of all graphs are named in one pass over it. The processes of a
    torch.distributed group share the prompts and the text, and each gets all graphs, the same as of one.

    >>> prompts = ["Her mom gave her a big", "Tom went to the"]
    >>> graphs = trace_prompts(model, tokenizer, prompts, max_nodes=50)  # doctest: +SKIP

    Raises InputError for no prompts, and for what `trace` refuses.
    """
    if not prompts:
        raise InputError("no prompts to trace; expected a list of one text or more")

    def traced(some: Sequence[str]) -> list[str]:
        graphs = [trace(model, tokenizer, prompt, dictionaries=dictionaries, **settings) for prompt in some]
        bar.update(len(some))
        return [as_text(graph, _FILE) for graph in graphs]

    with tqdm(total=len(Worker.own().of(len(prompts))), desc="prompts", disable=not progress) as bar:
        texts = divided(list(prompts), traced)
    graphs = [from_object(json.loads(one), _FILE) for one in texts]
    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    return _named(graphs, model, tokenizer, vocabulary, dictionaries, text, progress)


def _named(
    graphs: list[Graph],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    dictionaries: Dictionaries | Sequence[Dictionary] | None,
    text: str | None,
    progress: bool,
) -> list[Graph]:
    """The graphs with their features named in one pass over the text; as they are where there is none."""
    if text is None or not dictionaries:
        return graphs
    by_site = dictionaries_by_site(dictionaries)
    named = {site: by_site[site] for site in sites_of(*graphs)}
    names = chosen_names(model, tokenizer, named, {}, text, {}, progress)
    return [labelled(graph, vocabulary, names) for graph in graphs]


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
    return LogitTarget(prompt.likeliest(position), prompt.runners_up(position), position)
