"""A configuration that is read without transformers is the one that transformers reads."""

import json
from dataclasses import fields

import pytest
import torch
from transformers import AutoConfig

from bilinear_lm.checkpoints import config_numbers
from bilinear_lm.checkpoints.llama_config import StatedLlama, read_values, stated_llama
from bilinear_lm.errors import InputError
from bilinear_lm.shipped import SHIPPED


@pytest.fixture
def values():
    return read_values(SHIPPED / "stories")


@pytest.mark.parametrize("name", ["stories", "stories-1l"])
def test_as_transformers_reads_it(name):
    stated = stated_llama(read_values(SHIPPED / name))
    config = AutoConfig.from_pretrained(SHIPPED / name)
    assert stated is not None
    assert stated.get_text_config() is stated
    for field in fields(StatedLlama):
        assert getattr(stated, field.name) == getattr(config, field.name)
        assert type(getattr(stated, field.name)) is type(getattr(config, field.name))
    assert stated.model_type == config.model_type


@pytest.mark.parametrize(
    "left_out", ["num_key_value_heads", "hidden_act", "tie_word_embeddings", "model_type"]
)
def test_one_with_defaults_is_left_to_transformers(values, left_out):
    assert stated_llama({name: value for name, value in values.items() if name != left_out}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("model_type", "qwen2"), ("architectures", ["LlamaModel"]), ("hidden_size", 192.0)),
        *(("hidden_size", True), ("num_attention_heads", 5), ("rms_norm_eps", "1e-8"), ("head_dim", None)),
        *(("tie_word_embeddings", 1), ("initializer_range", 2.0), ("eos_token_id", [1, 2])),
        *(("rope_parameters", {"rope_type": "linear", "factor": 2.0}), ("dtype", "int7")),
        *(("auto_map", {}), ("rope_parameters", None), ("dtype", ["float32"])),
    ],
)
def test_what_is_odd_is_left_to_transformers(values, name, value):
    assert stated_llama(values | {name: value}) is None


def test_numbers_that_no_model_has_are_refused(tmp_path, values):
    for wrong, says in (
        ({"vocab_size": 0}, "vocab_size 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(values | wrong))
        with pytest.raises(InputError, match=says):
            read_values(tmp_path, 20)


def test_range_of_float32():
    of_torch = torch.finfo(torch.float32)
    assert (of_torch.max, of_torch.tiny) == (config_numbers._LARGEST, config_numbers._TINY)
