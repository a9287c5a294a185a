"""A dataset that `datasets` knows: a folder of files, a folder by `save_to_disk`, or a name on the hub.

`find_dataset` finds the subset and split that a selection names: as files to be read one by one, or as rows.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilinear_lm.checkpoints.huggingface import one_line
from bilinear_lm.errors import InputError
from bilinear_lm.files import lies_inside, read_json
from bilinear_lm.text.files import SUFFIXES, suffixes_of
from finetune.choices import Selection
from finetune.data.rows import Cell, require_column

_IGNORED = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
"""Files that `datasets` does not take for data."""


@dataclass(frozen=True)
class Split:
    """One split of a dataset: its rows, or the files that hold them where they are to be read one by one."""

    source: str
    files: tuple[str, ...] = ()
    """Paths or addresses, in the order of the rows."""
    separator: str | None = None
    """The text between the fields of those files, if they are CSV."""
    rows: Any = None
    """A dataset of `datasets`, in memory-mapped files or streamed."""

    def cells(self, column: str) -> Iterator[Cell]:
        """The values of a column in all rows, with their numbers from 1 on."""
        rows = self.rows
        if rows.column_names is not None:
            require_column(self.source, rows.column_names, column)
            rows = rows.select_columns([column])
        for number, row in enumerate(rows, 1):
            if column not in row:
                require_column(self.source, list(row), column)
            yield f"row {number}", row[column]


def find_split(
    source: str,
    folder: Path | None,
    selection: Selection,
    option: str = "--split",
    others: str = "a text file",
) -> Split:
    """The split of a folder, or of a dataset on the hub where `folder` is None.

    `option` is the one that names the split, `others` are what a source may be besides. Raises InputError,
    with the names there are, for a subset or split that is not there, and for a folder where files would be
    left out.
    """
    if folder is not None:
        next(folder.iterdir(), None)  # raises where it may not be read, which datasets takes for empty
    if folder is not None and ((folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()):
        return _saved(folder, selection, option)
    if folder is not None and glob.has_magic(str(folder.resolve())):  # datasets would look for a pattern
        raise InputError(f"{source}: a folder with *, ? or [ in its name; rename it, or give its files")
    builder = _builder(source, selection, others)
    split = selection.split or "train"
    files = {str(name): tuple(map(str, each)) for name, each in (builder.config.data_files or {}).items()}
    if folder is not None:
        _require_inside(folder, [file for each in files.values() for file in each])
        _require_all(folder, files)
    if not _read_here(builder, folder is not None):
        return Split(source, rows=builder.as_streaming_dataset(split=split))
    if split not in files:
        raise _no_split(source, split, list(files), option)
    return Split(source, files[split], getattr(builder.config, "sep", None))


def _builder(source: str, selection: Selection, others: str) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return datasets.load_dataset_builder(source, name=selection.subset)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            f"{source}: neither {others}, nor a folder or hub name that holds a dataset ({one_line(error)})"
        ) from error


def _read_here(builder: Any, local: bool) -> bool:
    """Whether the files are to be read one by one: text always, others if no options for them are given."""
    config = builder.config
    if builder.name == "text":
        return config.sample_by == "line"
    if builder.name == "csv" and local:
        return config.pd_read_csv_kwargs == type(config)(sep=config.sep).pd_read_csv_kwargs
    return builder.name == "json" and local and config.field is None


def _saved(folder: Path, selection: Selection, option: str) -> Split:
    """The split of a folder by `save_to_disk`, which holds one dataset, or one for each split."""
    import datasets

    where = folder
    if selection.subset is not None:
        raise InputError(f"{folder}: saved without subsets; leave --subset {selection.subset} out")
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits")
        split = selection.split or "train"
        if not isinstance(splits, list) or split not in splits:
            raise _no_split(str(folder), split, splits if isinstance(splits, list) else [], option)
        where = folder / split
        _require_inside(folder, [str(where)])
    elif selection.split is not None:
        raise InputError(f"{folder}: saved without splits; leave {option} {selection.split} out")
    parts = read_json(where / "state.json").get("_data_files")
    names = [part.get("filename") for part in parts or () if isinstance(part, dict)]
    _require_inside(folder, [str(where / str(name)) for name in names])
    return Split(str(folder), rows=datasets.load_from_disk(str(where)))


def _no_split(source: str, split: str, splits: Sequence[Any], option: str) -> InputError:
    names = ", ".join(map(str, splits)) or "none"
    return InputError(f"{source}: no split {split}; the splits are {names}, choose with {option}")


def _require_inside(folder: Path, files: Sequence[str]) -> None:
    """Raises InputError for a file that lies elsewhere, which the folder only names or links to."""
    for file in files:
        if not lies_inside(folder, Path(file)):
            raise InputError(f"{folder}: names {file}, which lies outside of it; give that file itself")


def _require_all(folder: Path, files: Mapping[str, Sequence[str]]) -> None:
    """Raises InputError for files of text that belong to no split, unless the folder's card says which do.

    `datasets` leaves out all but one kind of files, and all that have no split's name where others have one.
    """
    card = folder / "README.md"
    if card.is_file() and "configs:" in card.read_text(encoding="utf-8", errors="replace"):
        return
    read = {Path(file) for each in files.values() for file in each}
    left = [
        path
        for path in sorted(folder.resolve().rglob("*"))
        if suffixes_of(path.name)[0] in SUFFIXES and path.name not in _IGNORED and path not in read
        if not any(part.startswith((".", "__")) for part in path.relative_to(folder.resolve()).parts)
        if path.is_file()
    ]
    if left:
        names = ", ".join(path.name for path in left[:3]) + (f" and {len(left) - 3} more" if left[3:] else "")
        splits = "; ".join(f"{split}: {len(each)} files" for split, each in files.items())
        raise InputError(
            f"{folder}: {names} would be left out beside {splits}; give the files themselves, or folders of "
            "one kind of files each"
        )
