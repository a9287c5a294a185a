"""Options of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from analysis.features.dictionaries import LayerDictionaries
from analysis.text.windows import SEPARATOR, Windows, document_windows
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site

STORY = (
    "One morning, a girl named Lily saw a red kite in a tall tree. She wanted to help, but the tree was "
    'too big for her. "Do not be sad," said her friend Tom, "my dog and I can shake it!" They pushed and '
    "pushed until the kite fell on the soft grass. Lily was so happy that she let Tom fly it all day, and "
    "the little dog ran after them."
)
"""The text that is coloured by default."""


@shown
@dataclass(frozen=True)
class ReportOptions:
    """The choice of what goes on the page."""

    tokens: tuple[str, ...] = ()
    """Output directions to show in every layer: "A", or "A - B, C" for a token against others."""
    layers: tuple[int, ...] = ()
    """The layers to show; none named: all."""
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
    """The text on which the loss is measured; None: the text above."""
    prompt: str = "Once upon a time"
    """Where the sample of text begins."""
    sample_tokens: int = 100
    """The length of the sample; 0: no sample on the page."""
    temperature: float = 0.8
    """Temperature of the sample; 0 always takes the likeliest token."""
    seed: int = 0
    """Seed of the sample."""

    def __post_init__(self):
        least = {"n_directions": 0, "n_eigenvectors": 1, "n_tokens": 1, "n_heads": 0, "sample_tokens": 0}
        for name, smallest in least.items():
            if (value := getattr(self, name)) < smallest:
                raise InputError(f"report: {name}={value}; expected at least {smallest}")
        if not self.text.strip():
            raise InputError("report: the text to colour is empty; expected a sentence or more")
        if not self.tokens and not self.n_directions:
            raise InputError(
                "report: no directions to show; ask for tokens or for n_directions of at least 1"
            )


@shown
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
    names: Mapping[Site, Sequence[str]] = field(default_factory=dict)
    """Names of all features by site, where they were made before; those of other sites are made here."""
    given: Mapping[Site, Mapping[int, str]] = field(default_factory=dict)
    """A user's own names by site and number, which take the place of others."""

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
