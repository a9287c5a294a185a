"""Training dictionaries of a tiny model, from text to folders that load."""

import dataclasses
import json
import random

import pytest
import torch

from bilinear_lm import InputError, Site, load_dictionary
from bilinear_lm.checkpoints import save_folder
from finetune.dictionary_config import DictionaryConfig

pytest.importorskip("sparsify", reason="needs the extra sae: pip install 'bilinear-lm[sae]'")

from finetune.dictionaries import train_dictionaries


@pytest.fixture
def config(tmp_path, make_model, tiny_tokenizer):
    model = make_model(d_vocab=len(tiny_tokenizer))
    save_folder(model, tiny_tokenizer, tmp_path / "model")
    generator = random.Random(0)
    words = ["a cat", "a dog", "the park", "ran to", "saw", "a big red ball", "was happy", "upon a time"]
    stories = [" ".join(generator.choices(words, k=12)) for _ in range(300)]
    (tmp_path / "train.txt").write_text("\n<|endoftext|>\n".join(stories[:280]))
    (tmp_path / "held-out.txt").write_text("\n".join(stories[280:]))
    return DictionaryConfig(
        model=str(tmp_path / "model"),
        output=tmp_path / "dictionaries",
        data=(str(tmp_path / "train.txt"),),
        features=48,
        k=6,
        validation=tmp_path / "held-out.txt",
        batch_size=8,
        learning_rate=0.02,
        device="cpu",
    )


def test_a_run_learns_and_leaves_folders_that_load(config, tmp_path):
    records = train_dictionaries(config)
    sites = [Site(layer, point) for layer in (0, 1) for point in ("mlp-in", "mlp-out")]
    assert list(records) == sites
    assert sorted(path.name for path in config.output.iterdir()) == [str(site) for site in sites]
    for site, record in records.items():
        folder = config.output / str(site)
        assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae.safetensors", "train.json"]
        assert json.loads((folder / "train.json").read_text()) == record
        found = record["fidelity"]
        assert found["fvu"] < 0.35
        assert found["variance_explained"] == pytest.approx(1 - found["fvu"])
        assert found["loss_recovered"] > 0.5
        assert found["active_features"] <= 6
        dictionary = load_dictionary(folder, site=site, d_in=16)
        assert (dictionary.n_feat, dictionary.k) == (48, 6)
        torch.testing.assert_close(dictionary.decoder.norm(dim=-1), torch.ones(48), atol=0.2, rtol=0)
    settings = records[sites[0]]["settings"]
    assert (settings["model"], settings["data"], settings["validation"]) == (
        "model",
        ["train.txt"],
        "held-out.txt",
    )


def test_every_point_and_the_same_again(config, tmp_path):
    points = ("resid-pre", "attn-out", "resid-mid", "mlp-in", "mlp-out", "resid-post")
    config = dataclasses.replace(config, layers=(1,), points=points, max_tokens=2000, validation=None)
    records = train_dictionaries(config)
    assert [str(site) for site in records] == [f"1-{point}" for point in points]
    assert {record["measured_on"] for record in records.values()} == {"training data"}
    assert all(record["fidelity"]["fvu"] < 0.9 for record in records.values())
    again = dataclasses.replace(config, output=tmp_path / "again", store="float16")
    train_dictionaries(again)
    for site in records:
        a, b = (load_dictionary(folder / str(site)) for folder in (config.output, again.output))
        assert torch.equal(a.encoder.half().float(), b.encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ()}, "no data given"),
        ({"points": ()}, "no points given"),
        ({"k": 0}, "k is 0; expected a positive number"),
        ({"k": 49}, "k is 49 with 48 features"),
        ({"layers": (2,)}, "layer 2 does not exist; the model has layers 0 to 1"),
        ({"window": 100}, "window is 100; expected 2 to 32, the model's context"),
        ({"max_tokens": 100}, "2 windows of 32 tokens; expected at least one batch of 8"),
    ],
)
def test_bad_settings(config, change, message):
    with pytest.raises(InputError, match=message):
        train_dictionaries(dataclasses.replace(config, **change))
    assert not config.output.exists()


def test_without_sparsify(config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sparsify", None)
    with pytest.raises(InputError, match=r"install it with pip install 'bilinear-lm\[sae\]'"):
        train_dictionaries(config)
