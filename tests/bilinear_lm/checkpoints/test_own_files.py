"""A folder's files are its own: what lies elsewhere is refused before anything is loaded."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilinear_lm.checkpoints import checkpoint_info, load_pretrained, load_tokenizer
from bilinear_lm.dictionaries import load_dictionary
from bilinear_lm.errors import InputError

from .tiny_models import IDS, tiny, word_tokenizer


@pytest.fixture
def shards(tmp_path):
    """A model in shards, and another model's shards in a folder beside it."""
    tiny().save_pretrained(tmp_path / "model", max_shard_size="2KB")
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    for file in (tmp_path / "elsewhere").glob("*.safetensors"):
        save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    return tmp_path / "model"


def edit_index(folder, rename):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {key: rename(name) for key, name in index["weight_map"].items()}
    path.write_text(json.dumps(index))


def refused(folder, *reads):
    for read in reads or (checkpoint_info, load_pretrained):
        with pytest.raises(InputError, match="lies outside the folder"):
            read(folder)


@pytest.mark.parametrize(
    "prefix", ["../elsewhere/", "./../elsewhere/", "sub/../../elsewhere/", "{path}/elsewhere/"]
)
def test_an_index_that_names_files_elsewhere(shards, prefix):
    edit_index(shards, lambda name: prefix.format(path=shards.parent) + name)
    refused(shards)


def test_one_shard_elsewhere_is_one_too_many(shards):
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    last = sorted(set(index["weight_map"].values()))[-1]
    edit_index(shards, lambda name: f"../elsewhere/{name}" if name == last else name)
    refused(shards)


def test_shards_in_a_folder_inside_are_those_that_are_described(shards):
    expected = tiny()(IDS).logits
    (shards / "sub").mkdir()
    for file in shards.glob("*.safetensors"):
        file.rename(shards / "sub" / file.name)
    edit_index(shards, lambda name: f"sub/{name}")
    assert torch.equal(load_pretrained(shards)(IDS).logits, expected)
    assert checkpoint_info(shards).n_parameters == sum(p.numel() for p in tiny().parameters())


def test_weights_that_the_config_names(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    folder = tmp_path / "model"
    other = {name: value * 2 for name, value in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "other.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    loaded = load_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in other.items())
    (folder / "other.safetensors").rename(tmp_path / "other.safetensors")
    for name in ("../other.safetensors", str(tmp_path / "other.safetensors")):
        (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
        refused(folder)
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "weights.bin"}))
    with pytest.raises(InputError, match=r"transformers_weights is 'weights\.bin'"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_links_out_of_a_model(tmp_path, name):
    tiny().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).rename(tmp_path / name)
    (tmp_path / "model" / name).symlink_to(tmp_path / name)
    refused(tmp_path / "model")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_links_out_of_a_tokenizer(tmp_path, name):
    word_tokenizer(tmp_path / "model")
    (tmp_path / "model" / name).rename(tmp_path / name)
    (tmp_path / "model" / name).symlink_to(f"../{name}")
    refused(tmp_path / "model", load_tokenizer)


def test_a_link_that_nothing_opens_is_nobodys_business(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "model" / "notes.txt").symlink_to(tmp_path / "notes.txt")
    load_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["sae.safetensors", "cfg.json"])
def test_links_out_of_a_dictionary(tmp_path, name):
    from bilinear_lm.shipped import SHIPPED

    folder = tmp_path / "0-mlp-in"
    shutil.copytree(SHIPPED / "stories-scope" / "0-mlp-in", folder)
    load_dictionary(folder)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    refused(folder, load_dictionary)


def test_an_adapter_beside_weights_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "other")}
    (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(adapter))
    for read in (checkpoint_info, load_pretrained):
        with pytest.raises(InputError, match="an adapter, not a model"):
            read(tmp_path / "model")
