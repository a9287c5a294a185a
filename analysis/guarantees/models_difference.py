"""`diff`: two language models of one shape as functions, what changed most, and by how much at most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from analysis.attention.layer import attention_layer
from analysis.features.dictionaries import Dictionaries, require_dictionary
from analysis.guarantees.changes import (
    Directions,
    Kind,
    OwnSizes,
    Place,
    Sizes,
    changes,
    directions_of,
    layer_tensor,
    sizes_along,
)
from analysis.guarantees.findings import Finding, NullChanges, first_of_each_subject, ranked
from analysis.guarantees.heads import head_change
from analysis.guarantees.layer_difference import LayerDifference, Names, layer_difference
from analysis.guarantees.ranges import certify
from analysis.guarantees.tensor_difference import difference
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_count, require_seed
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.families import causal_model, require_plain_blocks
from bilinear_lm.files import require_finite
from bilinear_lm.shown import Words, shown
from bilinear_lm.sites import Site
from bilinear_lm.tensor import BilinearTensor
from bilinear_lm.weights import embedding, unembedding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_RANKED = 200
"""Findings that are ranked, before one is kept of each token, head, feature and MLP."""


@shown
@dataclass(frozen=True)
class Difference:
    """The difference of two models of one shape, in functions."""

    layers: tuple[LayerDifference, ...]
    findings: tuple[Finding, ...]
    """The changes of highest score, highest first; of these the first `k` subjects are certified."""
    n_null: int
    """Checkpoints of the null; 0: scores are relative changes."""
    sizes: Mapping[Place, Sizes]
    """The size of every change that was compared, by kind and layer."""
    notes: tuple[str, ...] = ()

    def _told(self) -> dict[str, Any]:
        first = [Words(f"{finding}") for finding in self.strongest[:3]]
        return {
            "layers": len(self.layers),
            "n_null": self.n_null,
            "strongest": Words("; ".join(first) or "none"),
        }

    @cached_property
    def strongest(self) -> tuple[Finding, ...]:
        """The highest finding about each token, head, feature and MLP, by name."""
        return first_of_each_subject(self.findings)

    @property
    def score(self) -> float:
        """The highest score; 0 where nothing changed."""
        return self.findings[0].score if self.findings else 0.0


@dataclass(frozen=True)
class Reference:
    """The first model of a comparison, read once for all that are compared with it."""

    model: nn.Module
    tensors: list[BilinearTensor]
    directions: list[Directions]
    own: list[OwnSizes]

    @classmethod
    def of(cls, model: nn.Module, dictionaries: Mapping[Site, Dictionary]) -> Reference:
        """A model's MLPs, and the directions along which they are compared."""
        require_plain_blocks(model, "the difference")
        _require_finite(model, "the first model")
        layers = range(cast(Any, causal_model(model)).config.num_hidden_layers)
        tensors = [layer_tensor(model, layer) for layer in layers]
        directions = [directions_of(model, layer, dictionaries) for layer in layers]
        own = [sizes_along(*part) for part in zip(tensors, directions, strict=True)]
        return cls(model, tensors, directions, own)

    def changes(self, other: nn.Module, which: str = "the second model") -> dict[Place, Sizes]:
        """The sizes of all changes to another model."""
        _require_alike(self.model, other, which)
        return changes(self.model, other, self.directions, self.tensors, self.own)


@checked
def null_changes(
    model: nn.Module, null: Sequence[nn.Module], dictionaries: Dictionaries | None = None
) -> NullChanges:
    """The changes from a model to each checkpoint of a null, for `diff(…, null=…)`, computed once.

    The null is what the same training does without what is looked for: checkpoints that were trained as long
    as the second model of the comparison, on clean text.
    """
    if not null:
        raise InputError("a null without checkpoints; expected one or more")
    reference = Reference.of(model, _checked(model, dictionaries))
    return NullChanges(tuple(reference.changes(each, "a model of the null") for each in null))


@checked
def diff(
    model_a: nn.Module,
    model_b: nn.Module,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dictionaries: Dictionaries | None = None,
    names: Mapping[Site, Sequence[str]] | None = None,
    null: NullChanges | Sequence[nn.Module] = (),
    k: int = 8,
    seed: int = 0,
) -> Difference:
    """The difference of two models of one shape, from weights alone: exact for the functions, ranked,
    bounded.

    For each layer, the largest change of the MLP's output over all inputs of its norm: exact along output
    directions (the k tokens, features and singular directions of largest change; `certify` of the
    difference), a bracket for all directions at once (`largest_change`); the strongest changed interactions.
    Heads are compared by their OV and QK circuits, embeddings by token. All changes are ranked in one list;
    with `null` by how far they exceed what it changes (`analysis.guarantees.findings`). The k first are
    certified.

    Differences are of functions: weights that are equal up to the symmetries of a layer (hidden units
    permuted or rescaled, gate and in swapped, a head's gauge) differ by 0, to rounding (1e-8 of the layer's
    norm). Heads are compared by number and streams as they are: heads in another order, or a rotated residual
    stream, are differences here. `tokenizer` names tokens; `dictionaries` are of the first model (at mlp-in
    or resid-mid, and mlp-out), and `names` those of all their features, by site (`feature_names`).

    >>> model, other = load_pretrained("stories"), load_pretrained("finetuned")  # doctest: +SKIP
    >>> diff(model, other, tokenizer=load_tokenizer("stories")).strongest[0].told  # doctest: +SKIP
    'layer 0: MLP reads token ␣dragon'

    Raises InputError for models of other shapes, MLPs that are not bilinear, blocks that scale or normalise
    what they write (Gemma 2, OLMo 2, Granite), and weights that are not finite.
    """
    require_count(k, f"k={k}")
    require_seed(seed)
    by_site = _checked(model_a, dictionaries)
    reference = Reference.of(model_a, by_site)
    sizes = reference.changes(model_b)
    known = null if isinstance(null, NullChanges) else None
    if not isinstance(null, NullChanges) and len(null):
        known = NullChanges(tuple(reference.changes(each, "a model of the null") for each in null))
    if known is not None and any(part.keys() != sizes.keys() for part in known.checkpoints):
        raise InputError("the null was compared along other directions; make it with the same dictionaries")
    words = _names(model_a, tokenizer, names or {})
    labels = {place: _labels(place, len(found.change), words) for place, found in sizes.items()}
    findings = ranked(sizes, known, labels, N_RANKED)
    layers = tuple(
        layer_difference(
            layer,
            reference.tensors[layer],
            layer_tensor(model_b, layer),
            sizes["MLP", layer],
            reference.directions[layer],
            _strongest_written(findings, sizes, layer, k),
            words,
            n_singular=min(k, 4),
            k=k,
            seed=seed,
        )
        for layer in range(len(reference.tensors))
    )
    first = {id(finding) for finding in first_of_each_subject(findings)[:k]}
    certified = tuple(
        _bounded(finding, reference, model_b, layers, words) if id(finding) in first else finding
        for finding in findings
    )
    return Difference(
        layers, certified, 0 if known is None else len(known.checkpoints), sizes, _notes(model_a, sizes)
    )


def _strongest_written(
    findings: Sequence[Finding], sizes: Mapping[Place, Sizes], layer: int, k: int
) -> dict[Kind, list[int]]:
    """Output tokens and features of a layer to certify: those among the findings, then of largest change."""
    chosen: dict[Kind, list[int]] = {}
    for kind in ("MLP writes token", "MLP writes feature"):
        if (kind, layer) not in sizes:
            continue
        change = sizes[kind, layer].change
        found = [finding.item for finding in findings if (finding.kind, finding.layer) == (kind, layer)]
        largest = change.topk(min(k, len(change))).indices.tolist()
        items = dict.fromkeys([*(item for item in found if item is not None), *largest])
        chosen[kind] = [item for item in items if change[item] > 0][:k]
    return chosen


def _bounded(
    finding: Finding,
    reference: Reference,
    other: nn.Module,
    layers: Sequence[LayerDifference],
    names: Names,
) -> Finding:
    """The finding with the largest change that any input can make, and the tokens that it moves."""
    root = math.sqrt(reference.tensors[0].d_out)
    if finding.layer is None or finding.item is None:
        if finding.kind == "MLP" and finding.layer is not None:
            bracket = layers[finding.layer].largest
            return replace(
                finding,
                largest=bracket.high,
                found=bracket.low,
                toward=_toward(reference, bracket.low * bracket.direction, names),
            )
        scale = root if finding.kind == "unembedding" else 1.0
        return replace(finding, largest=scale * finding.change, found=scale * finding.change)
    layer, item = finding.layer, finding.item
    if finding.kind in ("head writes", "head looks"):
        heads = head_change(*(attention_layer(model, layer) for model in (reference.model, other)))
        if finding.kind == "head writes":
            bound = root * float(heads.ov_largest[item])
        else:
            bound = root**2 * float(cast(Tensor, heads.qk_largest)[item])
        return replace(finding, largest=bound, found=bound)
    changed = difference(layer_tensor(other, layer), reference.tensors[layer])
    direction = reference.directions[layer].by_kind()[finding.kind][item]
    if finding.kind.startswith("MLP writes"):
        largest = float(certify(changed, direction, over="ball").largest)
        return replace(finding, largest=largest, found=largest)
    out = changed(direction)
    size = float(torch.linalg.vector_norm(out))
    return replace(finding, found=size, toward=_toward(reference, out, names))


def _toward(reference: Reference, out: Tensor, names: Names, n: int = 3) -> tuple[tuple[str, float], ...]:
    """The tokens whose logits a vector in the residual stream moves most, against the mean of all."""
    W_U = unembedding(reference.model).to(out)
    moved = out @ (W_U - W_U.mean(dim=1, keepdim=True))
    top = moved.abs().topk(min(n, len(moved))).indices.tolist()
    return tuple((names.token(token), float(moved[token])) for token in top)


def _names(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, features: Mapping[Site, Sequence[str]]
) -> Names:
    if tokenizer is None:
        return Names(lambda token: f"token {token}", features)
    vocabulary = Vocabulary.of(tokenizer, len(embedding(model)))
    return Names(vocabulary.label, features)


def _labels(place: Place, n: int, names: Names) -> list[str]:
    kind, layer = place
    if kind == "MLP":
        return [f"MLP {layer}"]
    if kind.startswith("head"):
        return [f"{layer}.{head}" for head in range(n)]
    return [names.of(kind, layer, item) for item in range(n)]


def _notes(model: nn.Module, sizes: Mapping[Place, Sizes]) -> tuple[str, ...]:
    kinds = {kind for kind, _ in sizes}
    notes = []
    if "head looks" not in kinds:
        notes.append("queries and keys are normalised, so that scores are not bilinear: QK is not compared")
    return tuple(notes)


def _checked(model: nn.Module, dictionaries: Dictionaries | None) -> dict[Site, Dictionary]:
    by_site = dict(dictionaries or {})
    n_layers, width = cast(Any, causal_model(model)).config.num_hidden_layers, embedding(model).shape[1]
    for site, dictionary in by_site.items():
        require_dictionary(site, dictionary, n_layers, width)
    return by_site


def _require_finite(model: nn.Module, which: str) -> None:
    require_finite(dict(model.named_parameters()), which)


def _require_alike(model: nn.Module, other: nn.Module, which: str) -> None:
    """Raises InputError unless two models have the same width, depth, heads and vocabulary."""
    require_plain_blocks(other, "the difference")
    _require_finite(other, which)
    ours, theirs = _shape(model), _shape(other)
    differing = [f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise InputError(
            f"{which} has another shape: {', '.join(differing)}; expected two checkpoints of one architecture"
        )


def _shape(model: nn.Module) -> dict[str, Any]:
    config = cast(Any, causal_model(model)).config
    return {
        "layers": config.num_hidden_layers,
        "width": embedding(model).shape[1],
        "tokens": len(embedding(model)),
        "heads": config.num_attention_heads,
    }
