"""Files of feature names: what is written is read, and a file of anything else is refused."""

import json
from dataclasses import replace

import pytest
import torch

from bilinear_lm import Dictionary, InputError, Site
from bilinear_lm.dictionaries.names import (
    fingerprint,
    load_feature_names,
    renamed,
    save_feature_names,
)

SITE, OTHER = Site(3, "mlp-out"), Site(0, "mlp-in")


@pytest.fixture(scope="module")
def dictionaries():
    generator = torch.Generator().manual_seed(0)

    def one(site):
        shapes = ((4, 12), (12, 4))
        return Dictionary(*(torch.randn(*shape, generator=generator) for shape in shapes), site=site)

    return {site: one(site) for site in (SITE, OTHER)}


@pytest.fixture
def content(dictionaries):
    part = {"n_feat": 12, "fingerprint": fingerprint(dictionaries[SITE]), "names": {"11": "last", "0": "<b>"}}
    return {"format": "bilinear-lm feature names", "version": 1, "dictionaries": {"3-mlp-out": part}}


def test_what_is_written_is_read(tmp_path, dictionaries, content):
    path, names = tmp_path / "names.json", {SITE: {11: "last", 0: "<b>"}}
    save_feature_names(path, names, dictionaries)
    assert json.loads(path.read_text()) == content
    assert load_feature_names(path, dictionaries) == names
    # Other sites are passed over, unless the file has none of those that are here.
    assert load_feature_names(path, {SITE: dictionaries[SITE]}) == names
    with pytest.raises(InputError, match="names features of 3-mlp-out; expected some of 0-mlp-in"):
        load_feature_names(path, {OTHER: dictionaries[OTHER]})
    with pytest.raises(InputError, match="names of 0-mlp-in; expected those of dictionaries that are given"):
        save_feature_names(path, {OTHER: {0: "a"}}, {SITE: dictionaries[SITE]})


def test_the_fingerprint_is_that_of_the_weights(dictionaries):
    one = dictionaries[SITE]
    assert fingerprint(one) == fingerprint(one.to(dtype=torch.float64))
    assert (
        len({fingerprint(each) for each in (*dictionaries.values(), replace(one, decoder=-one.decoder))}) == 3
    )


def set_part(**values):
    return lambda content: content["dictionaries"]["3-mlp-out"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format="words"), "format 'words', version 1; expected"),
        (lambda content: content.update(version=2), "version 2; expected"),
        (lambda content: content.update(more=1), "has format, version, dictionaries, more; expected"),
        (lambda content: content.update(dictionaries=[]), "expected format, version and an object"),
        (lambda content: content.update(dictionaries={"3-nowhere": {}}), "site '3-nowhere'"),
        (
            lambda content: content["dictionaries"].update({"0-mlp-out": 3}),
            "0-mlp-out is not an object of n_feat",
        ),
        (set_part(more=1), "not an object of n_feat, fingerprint, names"),
        (set_part(n_feat=13), "with 13 features; this one has 12"),
        (set_part(fingerprint="0"), "with fingerprint 0; this one has [0-9a-f]{16}"),
        (set_part(names={"12": "a"}), "feature '12' of 3-mlp-out; expected 0 to 11"),
        (set_part(names={"-1": "a"}), "feature '-1'"),
        (set_part(names={"01": "a"}), "feature '01'"),
        (set_part(names={"²": "a"}), "feature '²'"),
        (set_part(names={"1": ""}), "is named ''; expected 1 to 200"),
        (set_part(names={"1": 5}), "is named 5"),
        (set_part(names={"1": "a" * 201}), "expected 1 to 200 characters"),
        (set_part(names={"1": "a\nb"}), "expected one line"),
        (set_part(names={"1": " a"}), "without blanks at its ends"),
        (set_part(names={"1": "a", "2": "a"}), "'a' names two features of 3-mlp-out"),
    ],
)
def test_other_files_are_refused(tmp_path, dictionaries, content, change, message):
    path = tmp_path / "names.json"
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_feature_names(path, dictionaries)


def test_a_feature_that_is_named_twice(tmp_path, dictionaries, content):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content).replace('"11": "last"', '"0": "a"'))
    with pytest.raises(InputError, match="'0' is there 2 times; expected each feature named once"):
        load_feature_names(path, dictionaries)


def test_own_names_stand_in_the_place_of_others():
    """One that was made and is the same as another feature's own name gets its number."""
    made = {SITE: ("␣a", "␣b", "␣c"), OTHER: ("␣a",)}
    assert renamed(made, {SITE: {0: "␣b", 2: "sea"}}) == {SITE: ("␣b", "␣b (1)", "sea"), OTHER: ("␣a",)}
