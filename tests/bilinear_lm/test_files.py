"""Files that cannot be read, in each of the ways in which that happens: one line that says which and why."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bilinear_lm.checkpoints import checkpoint_info, load_pretrained, load_tokenizer, save_folder
from bilinear_lm.cli import main
from bilinear_lm.dictionaries import load_dictionary
from bilinear_lm.errors import InputError
from bilinear_lm.files import (
    new_folder,
    own_file,
    read_json,
    read_shapes,
    read_tensors,
    read_text,
    require_writable,
    told,
    write_bytes,
)

NOBODY = 65534
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def line_of(read, path, part):
    with pytest.raises(InputError) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deep"),
        ('{"a": ' + "7" * 5_000 + "}", "too many digits"),
        ('{"a": [{"b": -' + "7" * 5_000 + "}]}", "too many digits"),
        ('{"a": 1', "not valid JSON"),
        ("", "not valid JSON"),
        ("[1]", "holds a JSON list"),
        ("null", "holds a JSON NoneType"),
        (POINTER, "a pointer of Git LFS"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, text, part):
    (tmp_path / "file.json").write_text(text)
    line_of(read_json, tmp_path / "file.json", part)


def test_numbers_of_ordinary_length_are_read(tmp_path):
    (tmp_path / "file.json").write_text('{"a": ' + "7" * 4_000 + "}")
    assert read_json(tmp_path / "file.json")["a"] == int("7" * 4_000)


@pytest.mark.parametrize("read", [read_text, read_json, read_tensors, read_shapes])
def test_a_pointer_of_git_lfs_says_so(tmp_path, read):
    (tmp_path / "file").write_text(POINTER)
    line_of(read, tmp_path / "file", "run git lfs pull")


@pytest.mark.parametrize("read", [read_text, read_json, read_tensors, read_shapes])
def test_what_is_no_file(tmp_path, read):
    line_of(read, tmp_path, "no such file")
    line_of(read, tmp_path / "absent", "no such file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    line_of(read, tmp_path / "loop", "")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    line_of(read, tmp_path / "dangling", "no such file")


def test_complex_numbers_are_refused(tmp_path):
    save_file({"W": np.ones(3, dtype=np.complex64), "b": np.ones(3, dtype=np.float32)}, tmp_path / "w")
    line_of(read_tensors, tmp_path / "w", "complex numbers in W;")
    line_of(read_shapes, tmp_path / "w", "complex numbers in W;")


@pytest.mark.parametrize("name", ["../outside", "sub/../../outside", "link", "sub/link", "{outside}"])
def test_a_name_that_leaves_the_folder(tmp_path, name):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "sub" / "link").symlink_to("../../outside")
    with pytest.raises(InputError, match="lies outside the folder"):
        own_file(folder, name.format(outside=outside))


def test_names_that_no_file_has(tmp_path):
    with pytest.raises(InputError, match="lies outside the folder"):
        own_file(tmp_path, "a\0b")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    line_of(read_shapes, own_file(tmp_path, "loop"), "")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_file_is_not_replaced(tmp_path, make):
    path = tmp_path / "out"
    make(path)
    for write in (require_writable, lambda path: write_bytes(path, b"x")):
        with pytest.raises(InputError, match="expected the name of a file to write"):
            write(path)
    assert not path.is_file()
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from bilinear_lm.files import new_folder, write_bytes

with new_folder(Path(sys.argv[1])) as draft:
    (draft / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write_at_the_same_time(out, other):
    """Two drafts of processes that live; the later one is done first."""
    with new_folder(out) as mine:
        assert set(out.parent.iterdir()) == {mine, other}
        with new_folder(out) as second:
            assert set(out.parent.iterdir()) == {mine, second, other}
            (second / "a").write_text("whole")
        (mine / "a").write_text("too late")


def test_the_draft_of_a_killed_process_goes_with_the_next_writing(tmp_path):
    out, other = tmp_path / "out", tmp_path / ".out.keep"
    other.write_text("somebody's")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the draft
    with pytest.raises(InputError, match="cannot be written"):
        write_at_the_same_time(out, other)
    assert set(tmp_path.iterdir()) == {out, other}
    assert (out / "a").read_text() == "whole"


@pytest.mark.parametrize("made", ["mkdir", "open"])
def test_an_interrupt_just_after_a_draft_is_made_leaves_nothing(tmp_path, monkeypatch, made):
    make = getattr(Path, made)

    def interrupted(path, *arguments, **named):
        result = make(path, *arguments, **named)
        if path.name.startswith(".out."):
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, made, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "out", b"whole") if made == "open" else new_folder(
            tmp_path / "out"
        ).__enter__()
    assert not list(tmp_path.iterdir())


def test_names_that_stay_inside(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("x")
    (folder / "b").symlink_to("sub/a")
    for name in ("sub/a", "b", "not there yet"):
        assert own_file(folder, name) == folder / name
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be one
    assert own_file(tmp_path / "link", "sub/a") == tmp_path / "link" / "sub" / "a"


def test_a_snapshot_of_the_hub_is_made_of_links(tmp_path):
    repo = tmp_path / "models--owner--name"
    for inside in ("snapshots/abc/sub", "blobs"):
        (repo / inside).mkdir(parents=True)
    (repo / "blobs" / "123").write_text("x")
    (tmp_path / "other").write_text("x")
    snapshot = repo / "snapshots" / "abc"
    (snapshot / "config.json").symlink_to("../../blobs/123")
    (snapshot / "sub" / "cfg.json").symlink_to("../../../blobs/123")
    (snapshot / "stray.json").symlink_to("../../../other")
    assert own_file(snapshot, "config.json").read_text() == "x"
    assert own_file(snapshot / "sub", "cfg.json").read_text() == "x"
    with pytest.raises(InputError, match="lies outside"):
        own_file(snapshot, "stray.json")


@contextmanager
def unprivileged():
    """Somebody whom permissions bind: nobody, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def model_folder(open_folder, make_model, tiny_tokenizer):
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, open_folder / "model")
    for file in (open_folder / "model").iterdir():
        file.chmod(0o644)
    return open_folder / "model"


@pytest.mark.parametrize(
    ("closed", "read"),
    [
        ("", load_pretrained),
        ("", load_tokenizer),
        ("", checkpoint_info),
        ("config.json", load_pretrained),
        ("config.json", checkpoint_info),
        ("generation_config.json", load_pretrained),
        ("model.safetensors", load_pretrained),
        ("model.safetensors", checkpoint_info),
        ("tokenizer.json", load_tokenizer),
        ("tokenizer_config.json", load_tokenizer),
    ],
)
def test_what_may_not_be_read_of_a_model(model_folder, closed, read):
    read(model_folder)  # whatever it imports is there
    file = model_folder / closed
    file.chmod(0)
    with unprivileged():
        line_of(read, model_folder, "cannot be read (Permission denied)")
    file.chmod(0o755)


def test_what_may_not_be_read_of_a_dictionary(open_folder):
    (open_folder / "sae").mkdir()
    for name in ("sae.safetensors", "cfg.json"):
        (open_folder / "sae" / name).write_text("{}")
    (open_folder / "sae").chmod(0)
    with unprivileged():
        line_of(load_dictionary, open_folder / "sae", "cannot be read (Permission denied)")
    (open_folder / "sae").chmod(0o755)
    (open_folder / "sae" / "sae.safetensors").chmod(0)
    with unprivileged():
        line_of(load_dictionary, open_folder / "sae", "cannot be read (Permission denied)")


@pytest.mark.parametrize("command", ["info", "generate", "export"])
def test_commands_end_in_a_line(model_folder, command, capsys):
    out = ["-o", str(model_folder.parent / "out")] if command == "export" else []
    assert main([command, str(model_folder), *out]) == 0
    capsys.readouterr()
    model_folder.chmod(0)
    out = ["-o", str(model_folder.parent / "other")] if command == "export" else []
    with unprivileged():
        status = main([command, str(model_folder), *out])
    model_folder.chmod(0o755)
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"bilinear-lm: {model_folder}")


def test_a_folder_that_nothing_can_be_written_to(model_folder, capsys):
    closed = model_folder.parent / "closed"
    closed.mkdir(mode=0o555)
    with unprivileged():
        assert main(["export", str(model_folder), "-o", str(closed / "out")]) == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err
    assert list(closed.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, make_model, monkeypatch):
    from safetensors import SafetensorError

    model = make_model()

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "save_pretrained", full)
    with (
        pytest.raises(InputError, match=r"out: cannot be written .*No space left on device"),
        new_folder(tmp_path / "out") as draft,
    ):
        save_folder(model, None, draft)
    assert list(tmp_path.iterdir()) == []


def test_a_number_too_large_for_the_precision_asked_for(tmp_path, make_model):
    model = make_model().double()
    with torch.no_grad():
        model.model.embed_tokens.weight[3, 4] = 1e300
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float64"
    line_of(load_pretrained, tmp_path / "model", "NaN or infinity in model.embed_tokens.weight")
    assert load_pretrained(tmp_path / "model", dtype=torch.float64).model.embed_tokens.weight[3, 4] == 1e300


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("/home/somebody/models/tiny", "tiny"),
        (Path("/home/somebody/text.txt"), "text.txt"),
        ("/home/somebody/tiny/", "tiny"),
        ("~/models/tiny", "tiny"),
        ("models/tiny", "models/tiny"),
        (Path("texts/one.txt"), "texts/one.txt"),
        ("owner/tiny", "owner/tiny"),
        ("stories-scope/3-mlp-in", "stories-scope/3-mlp-in"),
        ("stories", "stories"),
    ],
)
def test_what_is_told_of_an_input(given, name):
    assert told(given) == name
