"""Checkpoints of a run, found by their steps."""

import pytest

from bilinear_lm import InputError
from bilinear_lm.checkpoints.steps import find_checkpoints


@pytest.fixture
def write(tmp_path, make_model):
    """Writes models into folders of the test's folder."""
    model = make_model()

    def save(*names, of=model):
        for name in names:
            of.save_pretrained(tmp_path / name)
        return tmp_path

    return save


def test_steps_of_a_folder_of_its_parent_and_of_a_finished_run(write):
    folder = write("run/checkpoints/000", "run/checkpoints/016", "run/checkpoints/128") / "run"
    for path in (folder / "checkpoints", folder):
        there = find_checkpoints(str(path))
        assert not there.is_model
        assert list(there.steps) == [0, 16, 128]
        assert there.steps[16] == folder / "checkpoints" / "016"
    write("run", "run/7")  # a number beside a model is no step of it
    there = find_checkpoints(str(folder))
    assert there.is_model
    assert list(there.steps) == [0, 16, 128]


def test_a_model_without_steps(write):
    assert find_checkpoints(str(write("model") / "model")).steps == {}
    for name in ("stories", "owner/name", "nowhere.bin"):
        assert find_checkpoints(name) == find_checkpoints("stories")


def test_what_is_refused(write, make_model):
    folder = write("checkpoints/0", "checkpoints/1") / "checkpoints"
    (folder / "notes").mkdir()
    write("checkpoints/2", of=make_model(n_layers=1))
    with pytest.raises(InputError, match=r"2: model\.layers\.1\S+ is absent, in 0 \[16\]; expected checkp"):
        find_checkpoints(str(folder))
    write("checkpoints/2", of=make_model(d_vocab=200))
    with pytest.raises(InputError, match=r"is \[200, 16\], in 0 \[300, 16\]"):
        find_checkpoints(str(folder))
    write("checkpoints/01")
    with pytest.raises(InputError, match="two folders of one step"):
        find_checkpoints(str(folder))
    with pytest.raises(InputError, match="no checkpoint and no folder of them; expected conf"):
        find_checkpoints(str(folder / "notes"))
    (folder.parent / "empty" / "3").mkdir(parents=True)
    with pytest.raises(InputError):
        find_checkpoints(str(folder.parent / "empty"))
