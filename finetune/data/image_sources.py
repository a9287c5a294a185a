"""`read_images`: labelled images of a folder of idx files, a dataset, or scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.files import told
from bilinear_lm.images.data import ImageData, numbered
from bilinear_lm.images.digits import DIGITS, read_digits
from bilinear_lm.images.idx import is_idx_folder, read_idx_folder
from bilinear_lm.text.files import clear_reading
from finetune.choices import ImageSelection, Selection
from finetune.data.dataset_folders import find_split
from finetune.data.sources import dataset_refusals, existing

_CHOICES = "--subset, --train-split, --test-split, --image-column and --label-column choose what is read"


_OTHERS = f"{DIGITS}, nor a folder of idx files"
"""Sources besides a dataset, as refusals name them."""

WHOLE = ImageSelection()


def read_images(source: str, selection: ImageSelection = WHOLE) -> ImageData:
    """The images and classes of a source.

    A source is `digits` (those of scikit-learn), a folder with the four idx files of MNIST and its like, a
    folder of images or Parquet that `datasets` reads or that `save_to_disk` wrote, or the name of a dataset
    on the hub. Of a dataset, `selection` names subset, splits and columns; classes are a ClassLabel or
    numbers.

    Raises InputError, in one line, for a source that cannot be read, and for images that are not grey or not
    of one size.

    >>> read_images("digits").image_shape  # doctest: +SKIP
    (8, 8)
    """
    with clear_reading(source):
        if source == DIGITS:
            _require_whole(source, selection)
            return read_digits()
        path = existing(source)
        if path is not None and path.is_file():
            raise InputError(
                f"{source}: is a file; expected a folder of idx files, a dataset's folder or name, or "
                f"{DIGITS}"
            )
        if path is not None and is_idx_folder(path):
            _require_whole(source, selection)
            return read_idx_folder(path)
        with dataset_refusals(source, _CHOICES):
            return _of_dataset(source, path, selection)


def _require_whole(source: str, selection: ImageSelection) -> None:
    if selection != WHOLE:
        raise InputError(
            f"{source}: is read whole, without subsets, splits and columns; leave their options out"
        )


def _of_dataset(source: str, folder: Path | None, selection: ImageSelection) -> ImageData:
    splits = [
        _split(source, folder, selection, getattr(selection, name), f"--{name.replace('_', '-')}")
        for name in ("train_split", "test_split")
    ]
    (images, labels, names), (test_images, test_labels, test_names) = splits
    if names != test_names:
        raise InputError(
            f"{source}: classes {names} in one split, {test_names} in the other; expected the same"
        )
    names = names or numbered((labels, test_labels))
    return ImageData(images, labels, test_images, test_labels, names, name=told(source))


def _split(
    source: str, folder: Path | None, selection: ImageSelection, split: str, option: str
) -> tuple[UInt8[Tensor, "n h w"], Int64[Tensor, " n"], tuple[str, ...]]:
    """Images, labels and class names of one split; no names where the labels are numbers."""
    chosen = Selection(subset=selection.subset, split=split)
    rows = find_split(source, folder, chosen, option, _OTHERS).rows
    if rows is None:
        raise InputError(f"{source}: files of text; expected a dataset with a column of images")
    features = rows.features if rows.features is not None else rows._resolve_features().features
    image_column = _column(source, features, selection.image_column, "Image", "image")
    label_column = _column(source, features, selection.label_column, "ClassLabel", "label")
    names = tuple(getattr(features[label_column], "names", None) or ())
    images, labels = [], []
    for number, row in enumerate(rows.select_columns([image_column, label_column]), 1):
        where = f"{source}: row {number} of {split}"
        images.append(_grey(row[image_column], where))
        if images[-1].shape != images[0].shape:
            sizes = " and ".join(" × ".join(map(str, each.shape)) for each in (images[0], images[-1]))
            raise InputError(f"{where}: images of {sizes} pixels; expected one size, resize them")
        labels.append(_label(row[label_column], where, label_column))
    if not images:
        raise InputError(f"{source}: no images in {split}; expected some, choose with {option}")
    return torch.from_numpy(np.stack(images)), torch.tensor(labels), names


def _column(source: str, features: Any, given: str | None, kind: str, what: str) -> str:
    """The column that is named, or the only one of its kind."""
    option = f"--{what}-column"
    if given is not None:
        if given not in features:
            raise InputError(
                f"{source}: no column {given}; the columns are {', '.join(features)}, choose with {option}"
            )
        return given
    of_kind = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(of_kind) != 1:
        got = f"columns {', '.join(of_kind)}" if of_kind else f"no column among {', '.join(features)}"
        raise InputError(f"{source}: {got} of type {kind}; expected one, choose with {option}")
    return of_kind[0]


def _grey(image: Any, where: str) -> np.ndarray:
    """The bytes of a grey image, [height, width]."""
    mode = getattr(image, "mode", None)
    if mode not in ("L", "1"):
        got = f"an image in mode {mode}" if mode else f"a {type(image).__name__}"
        raise InputError(f"{where}: {got}; expected a grey image of bytes, convert with image.convert('L')")
    return np.array(image.convert("L"))


def _label(label: Any, where: str, column: str) -> int:
    whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole or not 0 <= label < 1 << 31:
        got = f"{label}" if whole else f"a {type(label).__name__}"
        raise InputError(f"{where}: {got} in {column}; expected the number of a class, 0 or more")
    return label
