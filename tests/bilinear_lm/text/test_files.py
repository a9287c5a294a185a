"""Plain text where plain text is expected, compressed or not; other files are refused."""

import gzip
import lzma

import pytest

from bilinear_lm import InputError
from bilinear_lm.cli import main
from bilinear_lm.text.files import read_plain_text, suffixes_of


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"  One.\n\nTwo.\n", "  One.\n\nTwo.\n"),
        (b"\xef\xbb\xbfOne.\r\nTwo.", "One.\nTwo."),
        (gzip.compress(b"\xef\xbb\xbfOne."), "One."),
        (lzma.compress(gzip.compress("Café.".encode())), "Café."),
        (b'{"a": 1}\nis an object.', '{"a": 1}\nis an object.'),
        (b'{\n "a": 1\n}', '{\n "a": 1\n}'),
        (b"", ""),
    ],
)
def test_plain_text(tmp_path, data, text):
    (tmp_path / "text.txt").write_bytes(data)
    assert read_plain_text(tmp_path / "text.txt") == text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b'{"text": "One."}', "holds JSON Lines; expected a file of plain text"),
        (
            "a.txt",
            b'{"text": "One."}\n{"text": "Two."}\n',
            "holds JSON Lines; expected a file of plain text",
        ),
        ("a.csv.gz", gzip.compress(b"text\nOne."), "holds CSV; expected a file of plain text"),
        ("a.tsv", b"text\nOne.", "holds TSV; expected a file of plain text"),
        ("a.txt", b"PAR1\x15\x04", "holds Parquet; expected a file of plain text"),
        ("a.txt", "One.".encode("utf-16"), "not UTF-8 text"),
        ("a.txt", b"\xff\xd8\xff\xe0", "not UTF-8 text"),
        ("a.gz", gzip.compress(b"One." * 99)[:-9], "compressed, and damaged or cut short"),
    ],
)
def test_no_plain_text(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_plain_text(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="none: no such file; expected one there"):
        read_plain_text(tmp_path / "none")
    with pytest.raises(InputError, match="no such file; expected one there"):
        read_plain_text(tmp_path)


def test_names():
    assert suffixes_of("pages.v2.JSONL.Gz") == (".jsonl", ".gz")
    assert suffixes_of("/data.d/pages") == ("", "")
    assert suffixes_of("https://host/a.csv.zst") == (".csv", ".zst")


@pytest.mark.parametrize("option", ["--validation", "--contexts"])
def test_a_command_refuses_rows_where_it_reads_a_text(tmp_path, capsys, option):
    (tmp_path / "rows.jsonl").write_text('{"text": "One."}\n')
    given = ["report", "-o", str(tmp_path / "report.html"), option, str(tmp_path / "rows.jsonl")]
    assert main([*given, "--device", "cpu"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"bilinear-lm: {tmp_path / 'rows.jsonl'}: holds JSON Lines; expected")
