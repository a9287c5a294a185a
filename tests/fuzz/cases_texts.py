"""Cases of texts: what is no text, text in other clothes, and text that is hard to read."""

import csv
import gzip
import io
import json
from random import Random

from calls import CALLS, READ_TEXT
from sandbox import Case

STORY = "A cat ran to the park. They saw a ball. " * 200


def _parquet(rows):
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(rows), sink)
    return sink.getvalue()


def _csv(rows):
    sink = io.StringIO()
    csv.writer(sink).writerows(rows)
    return sink.getvalue().encode()


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


ROWS = [{"text": STORY[: 400 + i]} for i in range(20)]
TEXTS = {
    "empty.txt": b"",
    "blank.txt": b" \n\t\n" * 50,
    "one-letter.txt": b"a",
    "binary.txt": bytes(range(256)) * 100,
    "utf-16.txt": STORY.encode("utf-16"),
    "latin-1.txt": ("caf\xe9 " * 500).encode("latin-1"),
    "byte-order-mark.txt": STORY.encode("utf-8-sig"),
    "null-bytes.txt": STORY.replace(" ", "\0").encode(),
    "escapes.txt": b"\\ud800 \\udfff " * 500,
    "surrogates.txt": b"\xed\xa0\x80" * 500,
    "separators.txt": b"<|endoftext|>" * 100_000,
    "long-line.txt": b"A cat ran to the park. " * 100_000,
    "long-word.txt": b"a" * 1_000_000,
    "carriage-returns.txt": STORY.replace(". ", ".\r").encode(),
    "emoji.txt": ("\U0001f408\u200d\u2b1b\ufe0f" * 2000).encode(),
    "special.txt": b"<|begin|><|endoftext|><s></s>[UNK] " * 500,
    "lines.jsonl": _lines(ROWS),
    "null.jsonl": _lines([*ROWS, {"text": None}]),
    "number.jsonl": _lines([*ROWS, {"text": 7}]),
    "other-column.jsonl": _lines([{"story": row["text"]} for row in ROWS]),
    "broken.jsonl": _lines(ROWS) + b'{"text": ',
    "deep.jsonl": b'{"text":' * 5_000,
    "digits.jsonl": b'{"text": ' + b"7" * 5000 + b"}\n",
    "object.json": json.dumps({"text": STORY}).encode(),
    "list.json": json.dumps(ROWS).encode(),
    "table.csv": _csv([["text"], *([row["text"]] for row in ROWS)]),
    "ragged.csv": _csv([["text"], *([row["text"]] * (i % 3) for i, row in enumerate(ROWS))]),
    "quotes.csv": b'text\n"A cat' + b"\n" * 10,
    "table.parquet": _parquet({"text": [row["text"] for row in ROWS]}),
    "numbers.parquet": _parquet({"text": [1, 2, 3]}),
    "broken.parquet": _parquet({"text": ["a"]})[:-20],
    "story.txt.gz": gzip.compress(STORY.encode()),
    "lines.jsonl.gz": gzip.compress(_lines(ROWS)),
    "broken.txt.gz": gzip.compress(STORY.encode())[:-9],
    "no.gz": b"no archive",
    "bomb.txt.gz": gzip.compress(b"a cat " * 8_000_000),
    "story.zip": b"PK\x03\x04" + bytes(100),
    "page.html": b"<!DOCTYPE html><p>" + STORY.encode(),
    "lfs-pointer.txt": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"4d7a" * 16
    + b"\nsize 1\n",
}
FOLDERS = {
    "folder-of-texts": {"a.txt": STORY.encode(), "b.txt": STORY.encode()},
    "folder-of-nothing": {},
    "folder-of-pictures": {"a.png": b"\x89PNG\r\n\x1a\n" + bytes(50)},
    "folder-of-both": {"a.txt": STORY.encode(), "b.jsonl": _lines(ROWS)},
    "folder-of-code": {"folder-of-code.py": b"raise SystemExit('ran')", "a.txt": STORY.encode()},
    "saved-dataset": {
        "dataset_info.json": b"{}",
        "state.json": b'{"_data_files": [{"filename": "../a.arrow"}]}',
    },
    "saved-dataset-deep": {"dataset_info.json": b"[" * 100_000, "state.json": b"{}"},
    "saved-dict": {"dataset_dict.json": b'{"splits": ["../../train"]}'},
}


STORIES = tuple(row["text"] for row in ROWS)
READ_AS = {
    **dict.fromkeys(("lines.jsonl", "lines.jsonl.gz", "list.json", "table.csv", "table.parquet"), STORIES),
    **dict.fromkeys(("object.json", "story.txt.gz", "byte-order-mark.txt"), (STORY,)),
    "folder-of-texts": (STORY, STORY),
}
"""The documents that a file holds, whatever it is."""


def same_cases():
    """A conversion on a file is that on a text of its documents, or the file is refused."""
    call = CALLS["convert"]
    for name, documents in READ_AS.items():

        def spoil(folder, random, name=name, documents=documents):
            _writer(name)(folder, random)
            (folder / "in" / "plain.txt").write_text("<|endoftext|>".join(documents))

        yield Case(
            f"same/{name}",
            call.where("--calibration", f"in/{name}"),
            call.uses,
            spoil,
            outputs=call.outputs,
            like=call.where("--calibration", "in/plain.txt", "--output", "out/like", drop=("--output",)),
        )


def cases(seed):
    yield from same_cases()
    random = Random(f"{seed} texts")
    reading = [(command, option) for command, names in READ_TEXT.items() for option in names]
    data = [pair for pair in reading if pair[1] in ("--data", "--calibration")]
    for name in [*TEXTS, *FOLDERS]:
        chosen = [*random.sample(data, 2), *random.sample(sorted(set(reading) - set(data)), 1)]
        if name == "bomb.txt.gz":  # which the others read whole, however long that takes
            chosen = [pair for pair in chosen if pair[0] in _LIMITED and pair in data]
        for command, option in chosen:
            call = CALLS[command]
            yield Case(
                f"text/{name}/{command}{option}",
                (*call.where(option, f"in/{name}"), *_LIMITED.get(command, ())),
                call.uses,
                _writer(name),
                outputs=call.outputs,
            )


_LIMITED = {"train": ("--max-tokens", "6000"), "dictionaries": ("--max-tokens", "1200")}


def _writer(name):
    def spoil(folder, random):
        path = folder / "in" / name
        if name in TEXTS:
            path.write_bytes(TEXTS[name])
            return
        path.mkdir()
        for file, data in FOLDERS[name].items():
            (path / file).write_bytes(data)

    return spoil
