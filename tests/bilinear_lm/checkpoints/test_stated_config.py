"""A configuration that is read without transformers is the one that transformers reads."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from transformers import AutoConfig

from bilinear_lm.checkpoints import checkpoint_info, config_numbers, info
from bilinear_lm.checkpoints.stated_config import _OWN, StatedConfig, read_values, stated_config
from bilinear_lm.errors import InputError
from bilinear_lm.families import FAMILIES
from bilinear_lm.shipped import SHIPPED

from ..tiny_families import ACTIVATION, gated


@pytest.fixture
def values():
    return read_values(SHIPPED / "stories")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each family as transformers writes it, by the family's name."""
    root = tmp_path_factory.mktemp("families")
    for name in ACTIVATION:
        gated(name).save_pretrained(root / name)
    return root


def same_as_transformers(folder):
    """Whether a folder's configuration is read alone, and then as transformers reads it."""
    stated = stated_config(read_values(folder))
    if stated is None:
        return False
    config = AutoConfig.from_pretrained(folder)
    assert stated.get_text_config() is stated
    for field in fields(StatedConfig):
        ours, theirs = getattr(stated, field.name), getattr(config, field.name, None)
        assert ours == theirs
        assert type(ours) is type(theirs)
    return True


@pytest.mark.parametrize("name", ["stories", "stories-1l"])
def test_as_transformers_reads_what_ships(name):
    assert same_as_transformers(SHIPPED / name)


@pytest.mark.parametrize("family", ACTIVATION)
def test_as_transformers_reads_each_family(folders, family, monkeypatch):
    assert same_as_transformers(folders / family)
    light = checkpoint_info(folders / family)
    monkeypatch.setattr(info, "stated_config", lambda _: None)
    assert checkpoint_info(folders / family) == light


@pytest.mark.parametrize("family", ACTIVATION)
def test_as_transformers_reads_older_names(folders, family, tmp_path):
    values = read_values(folders / family)
    rope = values.pop("rope_parameters")
    older = {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": values.pop("dtype")}
    (tmp_path / "config.json").write_text(json.dumps(values | older))
    assert same_as_transformers(tmp_path)
    assert stated_config(values | older | {"rope_parameters": rope}) is None
    assert stated_config(values | older | {"dtype": "float32"}) is None


def test_every_family_is_there(folders):
    assert _OWN.keys() == FAMILIES.keys()
    code = "import sys\nfrom bilinear_lm.checkpoints import checkpoint_info\n"
    code += f"for name in {list(ACTIVATION)}: checkpoint_info({str(folders)!r} + '/' + name)\n"
    code += "assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "left_out", ["num_key_value_heads", "hidden_act", "tie_word_embeddings", "model_type"]
)
def test_one_with_defaults_is_left_to_transformers(values, left_out):
    assert stated_config({name: value for name, value in values.items() if name != left_out}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("model_type", "qwen2"), ("architectures", ["LlamaModel"]), ("hidden_size", 192.0)),
        *(("hidden_size", True), ("num_attention_heads", 5), ("rms_norm_eps", "1e-8"), ("head_dim", None)),
        *(("tie_word_embeddings", 1), ("initializer_range", 2.0), ("eos_token_id", [1, 2])),
        *(("rope_parameters", {"rope_type": "linear", "factor": 2.0}), ("dtype", "int7")),
        *(("auto_map", {}), ("rope_parameters", None), ("dtype", ["float32"])),
        *(("model_type", ["llama"]), ("rope_scaling", {"type": "linear", "factor": 2.0})),
        *(("sliding_window", 4), ("layer_types", ["full_attention"] * 4), ("hidden_activation", "silu")),
    ],
)
def test_what_is_odd_is_left_to_transformers(values, name, value):
    assert stated_config(values | {name: value}) is None


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("Gemma", "hidden_act", "gelu"),
        ("Gemma", "use_bidirectional_attention", True),
        ("Gemma2", "layer_types", ["full_attention"]),
        ("Gemma2", "layer_types", ["full_attention", "linear"]),
        ("Gemma2", "hidden_act", "silu"),
        ("Qwen2", "layer_types", []),
        (
            "Phi3",
            "rope_parameters",
            {"rope_theta": 1e4, "rope_type": "longrope", "partial_rotary_factor": 1.0},
        ),
        ("Granite", "logits_scaling", None),
        ("Mistral", "mlp_bias", False),
    ],
)
def test_what_is_odd_in_a_family_is_left_to_transformers(folders, family, name, value):
    assert stated_config(read_values(folders / family) | {name: value}) is None


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
