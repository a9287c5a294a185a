"""A folder is known to be as it was written, by sizes and contents."""

import json

import pytest

from bilinear_lm import InputError
from finetune.runs.manifest import MANIFEST, damage, is_complete, require_undamaged, write_manifest


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "run" / "part"
    (made / "inner").mkdir(parents=True)
    (made / "a.bin").write_bytes(bytes(range(200)))
    (made / "inner" / "b.txt").write_text("text")
    (made / "empty").touch()
    write_manifest(made)
    return made


def test_a_whole_one(folder):
    listed = json.loads((folder / MANIFEST).read_text())
    assert {name: entry["bytes"] for name, entry in listed.items()} == {
        "a.bin": 200,
        "empty": 0,
        "inner/b.txt": 4,
    }
    assert is_complete(folder)
    assert damage(folder) is None
    (folder / "more").touch()  # what is added later is no damage
    require_undamaged(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "a.bin").unlink(), "a.bin is missing"),
        (lambda folder: (folder / "a.bin").write_bytes(b""), "a.bin has 0 bytes, expected 200"),
        (
            lambda folder: (folder / "inner" / "b.txt").write_text("tex"),
            "inner/b.txt has 3 bytes, expected 4",
        ),
        (lambda folder: (folder / "inner" / "b.txt").write_text("tEXt"), "inner/b.txt has other contents"),
        (lambda folder: (folder / MANIFEST).write_bytes(b""), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[1]"), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).unlink(), f"no {MANIFEST}"),
    ],
)
def test_damage(folder, spoil, said):
    spoil(folder)
    with pytest.raises(InputError) as told:
        require_undamaged(folder)
    assert str(told.value).startswith(f"{folder}: damaged ({said}")
    assert str(told.value).endswith(f"delete the folder {folder.parent} and start anew")
