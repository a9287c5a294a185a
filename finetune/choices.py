"""Settings that several commands have in common: names to choose from, and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bilinear_lm.errors import InputError
from bilinear_lm.text.files import clear_reading, read_plain_text

Method = Literal["fit", "closed-form", "linear"]
"""Methods of conversion: `finetune.conversion.convert`."""

Schedule = Literal["linear", "exponential", "logistic", "smootherstep"]
"""Schedules of annealing: `finetune.finetuning.annealing`."""

Precision = Literal["bfloat16", "float32"]
"""Precisions of the matrix products; weights and optimiser stay in float32."""

Ablation = Literal["zero", "mean"]
"""Values that activations are ablated to: `finetune.dictionaries.fidelity`."""

Store = Literal["float32", "bfloat16", "float16"]
"""Precisions of the weights on disk."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The part of a dataset that is read; files of plain text are read whole.

    Settings that choose one extend it.
    """

    subset: str | None = None
    """Subset (configuration) of a dataset folder or hub dataset; by default the only or the default one."""
    split: str | None = None
    """Split of a dataset folder or hub dataset; by default train."""
    column: str = "text"
    """Column with the text, in JSON Lines, CSV, TSV, Parquet and datasets."""

    @property
    def selection(self) -> Selection:
        """The selection alone, without the other settings of a class that extends it."""
        return Selection(subset=self.subset, split=self.split, column=self.column)


@dataclass(frozen=True, kw_only=True)
class ImageSelection:
    """The part of a dataset that is read; idx files and the digits are read whole."""

    subset: str | None = None
    """Subset (configuration) of a dataset; by default the only or the default one."""
    train_split: str = "train"
    """Split of a dataset to train on."""
    test_split: str = "test"
    """Split of a dataset to test on."""
    image_column: str | None = None
    """Column of a dataset with the images; by default the only one that holds images."""
    label_column: str | None = None
    """Column of a dataset with the classes; by default the only one that holds classes."""


TEXT_OF_TRAIN = Selection()
"""The column text of the split train, where nothing is chosen."""


def require_texts(data: Sequence[str], validation: Path | None, selection: Selection = TEXT_OF_TRAIN) -> None:
    """Raises InputError where there are no sources to train on, or no file with the held-out text.

    Also raises it for files that are no text, and for a selection that none of the sources can follow.
    """
    from finetune.data.sources import require_sources

    if not data:
        raise InputError("no data given; expected at least one text file, dataset folder or dataset name")
    if validation is not None:
        with clear_reading(validation):
            if not validation.is_file():
                raise InputError(f"{validation}: no such file; expected the held-out text there")
        if not read_plain_text(validation).strip():  # which is evaluated after all work
            raise InputError(f"{validation}: no text in it; expected held-out text")
    require_sources(data, selection)
