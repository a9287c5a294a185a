"""The results in the features part of the report: everything in it that is not wording or layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.features.contexts import Activity, activity_on_text
from analysis.features.dictionaries import LayerDictionaries
from analysis.features.explained import Explained, Probe, explained_by_probes
from analysis.features.index import InteractionIndex, interaction_index
from analysis.features.layer import FeatureLayer, feature_layer
from analysis.features.naming import tokens_of
from analysis.features.peaks import Contexts
from analysis.features.submatrix import Submatrix, pairs_that_hold, submatrices_of_pairs
from analysis.features.weight_tokens import weight_tokens
from analysis.guarantees.model_ranges import certify_features, has_range
from analysis.report.nulls import Opposition, RandomFeatures, opposition, random_probe
from analysis.report.options import FeatureSource
from analysis.spectra.eigen import effective_rank, shares_of_squares
from analysis.spectra.spectrum import spectrum
from analysis.text.tokens import TokenReading
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import Windows
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.dictionaries.names import fingerprint, renamed
from bilinear_lm.distributed import divided, gather_texts
from bilinear_lm.errors import InputError
from bilinear_lm.progress import tell, tqdm
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site
from bilinear_lm.weights import embedding

AT_ONCE = 64
"""Interaction matrices that are decomposed at once."""

HELD = 2**26
"""Bytes of eigenvectors that may wait until the text is read, for several layers at once."""


@shown
@dataclass(frozen=True)
class Side:
    """The features of one dictionary that are shown."""

    site: Site
    n_feat: int
    """Features that the dictionary has."""
    features: Int[Tensor, " n"]
    """Numbers of those that are shown, ascending. The fields below, except `contexts`, follow this order."""
    contexts: Contexts
    """Contexts of all features of the dictionary, by number."""
    n_active: Int[Tensor, " n"]
    """Tokens of the text where each is active."""
    tokens: TokenReading
    """Tokens at both ends. For an input feature, the tokens whose embedding alone, normalised as the stream
    is, gives the largest and the smallest pre-activation; for an output feature, the tokens whose logits its
    decoder's direction raises and lowers most against the mean of all. Only tokens that occur in the text:
    embeddings of others may never have been trained."""
    names: tuple[str, ...]
    """The names of all features of the dictionary, by number."""
    given: Mapping[int, str]
    """The names that were made for features which the user has named, by number."""
    fingerprint: str
    """The dictionary's weights (`bilinear_lm.dictionaries.names.fingerprint`)."""


@shown
@dataclass(frozen=True)
class Spectra:
    """The eigenvalues of output features, and their eigenvectors, largest magnitude first."""

    values: Float[Tensor, "n k"]
    vectors: Float[Tensor, "n k_vectors d_in"]
    strength: Float[Tensor, " n"]
    """‖λ‖₂ of the whole spectrum."""
    effective_rank: Float[Tensor, " n"]
    """(‖λ‖₁ / ‖λ‖₂)² of the whole spectrum."""
    share: Float[Tensor, "n k"]
    """The share (0 to 1) of the 1, 2, … largest in Σ λ²."""


@shown
@dataclass(frozen=True)
class FeatureReading:
    """One layer between its two dictionaries."""

    layer: int
    inputs: Side
    outputs: Side
    spectra: Spectra
    index: InteractionIndex
    """Interactions between the features shown, numbered by their order in `features`."""
    corners: tuple[Submatrix, ...]
    """For each output feature, the interaction matrix Q between the input features in its strongest
    interactions, strongest first; features are numbered by their order in `features`."""
    explained: Explained
    """How well the top eigenvectors of each output feature explain it on the text."""
    random: RandomFeatures
    """Features of the same dictionary turned at random, beside which spectra and `explained` are read."""
    opposition: Opposition
    """Pairs of output features that write in opposite directions."""
    most: Float[Tensor, " n"] | None = None
    """The largest pre-activation of each output feature that any input of the layer gives; None where no norm
    bounds the layer's input."""

    def clarity(self) -> Float[Tensor, " n"]:
        """|strongest interaction| / strength of each output feature, times its correlation, where it is
        active, with its two largest eigenvectors."""
        correlation = with_two(self.explained.active_tokens).nan_to_num(0)
        strongest = self.index.values[:, 0].abs().cpu()
        return correlation * strongest / self.spectra.strength.cpu().clamp(min=1e-30)


def with_two(correlations: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Correlations of features with their two largest eigenvectors, or with the one there is."""
    return correlations[:, :2][:, -1]


@shown
@dataclass(frozen=True)
class FeatureData:
    """Everything that the features part of the page puts into words and figures."""

    source: FeatureSource
    windows: Windows
    has_first: bool
    """Whether windows begin with a beginning-of-sequence token, which does not count."""
    layers: tuple[FeatureReading, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of the text."""
        return sum(len(window) - self.has_first for window in self.windows)

    @property
    def first(self) -> tuple[int, int]:
        """Layer and place of the output feature that is shown first (`FeatureSource.first`)."""
        for reading in self.layers:
            for index, feature in enumerate(reading.outputs.features.tolist()):
                if (reading.layer, feature) == self.source.first:
                    return reading.layer, index
        scores = [(reading.clarity().max(dim=0), reading.layer) for reading in self.layers]
        best, layer = max(scores, key=lambda score: float(score[0].values))
        return layer, int(best.indices)


class Keeper:
    """The place where readings of layers go as they are made: this one keeps them as they are."""

    def finished(self, layer: int, windows: Windows) -> FeatureReading | None:
        """The reading of a layer that was made before, as it is kept; None for others."""
        return None

    def keep(self, reading: FeatureReading, windows: Windows, n_listed: int) -> FeatureReading:
        """The reading as it is kept, of which `n_listed` interactions of each feature are shown."""
        return reading


def collect_features(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: FeatureSource,
    layers: list[int],
    progress: bool = True,
    bilinear: PreTrainedModel | None = None,
    keeper: Keeper | None = None,
) -> FeatureData:
    """Computes what the features part of the report shows for those of `layers` that have dictionaries.

    Activations are those of `model`, tensors those of `bilinear`, the same model by default. The processes of
    a torch.distributed group share the text and the output features of each layer. Layers are read one after
    the other and given to the `keeper`, so that what it does not keep is in memory for one of them only; of
    all layers there are the peaks of the features in the text.

    Raises InputError where no layer has dictionaries.
    """
    keeper = keeper or Keeper()
    shown = _moved(source, layers, model)
    windows = source.windows(tokenizer, model.config.max_position_embeddings)
    skip = int(tokenizer.bos_token_id is not None)
    known = {around.layer: keeper.finished(around.layer, windows) for around in shown}
    readings = {layer: reading for layer, reading in known.items() if reading is not None}
    done = set(gather_texts(map(str, readings)))  # the keeper of one process may know of more
    missing = [around for around in shown if str(around.layer) not in done]
    if missing:
        reader = _Reader.of(model, bilinear or model, tokenizer, source, missing, windows, skip, progress)
        with tqdm(total=len(missing), desc="features", disable=not progress) as bar:
            for some in _at_once(missing, source):
                for reading in reader.read(some):
                    readings[reading.layer] = keeper.keep(reading, windows, source.n_interactions)
                    bar.update()
    ordered = (readings[around.layer] for around in shown if around.layer in readings)
    return FeatureData(source, windows, bool(skip), tuple(ordered))


def _at_once(shown: list[LayerDictionaries], source: FeatureSource) -> Iterator[list[LayerDictionaries]]:
    """Layers that the text is read for once: as many as have eigenvectors of `HELD` bytes, or one."""
    widest = max(around.outputs.encoder[:, : source.n_features].nbytes for around in shown)
    n = max(1, HELD // (widest * source.n_eigenvectors))
    return (shown[start : start + n] for start in range(0, len(shown), n))


def _moved(source: FeatureSource, layers: list[int], model: PreTrainedModel) -> list[LayerDictionaries]:
    """The dictionaries of `layers`, on the model's device."""
    precision = torch.promote_types(model.dtype, torch.float32)
    shown = [
        replace(
            around,
            inputs=around.inputs.to(model.device, precision),
            outputs=around.outputs.to(model.device, precision),
        )
        for around in source.dictionaries
        if around.layer in layers
    ]
    if not shown:
        there = ", ".join(str(around.layer) for around in source.dictionaries)
        raise InputError(
            f"features of layers {', '.join(map(str, layers))}: the dictionaries are of layers {there}; "
            "show one of those, or give their dictionaries"
        )
    return shown


@dataclass(frozen=True)
class _Reader:
    """Reads the layers of one model."""

    model: PreTrainedModel
    bilinear: PreTrainedModel
    """The model whose tensors are read."""
    source: FeatureSource
    active: dict[Site, Activity]
    listed: Int[Tensor, " n"]
    """The tokens that readings list."""
    windows: Windows
    skip: int
    progress: bool

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        bilinear: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        source: FeatureSource,
        shown: list[LayerDictionaries],
        windows: Windows,
        skip: int,
        progress: bool,
    ) -> _Reader:
        """The reader of the layers that are `shown`, once their features' peaks in the text are known."""
        by_site = {around.read: around.inputs for around in shown}
        by_site |= {around.written: around.outputs for around in shown}
        vocabulary = Vocabulary.of(tokenizer, embedding(model).shape[0])
        active = activity_on_text(
            model, by_site, windows, source.n_contexts, source.width, skip, vocabulary, progress
        )
        listed = torch.tensor(tokens_of(windows, skip), device=model.device)
        return cls(model, bilinear, source, active, listed, windows, skip, progress)

    def read(self, shown: list[LayerDictionaries]) -> Iterator[FeatureReading]:
        """The readings of some layers, for which the text is read once."""
        decomposed = [self._decomposed(around) for around in shown]
        turned = [self._turned(*both) for both in zip(shown, decomposed, strict=True)]
        probes = [probe for _, _, probe in decomposed] + [probe for probe, *_ in turned]
        pairs = list(zip(2 * shown, probes, strict=True))
        explained = explained_by_probes(self.model, pairs, self.windows, self.skip, self.progress)
        for at, around in enumerate(shown):
            features, spectra, _ = decomposed[at]
            _, ranks, values = turned[at]
            random = RandomFeatures(ranks, values, explained[len(shown) + at])
            yield self._reading(around, features, spectra, explained[at], random)

    def _decomposed(self, around: LayerDictionaries) -> tuple[FeatureLayer, Spectra, Probe]:
        """A layer between the features that are shown, its spectra, and its largest eigenvectors."""
        read, written = self._shown(around.read), self._shown(around.written)
        full = feature_layer(self.bilinear, around.layer, around.inputs, around.outputs)
        features = replace(full, inputs=full.inputs[read], outputs=full.outputs[written])
        spectra = _spectra(features, self.source)
        values = spectra.values[:, : spectra.vectors.shape[1]]
        return features, spectra, Probe(around.outputs, written, values, spectra.vectors)

    def _turned(
        self, around: LayerDictionaries, decomposed: tuple[FeatureLayer, Spectra, Probe]
    ) -> tuple[Probe, Tensor, Tensor]:
        """The same of the output dictionary turned at random: its probe, effective ranks and eigenvalues."""
        features, spectra, probe = decomposed
        n_values, n_vectors = spectra.values.shape[1], spectra.vectors.shape[1]
        return random_probe(features.tensor, around.outputs, probe.chosen, n_values, n_vectors)

    def _reading(
        self,
        around: LayerDictionaries,
        features: FeatureLayer,
        spectra: Spectra,
        explained: Explained,
        random: RandomFeatures,
    ) -> FeatureReading:
        """Everything else about a layer."""
        source = self.source
        n_corner = min(source.n_corner, features.n_in)
        index = interaction_index(
            features, max(source.n_interactions, pairs_that_hold(n_corner)), source.n_interactions
        )
        corners = submatrices_of_pairs(features, index.left, index.right, n_corner)
        return FeatureReading(
            layer=around.layer,
            inputs=self._side(around.read, around.inputs),
            outputs=self._side(around.written, around.outputs),
            spectra=spectra,
            index=index,
            corners=corners,
            explained=explained,
            random=random,
            opposition=opposition(features, around.outputs.decoder[self._shown(around.written)]),
            most=self._most(around),
        )

    def _shown(self, site: Site) -> Int[Tensor, " n"]:
        """The features of a site that are shown, by number."""
        return self.active[site].most_active(self.source.n_features)

    def _most(self, around: LayerDictionaries) -> Tensor | None:
        if not has_range(self.bilinear, around.layer):
            return None
        written = self._shown(around.written)
        return certify_features(self.bilinear, around.outputs, written.tolist(), layer=around.layer).high

    def _side(self, site: Site, dictionary: Dictionary) -> Side:
        activity, features = self.active[site], self._shown(site)
        tokens = weight_tokens(self.model, dictionary, site, features, self.listed, self.source.n_tokens)
        made = activity.contexts.names
        if site in self.source.names:
            made = tuple(self.source.names[site])
        given = self.source.given.get(site, {})
        names = renamed({site: made}, {site: given})[site]
        return Side(
            site,
            dictionary.n_feat,
            features,
            activity.contexts,
            activity.n_active[features],
            tokens,
            names,
            {feature: made[feature] for feature in given},
            fingerprint(dictionary),
        )


def _spectra(features: FeatureLayer, source: FeatureSource) -> Spectra:
    def spectra(some: Sequence[int]) -> Spectra:
        tell("eigenvectors of a layer", some[0], features.n_out)
        k = min(source.n_eigenvectors, features.tensor.d_in)
        eigen = spectrum(features.tensor, features.outputs[some[0] : some[-1] + 1], k)
        return Spectra(
            values=eigen.values[:, : source.n_values].clone(),
            vectors=eigen.vectors,
            strength=eigen.values.square().sum(dim=1).sqrt(),
            effective_rank=effective_rank(eigen.values),
            share=shares_of_squares(eigen.values)[:, : source.n_values].clone(),
        )

    return divided(range(features.n_out), spectra, AT_ONCE)
