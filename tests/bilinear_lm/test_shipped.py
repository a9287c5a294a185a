"""What ships is found by name, and by no other spelling."""

import pytest

from analysis.features.names import LONGEST
from analysis.features.shipped_names import made_of, name_shipped
from bilinear_lm.errors import InputError
from bilinear_lm.files import read_json
from bilinear_lm.shipped import NAMES, SHIPPED, shipped_dictionary_names, shipped_names, shipped_scope
from bilinear_lm.sites import Site


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
    """Dictionaries of what MLPs write, by the model reading the whole text."""
    names = shipped_names("stories")
    made = name_shipped("stories", ["mlp-out"])
    assert made == {site: of_site for site, of_site in names.items() if site.point == "mlp-out"}


def test_no_two_features_share_a_name():
    names = shipped_names("stories")
    assert len(names) == 8
    for of_site in names.values():
        assert len(of_site) == len(set(of_site)) == 768
        assert all(0 < len(name) <= LONGEST for name in of_site)


def test_names_of_a_dictionary_by_name_and_path(tmp_path):
    names = shipped_names("stories")[Site(1, "mlp-in")]
    for dictionary in ("stories-scope/1-mlp-in", str(SHIPPED / "stories-scope" / "1-mlp-in")):
        assert shipped_dictionary_names("stories", dictionary) == names
        assert shipped_dictionary_names("stories-1l", dictionary) == ()
    assert shipped_dictionary_names("stories", str(tmp_path)) == ()


def test_names_of_other_models():
    assert shipped_names("stories-1l") == {}
    with pytest.raises(InputError, match="no dictionaries or no text"):
        name_shipped("stories-1l")
