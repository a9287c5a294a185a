"""What ships is found by name, and by no other spelling."""

import pytest

from bilinear_lm.shipped import SHIPPED, shipped_scope


def test_dictionaries_and_text_of_a_model():
    assert shipped_scope("stories") == (SHIPPED / "stories-scope", SHIPPED / "stories.txt")


@pytest.mark.parametrize(
    "name", ["/", ".", "", "..", "stories/", "./stories", "stories/../stories", "stories-1l"]
)
def test_other_names_have_none(name):
    assert shipped_scope(name) == (None, None)


def test_a_folder_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories").mkdir()
    assert shipped_scope("stories") == (None, None)
