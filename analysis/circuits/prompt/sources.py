"""The sources that values on a prompt split over: for each its node, its reader, and its write."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from analysis.circuits.catalogue import Catalogue
from analysis.circuits.prompt.features import SiteFeatures
from analysis.circuits.prompt.prompt import LayerOnPrompt, Prompt
from analysis.circuits.readers import BOTTOM, Linear, Quadratic, Reader, Source, Write, stage
from analysis.features.layer import WRITTEN
from analysis.graphs.elements import Node
from analysis.graphs.nodes import (
    bias_node,
    direction_node,
    eigenvector_node,
    error_node,
    feature_node,
    head_node,
    token_node,
)
from bilinear_lm.sites import Site


@dataclass(frozen=True, slots=True)
class Given(Source):
    """A source whose reader and write, where it has them, are known from the start."""

    onward: Reader | None = None
    written: Write | None = None

    def reader(self) -> Reader | None:
        """The reader given at construction."""
        return self.onward

    def write(self) -> Write | None:
        """The write given at construction."""
        return self.written


def bias_source(name: str, layer: int | None) -> Source:
    """The contribution of biases."""
    return Source(bias_node(name, layer), BOTTOM)


def tokens(catalogue: Catalogue, prompt: Prompt) -> int:
    """The number of the first of the embeddings, by position."""

    def make(position: int) -> Source:
        write = Write(Site(0, "resid-pre"), position, prompt.layers[0].measured.resid_pre[position])
        return Given(token_node(int(prompt.measured.ids[position]), position), BOTTOM, written=write)

    return catalogue.family("tokens", BOTTOM, prompt.n_pos, make)


def written_features(catalogue: Catalogue, layer: LayerOnPrompt) -> int:
    """The number of the first of the active features of an MLP's output, in their order."""
    found = layer.outputs
    assert found is not None  # asked for only where there is one
    at, n = stage(layer.number, "out"), len(found.codes)
    return catalogue.family(f"features of {found.site}", at, n, partial(WrittenFeature.at, layer, found))


def written_errors(catalogue: Catalogue, found: SiteFeatures) -> int:
    """The number of the first of the errors of a dictionary at mlp-out, by position."""
    at = stage(found.site.layer, "out")

    def make(position: int) -> Source:
        write = Write(found.site, position, found.error[position])
        return Given(error_node(found.site, position), at, written=write)

    return catalogue.family(f"errors of {found.site}", at, len(found.error), make)


def read_features(catalogue: Catalogue, layer: LayerOnPrompt) -> int:
    """The number of the first of the active features of an MLP's input, in their order."""
    found = layer.inputs
    assert found is not None  # asked for only where there is one
    at, n = stage(layer.number, "in"), len(found.codes)
    return catalogue.family(f"features of {found.site}", at, n, partial(ReadFeature.at, layer, found))


def read_errors(catalogue: Catalogue, layer: LayerOnPrompt) -> int:
    """The number of the first of the errors of the dictionary of an MLP's input, by position."""
    found, at = layer.inputs, stage(layer.number, "in")
    assert found is not None  # asked for only where there is one

    def make(position: int) -> Source:
        write = _into_mlp(layer, found, position, found.error[position])
        return Given(error_node(found.site, position), at, written=write)

    return catalogue.family(f"errors of {found.site}", at, len(found.error), make)


def whole_head(layer: int, head: int, position: int, vector: Float[Tensor, " d_model"]) -> Source:
    """The whole output of a head at a position."""
    write = Write(Site(layer, "attn-out"), position, vector)
    return Given(head_node(layer, head, query=position), stage(layer, "head"), written=write)


def whole_mlp(layer: int, position: int, vector: Float[Tensor, " d_model"]) -> Source:
    """The whole output of an MLP at a position."""
    site = Site(layer, WRITTEN)
    node = direction_node(site, position=position)
    return Given(node, stage(layer, "out"), written=Write(site, position, vector))


@dataclass(frozen=True, slots=True)
class WrittenFeature(Source):
    """An active feature of an MLP's output."""

    layer: LayerOnPrompt
    found: SiteFeatures
    place: int
    """The feature's index in the list of active features."""

    @classmethod
    def at(cls, layer: LayerOnPrompt, found: SiteFeatures, place: int) -> WrittenFeature:
        """The feature at index `place` of the list."""
        position, feature, code = found.listed[place]
        node = feature_node(found.site, feature, position, value=code)
        return cls(node, stage(found.site.layer, "out"), layer, found, place)

    def reader(self) -> Quadratic:
        """Its code as a function of the MLP's input."""
        position, feature, _ = self.found.listed[self.place]
        direction, constant = self.found.reading(feature)
        u, slope = self.layer.behind_mlp(direction, position)
        return Quadratic(self.found.site.layer, u, constant, position, slope=slope)

    def write(self) -> Write:
        """Its code times its decoder row."""
        position, feature, code = self.found.listed[self.place]
        return Write(self.found.site, position, code * self.found.dictionary.decoder[feature])


@dataclass(frozen=True, slots=True)
class ReadFeature(Source):
    """An active feature of an MLP's input."""

    layer: LayerOnPrompt
    found: SiteFeatures
    """The active features of the layer's input."""
    place: int
    """The feature's index in that list."""

    @classmethod
    def at(cls, layer: LayerOnPrompt, found: SiteFeatures, place: int) -> ReadFeature:
        """The feature at index `place` of the list."""
        position, feature, code = found.listed[place]
        node = feature_node(found.site, feature, position, value=code)
        return cls(node, stage(layer.number, "in"), layer, found, place)

    def reader(self) -> Linear:
        """Its code as a function of the residual stream."""
        position, feature, _ = self.found.listed[self.place]
        direction, constant = self.found.reading(feature)
        layer, point = self.layer, self.found.site.point
        w = layer.from_stream(direction, position, point)
        # At resid-mid the features are those of the stream itself: no norm lies between.
        slope = w if point == "resid-mid" else layer.gradient_before_mlp(w, position)
        return Linear(2 * layer.number + 1, w, constant, str(self.found.site), position, slope=slope)

    def write(self) -> Write:
        """Its code times its decoder row, for the MLP alone."""
        position, feature, code = self.found.listed[self.place]
        return _into_mlp(self.layer, self.found, position, code * self.found.dictionary.decoder[feature])


@dataclass(frozen=True, slots=True)
class WrittenDirection(Source):
    """The output of an MLP without a dictionary, along the direction u in which a reader reads it."""

    layer: LayerOnPrompt
    position: int
    u: Float[Tensor, " d_model"]
    value: float

    @classmethod
    def at(
        cls,
        layer: LayerOnPrompt,
        position: int,
        u: Float[Tensor, " d_model"],
        reader: Node,
        value: float,
    ) -> WrittenDirection:
        """The direction of a layer's output that a node reads."""
        node = direction_node(Site(layer.number, WRITTEN), reader, position, value=value)
        return cls(node, stage(layer.number, "out"), layer, position, u, value)

    def reader(self) -> Quadratic:
        """u · what the MLP adds to the stream."""
        u, slope = self.layer.behind_mlp(self.u, self.position)
        return Quadratic(self.layer.number, u, position=self.position, slope=slope)

    def write(self) -> Write:
        """The shortest vector that has the value along u."""
        return Write(Site(self.layer.number, WRITTEN), self.position, shortest(self.value, self.u))


@dataclass(frozen=True, slots=True)
class Eigenvector(Source):
    """An eigenvector of the interaction matrix that a node reads of an MLP, itself read as v · x."""

    layer: LayerOnPrompt
    position: int
    vectors: Float[Tensor, "n d_in"]
    """The eigenvectors of one node, this one among them."""
    row: int
    value: float

    @classmethod
    def at(
        cls,
        layer: LayerOnPrompt,
        position: int,
        of: Node,
        rank: int,
        vectors: Float[Tensor, "n d_in"],
        row: int,
        value: float,
    ) -> Eigenvector:
        """The eigenvector of rank `rank`, which is row `row` of `vectors`."""
        node = eigenvector_node(of, rank, value=value)
        return cls(node, stage(layer.number, "in"), layer, position, vectors, row, value)

    def reader(self) -> Linear:
        """v · x as a function of the residual stream."""
        layer, vector = self.layer, self.vectors[self.row]
        width = len(layer.block.factor)
        w = layer.from_stream(vector[:width], self.position, "normalised")
        constant = float(vector[width:].sum())
        slope = layer.gradient_before_mlp(w, self.position)
        return Linear(2 * layer.number + 1, w, constant, f"{layer.number}-mlp-in", self.position, slope=slope)

    def write(self) -> Write:
        """The shortest vector that has the value along v, for the MLP alone."""
        layer, position = self.layer, self.position
        vector = shortest(self.value, self.vectors[self.row, : len(layer.block.factor)])
        return Write(Site(layer.number, "mlp-in"), position, layer.to_mlp_in(vector, position, "normalised"))


@dataclass(frozen=True, slots=True)
class Moved(Source):
    """The contribution that a head moves from one position to that of a reader."""

    layer: LayerOnPrompt
    head: int
    key: int
    attended: float
    """The head's attention pattern between the two."""
    position: int
    u: Float[Tensor, " d_model"]
    """The direction in which it is read there."""
    of_output: Float[Tensor, " d_model"]
    """The same as a reading of the attention's output."""
    value: float

    @classmethod
    def at(
        cls,
        layer: LayerOnPrompt,
        head: int,
        key: int,
        attended: float,
        node: Node,
        reader: Linear,
        derivative: bool,
        value: float,
    ) -> Moved:
        """The contribution of a head of a layer to the reading of a node, or to its derivative."""
        position, u = reader.position, reader.gradient if derivative else reader.w
        made = head_node(layer.number, head, node, position, key, value=value)
        of_output = layer.behind_attention(u, position, derivative)
        return cls(
            made, stage(layer.number, "head"), layer, head, key, attended, position, u, of_output, value
        )

    def reader(self) -> Linear:
        """The moved contribution as a function of the residual stream at the key."""
        layer, attention = self.layer, self.layer.measured.attention
        shared = self.head * len(layer.block.W_V) // len(attention.W_O)
        w = layer.block.W_V[shared] @ (attention.W_O[self.head] @ self.of_output)
        w = w.new_tensor(self.attended) / layer.measured.ln1_scale[self.key] * w
        slope = layer.gradient_before_attention(w, self.key)
        return Linear(2 * layer.number, w, position=self.key, slope=slope)

    def write(self) -> Write:
        """The shortest vector that has the value along the direction that is read."""
        return Write(Site(self.layer.number, "attn-out"), self.position, shortest(self.value, self.u))


def shortest(value: float, u: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """The shortest vector that has a value along u: value · u / |u|²."""
    return value * u / u.square().sum()


def _into_mlp(layer: LayerOnPrompt, features: SiteFeatures, position: int, vector: Tensor) -> Write:
    """The write of a vector into the MLP's input alone; the residual stream beside it stays as it is."""
    point = features.site.point
    written, slope = layer.to_mlp_in(vector, position, point), None
    if point == "resid-mid" and not layer.norms_held:
        # The norm lies between: v ↦ γ (v − x (x·v) / (d s²)) / s, which is its own transpose but for γ.
        slope = layer.to_mlp_in(layer.gradient_before_mlp(vector, position), position, point)
    return Write(Site(layer.number, "mlp-in"), position, written, slope)
