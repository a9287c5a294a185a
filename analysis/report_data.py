"""What the report shows, computed: everything on the page that is not wording or layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.directions import OutputDirection, parse_direction, strongest
from analysis.readings import DirectionReading, LayerReader
from analysis.vocabulary import Vocabulary
from bilinear_lm.activations import mlp_inputs
from bilinear_lm.errors import InputError
from bilinear_lm.evaluate import TextLoss, text_loss
from bilinear_lm.generate import sample
from bilinear_lm.weights import IDENTITY_EPS, attention_weights, embedding, mlp_tensor, unembedding

STORY = (
    "One morning, a girl named Lily saw a red kite in a tall tree. She wanted to help, but the tree was "
    'too big for her. "Do not be sad," said her friend Tom, "my dog and I can shake it!" They pushed and '
    "pushed until the kite fell on the soft grass. Lily was so happy that she let Tom fly it all day, and "
    "the little dog ran after them."
)
"""The text that is coloured by default."""

LISTED = 10
"""Tokens in a layer's list of the strongest."""


@dataclass(frozen=True)
class ReportOptions:
    """What goes on the page."""

    tokens: tuple[str, ...] = ()
    """Output directions to show in every layer: "A", or "A - B, C" for a token against others."""
    layers: tuple[int, ...] | None = None
    """The layers to show; None: all."""
    n_directions: int = 3
    """How many of the strongest output directions of a layer to show."""
    n_eigenvectors: int = 2
    """Eigenvectors shown for a direction, the largest by |λ|."""
    n_tokens: int = 6
    """Tokens shown at each end of an eigenvector."""
    n_heads: int = 2
    """Heads through which an eigenvector is shown, those with the largest scores."""
    text: str = STORY
    """The text on which eigenvectors are shown at work."""
    evaluation_text: str | None = None
    """The text on which the loss is measured; None: no loss on the page."""
    prompt: str = "Once upon a time"
    """Where the sample of text begins."""
    sample_tokens: int = 100
    """The length of the sample; 0: no sample on the page."""
    temperature: float = 0.8
    """Of the sample; 0 always takes the likeliest token."""
    seed: int = 0
    """Of the sample."""

    def __post_init__(self):
        least = {"n_directions": 0, "n_eigenvectors": 1, "n_tokens": 1, "n_heads": 0, "sample_tokens": 0}
        for name, smallest in least.items():
            if (value := getattr(self, name)) < smallest:
                raise InputError(f"report: {name}={value}; expected at least {smallest}")
        if not self.text.strip():
            raise InputError("report: the text to colour is empty; expected a sentence or more")
        if not self.tokens and not self.n_directions:
            raise InputError("report: no directions to show; ask for tokens or for n_directions of at least 1")
        if self.layers is not None and not self.layers:
            raise InputError("report: an empty list of layers; expected at least one, or None for all")


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


@dataclass(frozen=True)
class LayerReading:
    """One layer: its strongest tokens, and what was read of the asked-for and the strongest directions."""

    layer: int
    listed: tuple[int, ...]
    """The tokens of largest strength, whether they are read or not."""
    strengths: Float[Tensor, " n"]
    """Their strengths."""
    directions: tuple[DirectionReading, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything that `page.render` puts into words and figures."""

    name: str
    options: ReportOptions
    vocabulary: Vocabulary
    shape: Shape
    loss: TextLoss | None
    sample: str | None
    text: tuple[int, ...]
    """The tokens of the text, as far as they fit the context."""
    has_first: bool
    """Whether the model read a beginning-of-sequence token in front of them."""
    n_left_out: int
    """How many tokens at its end did not fit."""
    layers: tuple[LayerReading, ...]


def collect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    options: ReportOptions,
    progress: bool = True,
) -> ReportData:
    """Computes what the report shows. Weights are read in float32 at least."""
    vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
    asked = tuple(dict.fromkeys(parse_direction(item, vocabulary) for item in options.tokens))
    layers = _existing(options.layers, model.config.num_hidden_layers)
    first, text, n_left_out = _text_ids(model, tokenizer, options.text)
    ids = torch.tensor([[*first, *text]], device=model.device)
    inputs = mlp_inputs(model, ids, layers)[:, 0, len(first) :]
    readings = _read_layers(model, vocabulary, asked, layers, inputs, options, progress)
    loss = None
    if options.evaluation_text is not None:
        loss = text_loss(model, tokenizer, options.evaluation_text, progress=progress)
    return ReportData(
        name=name,
        options=options,
        vocabulary=vocabulary,
        shape=_shape(model),
        loss=loss,
        sample=_sample(model, tokenizer, options),
        text=text,
        has_first=bool(first),
        n_left_out=n_left_out,
        layers=readings,
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
    U = (W_U - W_U.mean(dim=1, keepdim=True)).T[: vocabulary.n_known]
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
        readings.append(_read_layer(reader, layer, U, asked, options.n_directions))
    return tuple(readings)


def _read_layer(
    reader: LayerReader,
    layer: int,
    U: Float[Tensor, "n_known d_model"],
    asked: tuple[OutputDirection, ...],
    n_directions: int,
) -> LayerReading:
    found, strengths = strongest(reader.tensor, U, n_directions)
    listed = strengths.topk(min(LISTED, len(strengths)))
    directions = dict.fromkeys([*asked, *(OutputDirection(token) for token in found)])
    return LayerReading(
        layer=layer,
        listed=tuple(listed.indices.tolist()),
        strengths=listed.values,
        directions=tuple(reader.read(direction) for direction in directions),
    )


def _sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ReportOptions
) -> str | None:
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


def _existing(layers: tuple[int, ...] | None, n_layers: int) -> list[int]:
    if layers is None:
        return list(range(n_layers))
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise InputError(f"layer {layer} does not exist; the model has layers 0 to {n_layers - 1}")
    return sorted(set(layers))


def _text_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], tuple[int, ...], int]:
    """The token in front of the text, if the tokenizer has one; the text that fits; how much does not."""
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
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
        biases=mlp_tensor(model, 0).constant,
    )
