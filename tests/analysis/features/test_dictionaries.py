"""Folders of dictionaries and the text of a report: what is read, and what is refused."""

import shutil

import pytest
import torch

from analysis.features.dictionaries import LayerDictionaries, read_dictionaries
from analysis.report.options import FeatureSource
from bilinear_lm import Dictionary, InputError, Site, save_dictionary


def dictionary(point, layer=1, width=16, n_feat=20, **more):
    torch.manual_seed(0)
    return Dictionary(
        torch.randn(width, n_feat),
        torch.randn(n_feat, width),
        activation="topk",
        k=4,
        site=None if point is None else Site(layer, point),
        **more,
    )


@pytest.fixture
def folder(tmp_path):
    for name in ("mlp-in", "mlp-out"):
        save_dictionary(dictionary(name), tmp_path / f"1-{name}")
    return tmp_path


def test_dictionaries_are_paired_by_layer(folder, make_model):
    save_dictionary(dictionary("mlp-out", layer=0), folder / "0-mlp-out")
    save_dictionary(dictionary("resid-mid"), folder / "1-resid-mid")
    save_dictionary(dictionary("resid-pre"), folder / "1-resid-pre")
    (folder / "README.md").write_text("about them")
    (found,) = read_dictionaries(folder, make_model())
    assert (found.layer, found.read, found.written) == (1, Site(1, "mlp-in"), Site(1, "mlp-out"))


def test_resid_mid_where_there_is_no_mlp_in(folder, make_model):
    shutil.rmtree(folder / "1-mlp-in")
    save_dictionary(dictionary("resid-mid"), folder / "any-name")
    (found,) = read_dictionaries(folder, make_model())
    assert found.read == Site(1, "resid-mid")


def test_a_folder_names_the_site_where_the_file_does_not(tmp_path, make_model):
    for point in ("mlp-in", "mlp-out"):
        save_dictionary(dictionary(None), tmp_path / f"0-{point}")
    (found,) = read_dictionaries(tmp_path, make_model())
    assert (found.layer, found.inputs.site) == (0, Site(0, "mlp-in"))


@pytest.mark.parametrize(
    ("name", "added", "said"),
    [
        ("2-mlp-in", dictionary("mlp-in", layer=2), "of 2-mlp-in, and the model has layers 0 to 1"),
        ("0-mlp-in", dictionary("mlp-in", 0, width=12), "width 12, expected 16; it belongs to another model"),
        ("again", dictionary("mlp-out"), "two dictionaries of 1-mlp-out"),
        ("nameless", dictionary(None), "name its folder by it"),
    ],
)
def test_dictionaries_of_another_model(folder, make_model, name, added, said):
    save_dictionary(added, folder / name)
    with pytest.raises(InputError, match=said):
        read_dictionaries(folder, make_model())


def test_no_layer_with_both_sides(folder, make_model):
    shutil.rmtree(folder / "1-mlp-in")
    with pytest.raises(InputError, match=r"no layer has a dictionary at mlp-in .* got 1-mlp-out"):
        read_dictionaries(folder, make_model())
    (folder / "1-empty").mkdir()
    with pytest.raises(InputError, match="no dictionary there"):
        read_dictionaries(folder, make_model())
    with pytest.raises(InputError, match="no such folder"):
        read_dictionaries(folder / "nowhere", make_model())


def test_features_of_a_transcoder_are_no_parts_of_what_it_reads(folder, make_model):
    shutil.rmtree(folder / "1-mlp-in")
    save_dictionary(dictionary("mlp-in", target=Site(1, "mlp-out")), folder / "1-mlp-in")
    with pytest.raises(InputError, match="got 1-mlp-in, 1-mlp-out"):
        read_dictionaries(folder, make_model())


def test_a_pair_of_the_wrong_sites():
    pair = LayerDictionaries(1, dictionary("mlp-out"), dictionary("mlp-in"))
    with pytest.raises(InputError, match="expected 1-mlp-in or 1-resid-mid"):
        assert pair.read
    with pytest.raises(InputError, match="expected 1-mlp-out"):
        assert pair.written


def test_the_text_as_windows(tiny_tokenizer):
    pair = LayerDictionaries(1, dictionary("mlp-in"), dictionary("mlp-out"))
    source = FeatureSource((pair,), "a cat\n<|endoftext|>\n\n<|endoftext|>a dog ")
    (window,) = source.windows(tiny_tokenizer, 30)
    end = tiny_tokenizer.eos_token_id
    assert window[0] == tiny_tokenizer.bos_token_id
    assert tiny_tokenizer.decode(window[1 : window.index(end)]) == "a cat"
    assert tiny_tokenizer.decode(window[window.index(end) + 1 :]) == "a dog"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dictionaries": ()}, "no dictionaries"),
        ({"text": " \n<|endoftext|>\n"}, "the text is empty"),
        ({"n_features": 0}, "n_features=0; expected at least 1"),
        ({"n_contexts": 0}, "n_contexts=0; expected at least 1"),
        ({"width": -1}, "width=-1; expected at least 0"),
        ({"n_values": 3}, "n_values=3; expected at least 5"),
    ],
)
def test_wrong_sources(wrong, said):
    pair = LayerDictionaries(1, dictionary("mlp-in"), dictionary("mlp-out"))
    with pytest.raises(InputError, match=said):
        FeatureSource(**({"dictionaries": (pair,), "text": "a cat"} | wrong))
