"""Rows of a file with columns, and the texts in one of them."""

from __future__ import annotations

import csv
import io
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilinear_lm.checkpoints.huggingface import one_line
from bilinear_lm.errors import InputError
from bilinear_lm.text.files import Kind, plain_text

Cell = tuple[str, Any]
"""The place of a value in a column, such as "line 3", and the value."""

_SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON can write and UTF-8 cannot."""

_LONGEST = (1 << 31) - 1
"""Largest number of characters in a field of CSV; Python's own limit, for all readers of CSV, is 131,072."""


def column_of(
    source: Path | str, kind: Kind, file: io.BufferedReader, column: str, separator: str | None = None
) -> Iterator[Cell]:
    """The values of a column in a file of JSON Lines, CSV, TSV, Parquet or Arrow, one after the other."""
    if kind == "JSON Lines":
        return _json_column(source, file, column)
    if kind in ("CSV", "TSV"):
        return _csv_column(source, file, column, separator or ("\t" if kind == "TSV" else ","))
    return _arrow_column(source, kind, file, column)


def texts_of(source: Path | str, cells: Iterable[Cell], column: str) -> Iterator[str]:
    """The texts of a column; empty ones are left out.

    Raises InputError, with its row, for a value that is no text.
    """
    for where, value in cells:
        if value is None:
            raise InputError(f"{source}: {where} has no text in {column!r}; expected one in every row")
        if not isinstance(value, str):
            raise InputError(
                f"{source}: {where} has {_shown(value)} in {column!r}; expected text, choose another column "
                "with --column"
            )
        if not value.isascii() and _SURROGATES.search(value):
            raise InputError(f"{source}: {where} has half a character (a lone surrogate); expected text")
        if value:
            yield value


def require_column(source: Path | str, columns: Sequence[str], column: str) -> None:
    """Raises InputError, with the names to choose from, unless there is one column of that name."""
    if column not in columns:
        raise InputError(
            f"{source}: columns {', '.join(map(str, columns))}; expected one named {column}, "
            "choose with --column"
        )
    if columns.count(column) > 1:
        raise InputError(f"{source}: {columns.count(column)} columns named {column}; expected one")


def _shown(value: Any) -> str:
    """The head of a value, and its type."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def _json_column(source: Path | str, file: io.BufferedReader, column: str) -> Iterator[Cell]:
    for where, row in _json_rows(source, file):
        if not isinstance(row, dict):
            raise InputError(f"{source}: {where} is {_shown(row)}; expected a JSON object")
        if column not in row:
            require_column(f"{source}: {where}", list(row), column)
        yield where, row[column]


def _json_rows(source: Path | str, file: io.BufferedReader) -> Iterator[Cell]:
    """The values of a file with one on each line, or of one list, whose texts are rows of a column text."""
    lines = plain_text(file, newline="\n")
    for number, line in enumerate(lines, 1):
        if number == 1 and line.lstrip().startswith("["):
            rows = _parsed(source, "the list", line + lines.read())
            for count, row in enumerate(rows, 1):
                yield f"row {count}", {"text": row} if isinstance(row, str) else row
        elif line.strip():
            yield f"line {number}", _parsed(source, f"line {number}", line)


def _parsed(source: Path | str, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise InputError(
            f"{source}: {where} is not JSON that can be read ({reason}); expected an object on each line, or "
            "one list of them"
        ) from error


def _csv_column(source: Path | str, file: io.BufferedReader, column: str, separator: str) -> Iterator[Cell]:
    csv.field_size_limit(_LONGEST)
    rows = csv.reader(plain_text(file, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    try:
        for row in filter(None, rows):
            if header is None:
                require_column(source, row, column)
                header, index = row, row.index(column)
                continue
            where = f"the row that ends on line {rows.line_num}"
            if len(row) != len(header):
                raise InputError(f"{source}: {where} has {len(row)} fields; expected {len(header)}")
            yield where, row[index]
    except csv.Error as error:
        raise InputError(
            f"{source}: not CSV on line {rows.line_num} ({error}); expected fields separated by "
            f'{separator!r} and quoted by "'
        ) from error


def _arrow_column(source: Path | str, kind: Kind, file: io.BufferedReader, column: str) -> Iterator[Cell]:
    number = 0
    with _undamaged(source, kind):
        for batch in _batches(source, kind, file, column):
            for value in batch.column(column).to_pylist():
                number += 1
                yield f"row {number}", value


@contextmanager
def _undamaged(source: Path | str, kind: Kind) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of what the file holds
        raise InputError(
            f"{source}: no {kind} that can be read ({one_line(error)}); it is damaged or cut short, "
            "fetch it again"
        ) from error


def _batches(source: Path | str, kind: Kind, file: io.BufferedReader, column: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole: Any = file if isinstance(file.raw, io.FileIO) else io.BytesIO(file.read())  # read from its end on
    if kind == "Parquet":
        parquet = pq.ParquetFile(whole)
        require_column(source, parquet.schema_arrow.names, column)
        yield from parquet.iter_batches(batch_size=1024, columns=[column])
        return
    in_file = whole.read(6) == b"ARROW1"  # else as a stream, which begins otherwise
    whole.seek(0)
    reader = pa.ipc.open_file(whole) if in_file else pa.ipc.open_stream(whole)
    require_column(source, reader.schema.names, column)
    yield from (reader.get_batch(n) for n in range(reader.num_record_batches)) if in_file else reader
