"""`documents`: the texts of a source, which is a file, a folder or a dataset on the hub.

`datasets` finds what a folder or a hub name holds, and reads what it alone can. Text, JSON Lines and CSV are
read here, exactly as they are written: `datasets` makes a document of each line of a text, a date of a text
that looks like one, and nothing of the text "NA".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bilinear_lm.checkpoints.huggingface import one_line
from bilinear_lm.errors import InputError
from bilinear_lm.text.files import Kind, clear_reading, opened_text, plain_text
from finetune.choices import TEXT_OF_TRAIN, Selection
from finetune.data.dataset_folders import find_split
from finetune.data.rows import Cell, column_of, texts_of

END_OF_TEXT = "<|endoftext|>"
"""Separates documents, and is the end-of-text token of tokenizers trained here."""


def documents(source: str, selection: Selection = TEXT_OF_TRAIN) -> Iterator[str]:
    """The documents of a source.

    A source is a file (plain text, JSON Lines, CSV, TSV, Parquet or Arrow, compressed or not), a folder of
    such files, a folder that `save_to_disk` wrote, or the name of a dataset on the hub, which is streamed.
    Of a dataset, `selection` names subset, split and column. A document is what lies between separators
    `<|endoftext|>`, in a file of text or in one row, without blank lines at its ends.

    Raises InputError, in one line, for a source that cannot be read and for a row whose value is no text.
    """
    with clear_reading(source):
        path = existing(source)
        if path is not None and path.is_file():
            yield from _of_file(path, selection)
        else:
            with dataset_refusals(source):
                yield from _of_dataset(source, path, selection)


@contextmanager
def dataset_refusals(
    source: str, choices: str = "--subset, --split and --column choose what is read"
) -> Iterator[None]:
    """Turns errors of `datasets` and pyarrow about a source into an InputError that quotes their message.

    `choices` says by which options another part of it is read.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise  # of the disk
        raise InputError(f"{source}: cannot be read ({one_line(error)}); run again") from error
    except _failures() as error:
        raise InputError(
            f"{source}: cannot be read as a dataset ({one_line(error)}); {choices}"
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    import httpx
    import pyarrow
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from yaml import YAMLError

    general = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError)
    return (*general, pyarrow.ArrowException, DatasetsError, HfHubHTTPError, httpx.HTTPError, YAMLError)


def require_sources(sources: Sequence[str], selection: Selection) -> None:
    """Raises InputError for a file that is no text, and for a selection that none of the sources can follow.

    To be asked before long work. The contents of a folder or a name on the hub are seen only when it is read.
    """
    kinds = [_kind(source) for source in sources]
    listed = ", ".join(sources)
    if selection != TEXT_OF_TRAIN and set(kinds) == {"plain text"}:
        raise InputError(
            f"{listed}: plain text, of which no column, split or subset can be chosen; leave --column, "
            "--split and --subset out"
        )
    if (selection.split or selection.subset) and None not in kinds:
        raise InputError(
            f"{listed}: files, of which no split or subset can be chosen; leave --split and --subset out"
        )


def _kind(source: str) -> Kind | None:
    """The kind of a file; None for a folder and a name on the hub."""
    with clear_reading(source):
        path = existing(source)
        if path is None or path.is_dir():
            return None
        with opened_text(path) as (kind, _):
            return kind


def existing(source: str) -> Path | None:
    """The file or folder of this name, if there is one."""
    if not source:
        raise InputError("a source without a name; expected a file, a folder or the name of a dataset")
    path = Path(source)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name with a NUL
        return None
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{source}: neither a file nor a folder; expected text that can be read twice")
    return path


def _of_file(
    path: Path | str,
    selection: Selection,
    opened: Callable[[], Any] | None = None,
    separator: str | None = None,
) -> Iterator[str]:
    with opened_text(path, opened) as (kind, file):
        if kind == "plain text":
            yield from _separated(plain_text(file))
        else:
            cells = column_of(path, kind, file, selection.column, separator)
            yield from _in_rows(path, cells, selection)


def _of_dataset(source: str, folder: Path | None, selection: Selection) -> Iterator[str]:
    split = find_split(source, folder, selection)
    if split.rows is not None:
        yield from _in_rows(source, split.cells(selection.column), selection)
    for file in split.files:
        opened = partial(_opened_address, file) if "://" in file else None
        yield from _of_file(file, selection, opened, split.separator)


def _opened_address(address: str) -> Any:
    import fsspec

    return fsspec.open(address, "rb").open()


def _in_rows(source: Path | str, cells: Iterable[Cell], selection: Selection) -> Iterator[str]:
    for text in texts_of(source, cells, selection.column):
        yield from _separated([text])


def _separated(pieces: Iterable[str]) -> Iterator[str]:
    """The documents of a text that comes in pieces, none of which cuts a separator."""
    parts: list[str] = []
    for piece in pieces:
        *ends, rest = piece.split(END_OF_TEXT)
        for end in ends:
            if text := _trimmed("".join([*parts, end])):
                yield text
            parts = []
        parts.append(rest)
    if text := _trimmed("".join(parts)):
        yield text


def _trimmed(text: str) -> str:
    """The text without blank lines at its ends; blanks within a line stay, as its indentation does."""
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if begin >= end:
        return ""
    first = max(text.rfind(mark, 0, begin) for mark in "\r\n") + 1
    lasts = [at for mark in "\r\n" if (at := text.find(mark, end)) >= 0]
    return text[first : min(lasts, default=len(text))]
