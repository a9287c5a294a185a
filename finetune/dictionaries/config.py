"""Settings of training dictionaries; the command line is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bilinear_lm.checks import require_seed
from bilinear_lm.device import DeviceName
from bilinear_lm.errors import InputError
from bilinear_lm.site_names import Point, Site
from finetune.bounds import (
    COUNT,
    COUNT_FROM_ZERO,
    FROM_ZERO,
    PASSES,
    POSITIVE,
    RATE,
    require_bounds,
    require_kinds,
)
from finetune.choices import Ablation, Selection, require_texts

_COUNTS = ("features", "k", "max_tokens", "validation_tokens", "batch_size", "checkpoint_steps")

_BOUNDS = {
    **dict.fromkeys(_COUNTS, COUNT),
    "passes": PASSES,
    "dead_after": COUNT_FROM_ZERO,
    "learning_rate": RATE,
    "dead_weight": FROM_ZERO,
}


@dataclass(frozen=True)
class DictionaryConfig(Selection):
    """Settings of training the dictionaries of a model; on a CPU the same ones give the same dictionaries."""

    model: tyro.conf.Positional[str]
    """Folder, hub repository, or name of a shipped model."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """New folder for the dictionaries, one folder `{layer}-{point}` each."""
    data: tuple[str, ...]
    """Files of text (documents separated by <|endoftext|>), JSON Lines, CSV or Parquet, compressed or not,
    folders of them, dataset folders, or names of datasets on the hub."""
    layers: tuple[int, ...] = ()
    """Layers to describe; all of them by default."""
    points: tuple[Point, ...] = ("mlp-in", "mlp-out")
    """Points of each layer to describe."""
    features: int | None = None
    """Features of a dictionary; by default four times the width of the model."""
    k: int = 20
    """Features active on each token."""
    max_tokens: int | None = None
    """At most so many tokens are read from each source; needed for endless datasets."""
    passes: float = 1.0
    """Passes over the tokens."""
    validation: Path | None = None
    """Held-out file of plain text to measure the dictionaries on."""
    validation_tokens: int = 50_000
    """Largest number of its tokens to use."""
    ablation: Ablation = "zero"
    """Baseline of the loss recovered: activations set to zero, or to their mean."""
    batch_size: int = 8
    """Windows a step; a window fills the context."""
    window: int | None = None
    """Tokens of a window, with the first one in front; by default it fills the context."""
    learning_rate: float | None = None
    """Step size of the signs of the gradients; by default 0.64 / sqrt(features), sparsify's rule."""
    dead_after: int = 100_000
    """Tokens without activity after which a feature is trained on what the others leave."""
    dead_weight: float = 1 / 32
    """Weight of that training in the loss."""
    seed: int = 0
    """Seeds the weights, the order of the data and the cuts between windows."""
    store: Literal["float32", "float16"] = "float32"
    """Precision of the weights on disk."""
    device: DeviceName = "auto"
    """Where to train."""
    checkpoint_steps: int = 500
    """Steps between checkpoints to resume from."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""

    def check(self) -> None:
        """Raises InputError where the settings do not fit together."""
        require_kinds(self)
        require_texts(self.data, self.validation, self.selection)
        if not self.points:
            raise InputError("no points given; expected at least one, such as mlp-out")
        for name in ("k", "features", "passes", "batch_size", "learning_rate", "validation_tokens"):
            require_bounds(self, {name: POSITIVE}, "a positive number", is_="is ")
        for name, bounds in _BOUNDS.items():
            require_bounds(self, {name: bounds}, is_="is ")
        require_seed(self.seed)

    def sites(self, n_layers: int) -> list[Site]:
        """The sites to describe in a model of `n_layers` layers, each once."""
        layers = tuple(dict.fromkeys(self.layers)) or tuple(range(n_layers))
        if unknown := [layer for layer in layers if not 0 <= layer < n_layers]:
            raise InputError(f"layer {unknown[0]} does not exist; the model has layers 0 to {n_layers - 1}")
        return [Site(layer, point) for layer in layers for point in dict.fromkeys(self.points)]
