"""What ships is found by name, and by no other spelling."""

import pytest

from analysis.features.contexts import numbered
from analysis.features.shipped_names import made_of, name_shipped
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json
from bilinear_lm.shipped import NAMES, SHIPPED, shipped_scope, shipped_words


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


def test_names_are_made_of_what_ships():
    kept = read_json(SHIPPED / "stories-scope" / NAMES)
    assert kept["made_of"] == made_of("stories")


def test_names_are_those_of_the_text():
    """Of some features of every dictionary, by the model reading the whole text."""
    some = [0, 1, 100, 333, 515, 767]
    words = shipped_words("stories")
    assert {len(of_all) for of_all in words.values()} == {768}
    named = name_shipped("stories", some)
    assert named.keys() == words.keys()
    for site, names in named.items():
        assert names == {number: numbered(number, words[site][number]) for number in some}


def test_names_of_other_models():
    assert shipped_words("stories-1l") == {}
    with pytest.raises(InputError, match="no dictionaries or no text"):
        name_shipped("stories-1l")
