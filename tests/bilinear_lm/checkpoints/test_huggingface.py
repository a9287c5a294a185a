"""Plain Hugging Face folders: what loads, and one clear line about each that does not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from bilinear_lm.checkpoints import load_pretrained, load_tokenizer
from bilinear_lm.errors import InputError

from .published_cases import F5
from .published_forward import Case, make
from .tiny_models import IDS, tiny


@pytest.fixture
def folder(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "delete"}))


def edit_tensors(folder, **changes):
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def refusal(path):
    with pytest.raises(InputError) as error:
        load_pretrained(path)
    message = str(error.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_a_folder_whole_and_in_shards(folder, tmp_path):
    expected = tiny()(IDS).logits
    tiny().save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for path in (folder, str(folder), tmp_path / "shards"):
        model = load_pretrained(path)
        assert torch.equal(model(IDS).logits, expected)
        assert (model.dtype, model.training) == (torch.float32, False)


def test_float32_whatever_the_file_has(tmp_path):
    tiny().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_pretrained(tmp_path).dtype is torch.float32
    assert load_pretrained(tmp_path, dtype=torch.bfloat16).dtype is torch.bfloat16


def test_another_family(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(load_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_loading_is_silent_and_leaves_the_settings(folder, capfd):
    transformers_logging.enable_progress_bar()
    level = transformers_logging.get_verbosity()
    capfd.readouterr()
    load_pretrained(folder)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.get_verbosity() == level


def test_missing_left_over_and_misshapen_weights_are_all_listed(folder):
    edit_tensors(
        folder,
        model__layers__1__mlp__up_proj__weight=None,
        model__layers__0__mlp__extra__weight=torch.zeros(3),
        model__norm__weight=torch.ones(9),
    )
    message = refusal(folder)
    assert "model.layers.1.mlp.up_proj.weight is missing" in message
    assert "model.layers.0.mlp.extra.weight is left over" in message
    assert "model.norm.weight has shape (9,), expected (8,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(folder, value):
    edit_tensors(folder, model__layers__1__mlp__up_proj__weight=torch.full((12, 8), value))
    assert "NaN or infinity in model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny().state_dict(), folder / "pytorch_model.bin")
    for path in (folder, folder / "pytorch_model.bin"):
        message = refusal(path)
        assert "pickle" in message
        assert "save_pretrained" in message
    torch.save(tiny(), folder.parent / "model.pt")
    assert "pickle" in refusal(folder.parent / "model.pt")


def test_incomplete_folders(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "an empty folder" in refusal(tmp_path / "empty")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    assert "no model.safetensors" in refusal(folder)
    (tmp_path / "weights").mkdir()
    (tmp_path / "model.safetensors").rename(tmp_path / "weights" / "model.safetensors")
    assert "holds weights but no config.json" in refusal(tmp_path / "weights")


def test_damaged_files(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[:-5], whole[:100], b""):
        (folder / "model.safetensors").write_bytes(damaged)
        assert "truncated or damaged" in refusal(folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "config.json").write_text("{")
    message = refusal(folder)
    assert "config.json" in message
    assert "not valid JSON" in message


def test_a_missing_shard_and_an_empty_index(tmp_path):
    tiny().save_pretrained(tmp_path / "m", max_shard_size="2KB")
    shard = sorted((tmp_path / "m").glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{shard.name}: no such file" in refusal(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "names no weights" in refusal(tmp_path / "m")


CONFIGS = {
    "model_type 'nonesuch'": {"model_type": "nonesuch"},
    "no model_type": {"model_type": "delete"},
    "'vit' is no causal language model": {"model_type": "vit"},
    "hidden_size": {"hidden_size": "8"},
    "swoosh": {"hidden_act": "swoosh"},
    "quantised": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "is missing": {"num_hidden_layers": 3},
    "expected (12, 4)": {"hidden_size": 4},
}


@pytest.mark.parametrize("found", CONFIGS)
def test_a_config_that_does_not_fit(folder, found):
    edit_config(folder, **CONFIGS[found])
    assert found in refusal(folder)


def test_remote_code_never_runs(folder):
    edit_config(
        folder, model_type="custom", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    )
    (folder / "code.py").write_text("raise SystemExit('this code must not run')")
    assert "custom" in refusal(folder)


def test_dictionaries_and_adapters_are_named(tmp_path):
    for keys in (["w_enc.weight", "w_dec.weight", "b_dec"], ["W_enc", "W_dec"], ["encoder.weight", "W_dec"]):
        folder = tmp_path / keys[0]
        folder.mkdir()
        save_file({key: torch.zeros(2) for key in keys}, folder / "model.safetensors")
        assert "load_dictionary" in refusal(folder)
    (tmp_path / "saelens").mkdir()
    save_file(
        {"W_enc": torch.zeros(2), "W_dec": torch.zeros(2)}, tmp_path / "saelens" / "sae_weights.safetensors"
    )
    assert "load_dictionary" in refusal(tmp_path / "saelens")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert "an adapter" in refusal(tmp_path / "adapter")


def test_files_that_are_no_checkpoint(folder, tmp_path):
    assert "expected a folder" in refusal(folder / "model.safetensors")
    assert "expected a folder" in refusal(folder / "config.json")
    (tmp_path / "llama2c").mkdir()
    (tmp_path / "llama2c" / "stories.bin").write_bytes(b"\0")
    assert "give its own path" in refusal(tmp_path / "llama2c")


def test_options_that_do_not_apply(folder):
    with pytest.raises(InputError, match="attention_scale is for the authors' published checkpoints"):
        load_pretrained(folder, attention_scale=True)
    with pytest.raises(InputError, match="a local path has no revision v1"):
        load_pretrained(folder, revision="v1")


def test_no_tokenizer(folder, tmp_path):
    with pytest.raises(InputError, match="no tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="its tokenizer cannot be read"):
        load_tokenizer(folder)
    make(Case(F5 | {"tokenizer": "word2vec"}), tmp_path / "published")
    with pytest.raises(InputError, match="'word2vec'; expected one of ts-4096"):
        load_tokenizer(tmp_path / "published")
