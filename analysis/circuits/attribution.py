"""Attribution on a prompt: what a value is made of, from pairs of features down to tokens.

With attention patterns and the scales of norms held at their measured values, a bilinear model is a
polynomial of its embeddings. So a value of it, a logit say, is a sum of contributions, each of which is a
value again:

- what is linear in the residual stream (a logit, a feature before an MLP, v · x of an eigenvector) splits
  over embeddings, features of earlier MLPs' outputs with their errors, and biases, through heads;
- what an MLP writes (a feature after it, or any direction) splits into **interactions** of two features
  before it, or without these into λ (v · x)² over eigenvectors; see `analysis.circuits.prompt.mlp`;
- an attention score splits into pairs of what is at the query and what is at the key.

Every split is exact. What is not shown is counted in `Graph.pruned`, so that the sums still hold.
(The bilinear layer's decomposition is that of arXiv 2410.08417; replacing MLPs by sparse features and holding
attention is the method of Ameisen et al. 2025, "Circuit Tracing", whose MLP features are linear instead.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor, nn

from analysis.circuits.labels import Names
from analysis.circuits.prompt.growth import trace
from analysis.circuits.prompt.prompt import Dictionaries, Prompt, open_prompt
from analysis.circuits.prompt.readers import Limits, Write
from analysis.circuits.targets import LogitTarget, Target
from analysis.graphs.graph import Graph
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.files import versions
from bilinear_lm.sites import Site

Heads = Literal["paths", "nodes"]

_ROOM = 2
"""Times `max_nodes` that a graph grows to before its weakest nodes go: only what is in has a known share."""


@dataclass(frozen=True)
class Attribution:
    """A graph of a value on a prompt, and what its nodes put where; made by `attribute`."""

    graph: Graph
    target: Target
    prompt: Prompt = field(repr=False)
    """What was measured, with the features of the dictionaries."""
    left_out: int
    """Nodes that were strong enough for `share` and left out for `max_nodes`."""
    writes: Mapping[str, Write] = field(repr=False)
    """By node, what it adds to the activations of which site: what interventions take away.

    Of a feature that is its code times its decoder row; of an interaction the same for its output; of what
    is read along a direction u (an MLP or a head) value · u / |u|², of an eigenvector value · v / |v|². Of
    what MLPs read it is in the coordinates of mlp-in, so that nothing else than the MLP is concerned.
    """

    def __str__(self) -> str:
        graph = self.graph
        text = f"{graph.target}: {len(graph)} nodes, {len(graph.edges)} edges, {graph.shown:.0%} of the "
        text += "absolute contributions followed to the end"
        if self.left_out:
            text += f"; {self.left_out} more nodes pruned for max_nodes={graph.settings['max_nodes']}"
        return text


def attribute(
    model: nn.Module,
    ids: Sequence[int] | Int[Tensor, "*one pos"],
    target: Target,
    dictionaries: Dictionaries | None = None,
    *,
    share: float = 0.8,
    max_nodes: int = 500,
    heads: Heads = "paths",
    vocabulary: Vocabulary | None = None,
    labels: Mapping[Site, Sequence[str]] | None = None,
    progress: bool = False,
) -> Attribution:
    """What the value of `target` on a prompt is made of, down to tokens.

    `dictionaries` by site say what features are: those of mlp-out for what MLPs write, those of mlp-in or
    resid-mid for what they read. Where there is none, what an MLP writes is followed along the directions
    that are read, and what it reads by eigenvectors. heads="paths" sums over all ways through attention;
    heads="nodes" makes a node of each head and pair of positions for each of its readers.

    Of each node the fewest contributions are kept that have `share` of its absolute ones, and of all nodes at
    most `max_nodes`, the target counted: the graph grows to twice as many, to which layers add in equal parts
    and pass on what they leave, and the weakest by `Graph.shares` go again. The rest is in `pruned`. Memory
    grows with the features that are active, not with their number.

    Labels are made of `vocabulary` (tokens) and `labels` (a name for each feature of a site).

    >>> model, tokenizer = load_pretrained("stories"), load_tokenizer("stories")  # doctest: +SKIP
    >>> sites = [Site(layer, point) for layer in range(4) for point in ("mlp-in", "mlp-out")]
    >>> scope = {site: load_dictionary(f"stories-scope/{site}") for site in sites}  # doctest: +SKIP
    >>> ids = tokenizer.encode("Once upon a time")  # doctest: +SKIP
    >>> found = attribute(model, ids, LogitTarget(token=13), scope)  # doctest: +SKIP
    >>> [edge.source for edge in found.graph.into(found.graph.target)[:2]]  # doctest: +SKIP
    ['bias 3-mlp-out', 'feature 3-mlp-out 320 @4']

    Raises InputError for what `measure` refuses, for an MLP whose gate is not linear, for dictionaries that
    do not fit the model, and for a target that does not exist.
    """
    _require_settings(share, max_nodes, heads)  # before the model runs
    return attribute_prompt(
        open_prompt(model, ids, dictionaries),
        target,
        share=share,
        max_nodes=max_nodes,
        heads=heads,
        vocabulary=vocabulary,
        labels=labels,
        progress=progress,
    )


def attribute_prompt(
    prompt: Prompt,
    target: Target,
    *,
    share: float = 0.8,
    max_nodes: int = 500,
    heads: Heads = "paths",
    vocabulary: Vocabulary | None = None,
    labels: Mapping[Site, Sequence[str]] | None = None,
    progress: bool = False,
) -> Attribution:
    """As `attribute`, of a prompt that `open_prompt` measured: for targets that depend on it, or several."""
    _require_settings(share, max_nodes, heads)
    names = Names(vocabulary, labels or {})
    _require_names(names, prompt)
    settings: dict[str, Any] = {
        "target": _described(target),
        "dictionaries": sorted(map(str, prompt.sites)),
        "share": share,
        "max_nodes": max_nodes,
        "heads": heads,
        "dtype": str(prompt.like.dtype).removeprefix("torch."),
        "versions": versions(),
    }
    limits = Limits(share, _ROOM * max_nodes, split_heads=heads == "nodes")
    traced = trace(prompt, target, limits, names, progress)
    if isinstance(target, LogitTarget):
        settings["probability"] = float(prompt.measured.logits[target.position].softmax(0)[target.token])
    tokens = tuple(prompt.measured.ids.tolist())
    grown = Graph(
        nodes=tuple(traced.nodes.values()),
        edges=tuple(traced.edges),
        target=next(iter(traced.nodes)),
        model=prompt.model,
        tokens=tokens,
        texts=None if vocabulary is None else tuple(vocabulary.texts[token] for token in tokens),
        settings=settings,
        pruned=traced.pruned,
    )
    pruning = grown.prune(max_nodes)
    left_out = traced.left_out + len(pruning.removed)
    graph = replace(pruning.graph, settings={**settings, "left_out": left_out})
    writes = {node.id: traced.writes[node.id] for node in graph.nodes if node.id in traced.writes}
    return Attribution(graph, target, prompt, left_out, writes)


def _require_settings(share: float, max_nodes: int, heads: Heads) -> None:
    if not 0 < share <= 1:
        raise InputError(f"share={share}; expected more than 0, up to 1")
    require_count(max_nodes, f"max_nodes={max_nodes}", "at least 1, the target")
    if heads not in ("paths", "nodes"):
        raise InputError(f"heads={heads!r}; expected 'paths' or 'nodes'")


def _require_names(names: Names, prompt: Prompt) -> None:
    n = prompt.W_U.shape[1]
    if names.vocabulary is not None and len(names.vocabulary.texts) < n:
        raise InputError(
            f"a vocabulary of {len(names.vocabulary.texts)} tokens for a model of {n}; expected as many"
        )
    for site, listed in names.features.items():
        n_feat = prompt.features(site).dictionary.n_feat
        if len(listed) != n_feat:
            raise InputError(f"{len(listed)} labels for the {n_feat} features of {site}; expected one each")


def _described(target: Target) -> dict[str, Any]:
    """A target as JSON can hold it; of a direction its width alone."""
    described: dict[str, Any] = {"kind": type(target).__name__}
    for name, value in vars(target).items():
        if isinstance(value, Tensor):
            value = f"{len(value)} numbers"
        if isinstance(value, Site):
            value = str(value)
        described[name] = list(value) if isinstance(value, tuple) else value
    return described
