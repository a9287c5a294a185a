"""Files of text: the kind of a file, by its bytes and its name, and the text of a plain one.

A compressed file (gzip, bzip2, xz, zstd) is of the kind that it holds.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal

from bilinear_lm.errors import InputError
from bilinear_lm.files import reading, require_content

Kind = Literal["plain text", "JSON Lines", "CSV", "TSV", "Parquet", "Arrow"]

SUFFIXES: dict[str, Kind] = {
    ".txt": "plain text",
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".json": "JSON Lines",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
}
"""Kinds by a file's name; other files are plain text unless their bytes say otherwise."""

_BINARY: dict[bytes, Kind] = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\xff\xff\xff\xff": "Arrow"}

_NO_TEXT = {
    b"PK\x03\x04": "a ZIP archive; unpack it and give the files",
    b"\xff\xfe": "not UTF-8 text (it begins as UTF-16 does); expected UTF-8, save it as that",
    b"\xfe\xff": "not UTF-8 text (it begins as UTF-16 does); expected UTF-8, save it as that",
}

_HEAD = 1 << 20
"""Bytes by which a file's kind is told."""


def suffixes_of(name: str) -> tuple[str, str]:
    """The last two parts of a file's name that say what it holds and how it is compressed, in small letters.

    >>> suffixes_of("pages.jsonl.GZ"), suffixes_of("pages.jsonl")
    (('.jsonl', '.gz'), ('.jsonl', ''))
    """
    path = PurePath(name.lower())
    compressed = path.suffix if path.suffix in (".gz", ".bz2", ".xz", ".zst") else ""
    return path.with_suffix("").suffix if compressed else path.suffix, compressed


@contextmanager
def clear_reading(source: Path | str) -> Iterator[None]:
    """Turns errors of the disk or of a damaged file into an InputError about `source`."""
    with reading(Path(source)):
        try:
            yield
        except UnicodeDecodeError as error:
            raise InputError(f"{source}: not UTF-8 text ({error}); expected a file of text") from error
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(
                f"{source}: compressed, and damaged or cut short ({error}); fetch it again"
            ) from error


def read_plain_text(path: Path) -> str:
    """The text of a file of plain UTF-8 text, compressed or not, without a byte-order mark.

    Raises InputError for a file of another kind: text among braces and commas is no plain text.
    """
    with clear_reading(path), opened_text(path) as (kind, file):
        if kind != "plain text":
            raise InputError(f"{path}: holds {kind}; expected a file of plain text")
        return plain_text(file).read()


def plain_text(file: io.BufferedReader, newline: str | None = None) -> io.TextIOWrapper:
    r"""A file of UTF-8 as text, without a byte-order mark; lines end with \n unless `newline` says other."""
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


@contextmanager
def opened_text(
    source: Path | str, opened: Callable[[], Any] | None = None
) -> Iterator[tuple[Kind, io.BufferedReader]]:
    """The kind of a file of text and its bytes, decompressed, from the first on.

    `opened` opens the file where it does not lie at a path. Raises InputError for UTF-16, archives, and
    whatever is no text.
    """
    if opened is None:
        require_content(Path(source), "expected one there")
    with ExitStack() as stack:
        raw = Path(source).open("rb", buffering=0) if opened is None else opened()  # noqa: SIM115
        file = stack.enter_context(io.BufferedReader(raw, _HEAD))
        while (unpack := _decompression(source, file.peek())) is not None:
            file = stack.enter_context(io.BufferedReader(unpack(file), _HEAD))
        yield _kind(source, file.peek()), file


def _decompression(source: Path | str, head: bytes) -> Callable[[Any], Any] | None:
    """The decompressor of a file that begins with `head`; None where it is not compressed."""
    if head.startswith(b"\x1f\x8b\x08"):
        return lambda file: gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return bz2.BZ2File
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            import zstandard
        except ImportError as error:
            raise InputError(
                f"{source}: compressed by zstd, which needs a library ({error}); pip install zstandard"
            ) from error
        return lambda file: zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return None


def _kind(source: Path | str, head: bytes) -> Kind:
    for begin, kind in _BINARY.items():
        if head.startswith(begin):
            return kind
    for begin, reason in _NO_TEXT.items():
        if head.startswith(begin):
            raise InputError(f"{source}: {reason}")
    if head[257:262] == b"ustar":
        raise InputError(f"{source}: a tar archive; unpack it and give the files")
    kind = SUFFIXES.get(suffixes_of(str(source))[0], "plain text")
    if b"\x00" in head[: 1 << 13] and kind not in ("Parquet", "Arrow"):
        raise InputError(f"{source}: not UTF-8 text (it holds NUL bytes); expected a file of text")
    return "JSON Lines" if kind == "plain text" and _is_json_lines(head) else kind


def _is_json_lines(head: bytes) -> bool:
    """Whether a file's first two lines, or the one there is, are JSON objects each."""
    first, *others = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 2)
    if not _is_object(first):
        return False
    if not others or not (second := others[0]).strip():
        return True
    ends_here = len(others) == 2
    return _is_object(second) if ends_here else second.lstrip().startswith(b"{")


def _is_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
