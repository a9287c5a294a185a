"""The results that the report shows: everything on the page that is not wording or layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.circuits.labels import labelled
from analysis.circuits.targets import LogitTarget
from analysis.circuits.trace import trace
from analysis.features.dictionaries import layers_by_site
from analysis.graphs.graph import Graph
from analysis.guarantees.model_ranges import has_range
from analysis.interventions.head_moves import HeadMoves, head_moves
from analysis.polynomials.quadratic_model import QuadraticModel
from analysis.report.features import FeatureData, Keeper, collect_features
from analysis.report.findings.features import few_eigenvectors, has_circuit
from analysis.report.layers import DirectionReading, LayerReader, strongest
from analysis.report.nulls import RandomDirections, random_directions
from analysis.report.options import FeatureSource, ReportOptions
from analysis.text.tokens import OutputDirection, parse_direction
from analysis.text.vocabulary import Vocabulary
from bilinear_lm.distributed import alone
from bilinear_lm.errors import InputError
from bilinear_lm.families import family_of
from bilinear_lm.norms import IDENTITY_EPS
from bilinear_lm.progress import tqdm
from bilinear_lm.shown import shown
from bilinear_lm.sites import mlp_inputs
from bilinear_lm.text.evaluate import TextLoss, text_loss
from bilinear_lm.text.generate import sample
from bilinear_lm.text.token_ids import token_ids
from bilinear_lm.weights import attention_weights, embedding, mlp_tensor, mlp_weights, unembedding

LISTED = 10
"""Tokens in a layer's list of the strongest."""

N_RANDOM = 16
"""Random output directions that are read beside those of tokens, over all layers together at least."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    d_vocab: int
    n_ctx: int
    n_parameters: int
    norms: bool
    """False: every norm is the identity."""
    biases: bool
    """Whether the MLPs have biases."""
    norm_after: bool
    """Whether a norm stands behind the MLP, which its output passes before it is added to the stream."""


@shown
@dataclass(frozen=True)
class LayerReading:
    """One layer: its strongest tokens, and what was read of the asked-for and the strongest directions."""

    layer: int
    listed: tuple[int, ...]
    """The words and parts of words of largest strength, whether they are read or not."""
    strengths: Float[Tensor, " n"]
    """Their strengths."""
    directions: tuple[DirectionReading, ...]
    random: RandomDirections
    """Random output directions, beside which the others are read."""
    bounded: bool
    """Whether a norm in front bounds what the layer reads, so that its output has a largest value."""


@shown
@dataclass(frozen=True)
class ReportData:
    """Everything that `page.render` puts into words and figures."""

    name: str
    options: ReportOptions
    vocabulary: Vocabulary
    shape: Shape
    loss: TextLoss | None
    """None where none was asked for and the tokenizer has no beginning-of-sequence token."""
    sample: str | None
    """The prompt and its continuation; None where none was asked for."""
    text: tuple[int, ...]
    """The tokens of the text, as far as they fit the context."""
    has_first: bool
    """Whether the model read a beginning-of-sequence token in front of them."""
    n_left_out: int
    """How many tokens at its end did not fit."""
    layers: tuple[LayerReading, ...]
    features: FeatureData | None
    """None where no dictionaries were given."""
    graphs: tuple[Graph, ...] = ()
    """Graphs of what values are made of."""
    quadratic: QuadraticModel | None = None
    """The copy whose tensors were read, for a model that is not bilinear."""
    moves: tuple[HeadMoves | None, ...] = ()
    """For each graph, what heads move to where its target is read; None but for logits on a prompt."""


def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    options: ReportOptions,
    source: FeatureSource | None = None,
    progress: bool = True,
    graphs: Sequence[Graph] = (),
    quadratic: QuadraticModel | None = None,
    keeper: Keeper | None = None,
) -> ReportData:
    """Computes what the report shows. Weights are read in float32 at least. The `keeper` gets each layer.

    With `quadratic` the tensors are those of that copy; inputs, activations, loss and sample are the model's.
    """
    bilinear = model if quadratic is None else quadratic.model
    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    asked = tuple(dict.fromkeys(parse_direction(item, vocabulary) for item in options.tokens))
    layers = _existing(options.layers, model.config.num_hidden_layers)
    first, text, n_left_out = _text_ids(model, tokenizer, options.text)
    ids = torch.tensor([[*first, *text]], device=model.device)
    inputs = mlp_inputs(model, ids, layers)[:, 0, len(first) :]
    readings = _read_layers(bilinear, vocabulary, asked, layers, inputs, options, progress)
    features, graphs = None, tuple(graphs)
    if source is not None:
        features = collect_features(model, tokenizer, source, layers, progress, bilinear, keeper)
        graphs += _found_circuit(bilinear, tokenizer, source, features, graphs, vocabulary)
    return ReportData(
        name=name,
        options=options,
        vocabulary=vocabulary,
        shape=_shape(model),
        loss=_loss(model, tokenizer, options, progress),
        sample=_sample(model, tokenizer, options),
        text=text,
        has_first=bool(first),
        n_left_out=n_left_out,
        layers=readings,
        features=features,
        quadratic=quadratic,
        moves=tuple(_moves(bilinear, graph, len(first)) for graph in graphs),
        graphs=graphs
        if features is None
        else tuple(named_graph(graph, features, vocabulary) for graph in graphs),
    )


def _read_layers(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    asked: tuple[OutputDirection, ...],
    layers: list[int],
    inputs: Float[Tensor, "layer pos d_model"],
    options: ReportOptions,
    progress: bool,
) -> tuple[LayerReading, ...]:
    precision = torch.promote_types(model.dtype, torch.float32)
    W_E, W_U = embedding(model).to(precision), unembedding(model).to(precision)
    words = vocabulary.words
    U = (W_U - W_U.mean(dim=1, keepdim=True)).T[words]
    readings = []
    for layer, x in zip(tqdm(layers, desc="layers", disable=not progress), inputs, strict=True):
        attention = attention_weights(model, layer)
        reader = LayerReader(
            tensor=mlp_tensor(model, layer).to(precision),
            W_E=W_E,
            W_U=W_U,
            W_V=attention.W_V.to(precision),
            W_O=attention.W_O.to(precision),
            x=x.to(precision),
            n_eigenvectors=options.n_eigenvectors,
            n_tokens=options.n_tokens,
            n_heads=options.n_heads,
        )
        bounded, n_random = has_range(model, layer), -(-N_RANDOM // len(layers))
        readings.append(_read_layer(reader, layer, bounded, words, U, asked, options.n_directions, n_random))
    return tuple(readings)


def _read_layer(
    reader: LayerReader,
    layer: int,
    bounded: bool,
    words: list[int],
    U: Float[Tensor, "n_words d_model"],
    asked: tuple[OutputDirection, ...],
    n_directions: int,
    n_random: int,
) -> LayerReading:
    rows, strengths = strongest(reader.tensor, U, n_directions)
    listed = strengths.topk(min(LISTED, len(strengths)))
    directions = dict.fromkeys([*asked, *(OutputDirection(words[row]) for row in rows)])
    return LayerReading(
        layer=layer,
        listed=tuple(words[row] for row in listed.indices.tolist()),
        strengths=listed.values,
        directions=tuple(reader.read(direction) for direction in directions),
        random=random_directions(reader.tensor, reader.x, n_random, reader.n_eigenvectors, seed=layer),
        bounded=bounded,
    )


def _found_circuit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: FeatureSource,
    features: FeatureData,
    graphs: tuple[Graph, ...],
    vocabulary: Vocabulary,
) -> tuple[Graph, ...]:
    """The circuit of the feature that a finding is about, by weights alone, where it is not there already."""
    found = few_eigenvectors(features, vocabulary)
    if found is None or has_circuit(graphs, found.shown):
        return ()
    dictionaries, feature = layers_by_site(source.dictionaries), f"{found.shown.site}-{found.shown.feature}"
    with alone():  # processes that share features may hold other ones, and find another
        return (trace(model, tokenizer, feature=feature, dictionaries=dictionaries),)


def _moves(model: PreTrainedModel, graph: Graph, first: int) -> HeadMoves | None:
    """The moves of heads to where a logit is read, for a graph of one on a prompt; None for other graphs."""
    target, position = graph.settings.get("target", {}), graph.node(graph.target).position
    if graph.tokens is None or position is None or position <= first or target.get("kind") != "LogitTarget":
        return None
    read = LogitTarget(target["token"], tuple(target["against"])).of
    return head_moves(model, torch.tensor(graph.tokens, device=model.device), read, position, first=first)


def _loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ReportOptions, progress: bool
) -> TextLoss | None:
    if options.evaluation_text is None and tokenizer.bos_token_id is None:
        return None
    text = options.text if options.evaluation_text is None else options.evaluation_text
    return text_loss(model, tokenizer, text, progress=progress)


def _sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ReportOptions) -> str | None:
    if not options.sample_tokens:
        return None
    texts = sample(
        model,
        tokenizer,
        options.prompt,
        max_tokens=options.sample_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    return next(texts)


def _existing(layers: tuple[int, ...], n_layers: int) -> list[int]:
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise InputError(f"layer {layer} does not exist; the model has layers 0 to {n_layers - 1}")
    return sorted(set(layers)) or list(range(n_layers))


def _text_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], tuple[int, ...], int]:
    """The token in front of the text, if the tokenizer has one; the text that fits; how much does not."""
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = token_ids(tokenizer, text).tolist()
    fitting = ids[: model.config.max_position_embeddings - len(first)]
    return first, tuple(fitting), len(ids) - len(fitting)


def _shape(model: PreTrainedModel) -> Shape:
    config = model.config
    return Shape(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        n_heads=config.num_attention_heads,
        d_vocab=embedding(model).shape[0],
        n_ctx=config.max_position_embeddings,
        n_parameters=model.num_parameters(),
        norms=config.rms_norm_eps < IDENTITY_EPS,
        biases=any(name.startswith("b_") for name in mlp_weights(model, 0, fold_norm=False)[0].weights),
        norm_after=family_of(model).mlp_norm_after is not None,
    )


def named_graph(graph: Graph, features: FeatureData, vocabulary: Vocabulary) -> Graph:
    """The graph with the names of its features, those of sites that the report has."""
    sides = (side for reading in features.layers for side in (reading.inputs, reading.outputs))
    return labelled(graph, vocabulary, {side.site: side.names for side in sides})
