"""What the features of a report are made of: dictionaries on both sides of MLPs, and a text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from analysis.dictionary_folder import around_mlps, dictionaries_in
from analysis.feature_names import SEPARATOR, document_windows
from analysis.features import require_site
from analysis.windows import Windows
from bilinear_lm.dictionary import Dictionary, Point, Site
from bilinear_lm.errors import InputError

_READ: tuple[Point, ...] = ("mlp-in", "resid-mid")
_WRITTEN: tuple[Point, ...] = ("mlp-out",)


@dataclass(frozen=True)
class LayerDictionaries:
    """The features of what one MLP reads and of what it writes."""

    layer: int
    inputs: Dictionary
    """At mlp-in or resid-mid."""
    outputs: Dictionary
    """At mlp-out."""

    @property
    def read(self) -> Site:
        """The site of the input features."""
        return Site(self.layer, require_site(self.inputs.site, self.layer, _READ, "input"))

    @property
    def written(self) -> Site:
        """The site of the output features."""
        return Site(self.layer, require_site(self.outputs.site, self.layer, _WRITTEN, "output"))


@dataclass(frozen=True)
class FeatureSource:
    """Which features a report shows, and how much of each."""

    dictionaries: tuple[LayerDictionaries, ...]
    text: str
    """Documents separated by <|endoftext|>: features are named by passages of it."""
    n_features: int = 1000
    """Features of each dictionary, those active at most tokens of the text."""
    n_contexts: int = 8
    """Passages shown for a feature."""
    width: int = 12
    """Tokens of a passage on each side of its peak."""
    n_interactions: int = 20
    """Interactions listed for a feature."""
    n_corner: int = 12
    """Input features in the drawn part of an interaction matrix."""
    n_values: int = 24
    """Eigenvalues drawn, the largest by magnitude; at least `n_eigenvectors`."""
    n_eigenvectors: int = 5
    """Eigenvectors whose correlation with the feature is shown."""
    n_tokens: int = 8
    """Tokens listed at each end of a direction."""
    first: tuple[int, int] | None = None
    """Layer and number of the output feature shown first. None, or one that is not shown: the one whose
    strongest interaction stands out most, weighted by how well two eigenvectors explain it."""

    def __post_init__(self):
        if not self.dictionaries:
            raise InputError("features of a report: no dictionaries; expected those of one layer or more")
        if not self.text.replace(SEPARATOR, "").strip():
            raise InputError("features of a report: the text is empty; expected a few pages to name them by")
        counts = (name for name in vars(self) if name.startswith("n_"))
        least = dict.fromkeys(counts, 1) | {"width": 0, "n_values": self.n_eigenvectors}
        for name, smallest in least.items():
            if (value := getattr(self, name)) < smallest:
                raise InputError(f"features of a report: {name}={value}; expected at least {smallest}")

    def windows(self, tokenizer: PreTrainedTokenizerBase, length: int) -> Windows:
        """The text as windows of tokens, as `document_windows` makes them."""
        return document_windows(tokenizer, self.text, length)


def read_dictionaries(folder: Path, model: nn.Module) -> tuple[LayerDictionaries, ...]:
    """The dictionaries in a folder, one folder each, paired by the MLPs that they lie around.

    A dictionary whose file does not tell its site is named by it, as `4-mlp-out`. Those of other sites, and
    of layers that have only one of the two, are left out; where both mlp-in and resid-mid are there,
    mlp-in is taken.

    Raises InputError where no layer has both sides, for a dictionary of another width or of a layer that
    the model does not have, and for two of one site.
    """
    by_site = dictionaries_in(folder, model)
    found = tuple(_paired(by_site))
    if not found:
        listed = ", ".join(map(str, sorted(by_site))) or "none"
        raise InputError(
            f"{folder}: no layer has a dictionary at mlp-in (or resid-mid) and one at mlp-out; got {listed}"
        )
    return found


def _paired(by_site: dict[Site, Dictionary]) -> Iterable[LayerDictionaries]:
    around = around_mlps(by_site)
    for layer in sorted({site.layer for site in around}):
        read, written = (
            [around[site] for point in points if (site := Site(layer, point)) in around]
            for points in (_READ, _WRITTEN)
        )
        if read and written:
            yield LayerDictionaries(layer, read[0], written[0])
