"""Documents of sources: kinds of files, folders of them, datasets; what cannot be read, in one line."""

import bz2
import dataclasses
import gzip
import json
import lzma
import shutil
import tarfile

import datasets
import pyarrow as pa
import pytest

from bilinear_lm import InputError
from bilinear_lm.cli import main
from finetune import finetune
from finetune.choices import Selection
from finetune.data.sources import END_OF_TEXT, require_sources

from .reading import CARD, READ, ROWS, parquet, read, refusal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"One.\nTwo.\n{END_OF_TEXT}\nThree.{END_OF_TEXT}Four.\n{END_OF_TEXT}\n\n{END_OF_TEXT}Five.",
            ["One.\nTwo.", "Three.", "Four.", "Five."],
        ),
        ("    indented\n  less\n", ["    indented\n  less"]),
        (f"\n \t\n\tindented  \n\n \n{END_OF_TEXT}\n  \n", ["\tindented  "]),
        (f"One. {END_OF_TEXT} Two.", ["One. ", " Two."]),
        (f"One.\r\n\r\n{END_OF_TEXT}\r\n\r\n  Two.\r\nMore.\r\n", ["One.", "  Two.\nMore."]),
        ("\ufeff  One.", ["  One."]),
        (f"\ufeff{END_OF_TEXT}\ufeffOne.", ["\ufeffOne."]),
        (f"{END_OF_TEXT}\n{END_OF_TEXT}{END_OF_TEXT}", []),
        (" \n\t\n", []),
        ("", []),
    ],
)
def test_documents_of_a_text_file(write, text, expected):
    assert read(write("text.txt", text)) == expected
    assert read(write("text", text)) == expected
    assert read(write("text.txt.gz", gzip.compress(text.encode()))) == expected


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: data])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", ROWS),
        ("a.ndjson", "\ufeff" + ROWS.replace("\n", "\r\n\r\n")),
        ("a.json", json.dumps([json.loads(line) for line in ROWS.splitlines()], indent=2)),
        ("a.json", ROWS),
        ("a.json", '["One.", "  Two.\\nMore."]'),
        ("a", ROWS),
        ("a.txt", ROWS),
        ("a.csv", 'id,text\n1,One.\n2,"  Two.\nMore."\n'),
        ("a.CSV", '\ufefftext,id\r\nOne.,1\r\n"  Two.\nMore.",2\r\n'),
        ("a.tsv", 'id\ttext\n1\tOne.\n2\t"  Two.\nMore."\n'),
        ("a.parquet", parquet({"text": READ, "id": [1, 2]})),
        ("a", parquet({"text": READ})),
        ("a.jsonl", parquet({"text": ["One.", "", "  Two.\nMore.\n"]})),
    ],
)
def test_files_with_columns(write, pack, name, data):
    assert read(write(name, pack(data if isinstance(data, bytes) else data.encode()))) == READ
    assert read(write(name + ".gz", pack(data if isinstance(data, bytes) else data.encode()))) == READ


@pytest.mark.parametrize("file", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_files(tmp_path, file):
    table = pa.table({"text": READ})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, file(sink, table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "a.arrow") == READ


def test_texts_that_look_like_other_things_are_texts(write):
    texts = ["2020-01-01", "NA", "null", "007", "1e5", "true"]
    assert read(write("a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))) == texts
    assert read(write("a.csv", "\n".join(["text", *texts]))) == texts
    assert read(write("js/a.jsonl", '{"text": "2020-01-01"}\n').rpartition("/")[0]) == ["2020-01-01"]
    assert read(write("csv/a.csv", "text\nNA\n007\n").rpartition("/")[0]) == ["NA", "007"]


def test_separators_within_rows(write):
    rows = ["One.", END_OF_TEXT, f"Two.\n{END_OF_TEXT}\n  Three.", f"\n{END_OF_TEXT}\n", " "]
    file = write("a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in rows))
    assert read(file) == ["One.", "Two.", "  Three."]


def test_a_long_field_and_a_long_line(write):
    long = "word " * 300_000 + "end"
    assert read(write("a.csv", f"text\n{long}\n")) == [long]
    assert read(write("a.jsonl", json.dumps({"text": long}))) == [long]
    half = long[: 1 << 19]
    assert read(write("a.txt", json.dumps({"text": half}) + '\n{"text": "b"}')) == [half, "b"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", ROWS + '{"text": null}', "line 3 has no text in 'text'; expected one in every row"),
        ("a.jsonl", ROWS + '{"text": 5}', "line 3 has 5 (int) in 'text'; expected text"),
        ("a.jsonl", ROWS + '{"text": ' + "[" * 400 + "]" * 400 + "}", "line 3 has [[[[[[[...]]]]]]] (list)"),
        ("a.jsonl", ROWS + '{"text": ["a"]}', "line 3 has ['a'] (list) in 'text'"),
        ("a.jsonl", ROWS + '{"body": "a"}', "line 3: columns body; expected one named text"),
        ("a.jsonl", '{"body": "a", "id": 1}', "columns body, id; expected one named text"),
        ("a.jsonl", ROWS + "5", "line 3 is 5 (int); expected a JSON object"),
        ("a.jsonl", ROWS + '{"text": "a', "line 3 is not JSON that can be read"),
        ("a.jsonl", ROWS + "[" * 100_000, "line 3 is not JSON that can be read (nested too deeply)"),
        ("a.jsonl", ROWS + f'{{"text": "a", "n": {"1" * 5000}}}', "line 3 is not JSON that can be read"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1 has half a character"),
        ("a.jsonl", "plain text", "line 1 is not JSON that can be read"),
        ("a.json", '{\n "text": "a"\n}', "line 1 is not JSON that can be read"),
        ("a.json", '[{"text": "a"}, {"text": 5}]', "row 2 has 5 (int) in 'text'"),
        ("a.csv", "id;text\n1;a", "columns id;text; expected one named text"),
        ("a.csv", "id,text\n1,a,b", "the row that ends on line 2 has 3 fields; expected 2"),
        ("a.csv", 'id,text\n1,"a\nb', "not CSV on line 3 (unexpected end of data)"),
        ("a.csv", "text,text\na,b", "2 columns named text; expected one"),
        ("a.parquet", parquet({"text": ["a", None]}), "row 2 has no text in 'text'"),
        ("a.parquet", parquet({"text": [1.5]}), "row 1 has 1.5 (float) in 'text'"),
        ("a.parquet", parquet({"text": [b"a"]}), "row 1 has b'a' (bytes) in 'text'"),
        ("a.parquet", parquet({"body": ["a"], "id": [1]}), "columns body, id; expected one named text"),
        ("a.parquet", parquet({"text": ["a"] * 99})[:-40], "no Parquet that can be read"),
        ("a.parquet", "plain text", "no Parquet that can be read"),
        ("a.arrow", b"\xff\xff\xff\xff\x10", "no Arrow that can be read"),
        ("a.txt.gz", gzip.compress(b"One. " * 99)[:-12], "compressed, and damaged or cut short"),
        ("a.gz", gzip.compress(b"One.")[:-8] + bytes(8), "compressed, and damaged or cut short (CRC check"),
        ("a.bz2", bz2.compress(b"One. " * 99)[:-12], "compressed, and damaged or cut short"),
        ("a.xz", lzma.compress(b"One. " * 99)[:-12], "compressed, and damaged or cut short"),
        ("a.txt", "One.".encode("utf-16"), "not UTF-8 text (it begins as UTF-16 does); expected UTF-8"),
        ("a.jsonl", ROWS.encode("utf-16-be"), "not UTF-8 text (it holds NUL bytes)"),
        ("a.csv", "text\nOne.".encode("utf-16"), "not UTF-8 text (it begins as UTF-16 does)"),
        ("a.txt", "caf\xe9".encode("latin-1"), "not UTF-8 text ('utf-8' codec can't decode"),
        ("a.csv", "text\ncaf\xe9".encode("latin-1"), "not UTF-8 text ('utf-8' codec can't decode"),
        ("a.pt", b"\x80\x02\x00\x01", "not UTF-8 text (it holds NUL bytes)"),
        ("a.zip", b"PK\x03\x04more", "a ZIP archive; unpack it"),
        (
            "a.txt",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of Git LFS",
        ),
    ],
)
def test_files_that_cannot_be_read(write, name, data, said):
    path = write(name, data)
    told = refusal(path)
    assert told.startswith(path)
    assert said in told


def test_archives_are_no_text(tmp_path, write):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.add(write("a.txt", "One."), arcname="a.txt")
    assert "a tar archive; unpack it" in refusal(tmp_path / "a.tgz")


def test_places_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop: cannot be read (Too many levels of symbolic links)" in refusal(tmp_path / "loop")
    assert "neither a file nor a folder" in refusal("/dev/null")
    assert "a source without a name" in refusal("")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing-of-this-name", "a b/c d/e", "a\0b", str(tmp_path / "none.txt")):
        assert "neither a text file, nor a folder or hub name" in refusal(name)


def test_permission_is_missing(write, monkeypatch):
    path = write("a.txt", "One.")

    def denied(*args, **options):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pathlib.Path.open", denied)
    assert refusal(path).startswith(f"{path}: cannot be read (Permission denied); expected a file or folder")


def hub_stand_in(monkeypatch, folder):
    """Lets a name on the hub mean a folder, whose files of text are read from addresses."""
    load = datasets.load_dataset_builder

    def load_builder(path, **options):
        assert path == "nobody/stories"
        builder = load(str(folder), **options)
        files = builder.config.data_files
        for split in files if builder.name == "text" else ():
            files[split] = [f"file://{path}" for path in files[split]]
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", load_builder)


def test_a_dataset_on_the_hub_is_streamed(write, tmp_path, monkeypatch):
    write("hub/README.md", CARD)
    write("hub/en/a.jsonl", ROWS)
    write("hub/fr/a.jsonl", '{"text": "Un.", "body": "Deux."}\n{"text": null, "body": "Trois."}\n')
    hub_stand_in(monkeypatch, tmp_path / "hub")
    assert read("nobody/stories", subset="en") == READ
    assert read("nobody/stories", subset="fr", split="test", column="body") == ["Deux.", "Trois."]
    assert "row 2 has no text in 'text'" in refusal("nobody/stories", subset="fr", split="test")
    assert "Available splits: ['test']" in refusal("nobody/stories", subset="fr")
    assert "available configs: ['en', 'fr']" in refusal("nobody/stories")


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: data])
def test_texts_on_the_hub_are_read_as_files_are(write, tmp_path, monkeypatch, pack):
    name = "hub/a.txt.gz" if pack is gzip.compress else "hub/a.txt"
    write(name, pack(f"\ufeff  One.\nMore.\n{END_OF_TEXT}\nTwo.\n".encode()))
    hub_stand_in(monkeypatch, tmp_path / "hub")
    assert read("nobody/stories") == ["  One.\nMore.", "Two."]
    assert "no split test; the splits are train" in refusal("nobody/stories", split="test")


def test_selections_without_use(write, tmp_path):
    text, rows = write("a.txt", "One."), write("a.jsonl", ROWS)
    write("data/a.txt", "One.")
    for selection in (Selection(column="body"), Selection(split="test"), Selection(subset="en")):
        with pytest.raises(InputError, match="plain text, of which no column, split or subset can be chosen"):
            require_sources([text], selection)
        require_sources([text, str(tmp_path / "data")], selection)
    with pytest.raises(InputError, match="files, of which no split or subset can be chosen"):
        require_sources([text, rows], Selection(split="test"))
    require_sources([text, rows], Selection(column="body"))
    require_sources([text], Selection())


@pytest.mark.parametrize("command", ["train", "convert", "finetune", "dictionaries"])
def test_commands_select(command, write, swiglu, tmp_path, capsys):
    """Each reads the column that it is told, and refuses a selection without use."""
    rows, text = write("a.jsonl", ROWS), write("a.txt", "One.")
    option = "--calibration" if command == "convert" else "--data"
    given = [command, *([] if command == "train" else [str(swiglu)]), "-o", str(tmp_path / "out")]
    for source, selection, said in (
        (rows, ["--column", "title"], f"{rows}: line 1: columns text, id; expected one named title"),
        (rows, ["--split", "test"], f"{rows}: files, of which no split or subset can be chosen"),
        (
            text,
            ["--column", "title"],
            f"{text}: plain text, of which no column, split or subset can be chosen",
        ),
    ):
        assert main([*given, option, source, *selection, "--device", "cpu"]) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"bilinear-lm: {said}")
        shutil.rmtree(tmp_path / "out.run", ignore_errors=True)


@pytest.mark.parametrize("command", ["train", "finetune", "dictionaries"])
def test_commands_refuse_other_files_before_they_work(command, write, tmp_path, capsys):
    rows, text, image = write("a.jsonl", ROWS), write("a.txt", "One."), write("a.png", b"\x89PNG\x00\xff")
    given = [command, *([] if command == "train" else ["no-model"]), "-o", str(tmp_path / "out")]
    for sources, said in (
        (["--data", text, "--validation", rows], f"{rows}: holds JSON Lines; expected a file of plain text"),
        (["--data", text, "--validation", image], f"{image}: not UTF-8 text"),
        (["--data", text, image], f"{image}: not UTF-8 text"),
    ):
        assert main([*given, *sources]) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"bilinear-lm: {said}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.png", "a.txt"]


def test_a_run_records_its_selection(write, tmp_path, settings, stories):
    """Rows train as the same documents in a text do."""
    told = (stories / "train.txt").read_text().split(END_OF_TEXT)
    write("rows/rows.jsonl", "".join(json.dumps({"story": text}) + "\n" for text in told))
    changes = {"data": (str(tmp_path / "rows"),), "column": "story", "tokens": 400}
    record = finetune(dataclasses.replace(settings, **changes))
    chosen = {name: record["settings"][name] for name in ("subset", "split", "column")}
    assert chosen == {"subset": None, "split": None, "column": "story"}
    same = finetune(dataclasses.replace(settings, tokens=400, output=tmp_path / "same"))
    assert [entry["loss"] for entry in record["log"]] == [entry["loss"] for entry in same["log"]]
