"""Numbers of a config.json that no model can have are refused before anything is computed with them."""

import json
import math
import re

import pytest
import torch

from bilinear_lm.checkpoints import checkpoint_info, load_pretrained
from bilinear_lm.cli import main
from bilinear_lm.errors import InputError

from ..tiny_families import ACTIVATION, TOKENS, tiny_family

NAN, INF = math.nan, math.inf
BAD = [
    ("Llama", {"rms_norm_eps": NAN}, "rms_norm_eps nan; expected a finite number, at least 0"),
    ("Llama", {"rms_norm_eps": -1.0}, "rms_norm_eps -1.0; expected a finite number, at least 0"),
    ("Llama", {"rms_norm_eps": INF}, "rms_norm_eps inf"),
    ("Llama", {"rms_norm_eps": 1e300}, "rms_norm_eps 1e+300"),
    ("Olmo2", {"rms_norm_eps": -1e-6}, "rms_norm_eps -1e-06"),
    ("Llama", {"rope_theta": 0.0}, "rope_theta 0.0; expected a positive number, finite in float32"),
    ("Llama", {"rope_theta": -1e4}, "rope_theta -10000.0"),
    ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": NAN}}, "rope_theta nan"),
    ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e300}}, "rope_theta 1e+300"),
    ("Qwen2", {"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor 0.0"),
    (
        "Phi3",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0, 0.0, 1.0, 1.0]}},
        "short_factor 0.0",
    ),
    ("Granite", {"embedding_multiplier": NAN}, "embedding_multiplier nan"),
    ("Granite", {"residual_multiplier": -0.5}, "residual_multiplier -0.5"),
    ("Granite", {"attention_multiplier": INF}, "attention_multiplier inf"),
    ("Granite", {"logits_scaling": 0}, "logits_scaling 0; expected a positive number"),
    ("Gemma2", {"query_pre_attn_scalar": -4}, "query_pre_attn_scalar -4"),
    ("Gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar 0"),
    ("Gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping 0.0"),
    ("Gemma2", {"final_logit_softcapping": NAN}, "final_logit_softcapping nan"),
    ("Mistral", {"attention_dropout": 1.5}, "attention_dropout 1.5; expected a number from 0 to 1"),
    ("Qwen3", {"head_dim": 0}, "head_dim 0; expected 1 or more"),
    ("Gemma", {"num_attention_heads": 0}, "num_attention_heads 0; expected 1 or more"),
    ("Llama", {"max_position_embeddings": -1}, "max_position_embeddings -1; expected 1 or more"),
    ("Llama", {"something": [1.0, NAN]}, "something nan; expected a number"),
]


def folder_of(family, tmp_path, changes):
    tiny_family(family).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    if "rope_theta" in changes or "rope_scaling" in changes:
        del config["rope_parameters"]
    path.write_text(json.dumps(config | changes))
    return tmp_path / "model"


@pytest.mark.parametrize("read", [checkpoint_info, load_pretrained])
@pytest.mark.parametrize(("family", "changes", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_a_number_that_no_model_can_have(family, changes, message, read, tmp_path):
    folder = folder_of(family, tmp_path, changes)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read(folder)
    assert str(error.value).startswith(f"{folder}: config.json says ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", ["info", "generate"])
def test_commands_end_in_one_line(command, tmp_path, capsys):
    folder = folder_of("Llama", tmp_path, {"rms_norm_eps": NAN})
    capsys.readouterr()
    assert main([command, str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"bilinear-lm: {folder}: config.json says rms_norm_eps nan; expected a finite number, at least 0\n"
    )


@pytest.mark.parametrize("family", ACTIVATION)
@pytest.mark.parametrize("changes", [{}, {"rms_norm_eps": 0.0}, {"rms_norm_eps": 1e12}], ids=str)
@torch.no_grad()
def test_numbers_that_a_model_can_have(family, changes, tmp_path):
    model = load_pretrained(folder_of(family, tmp_path, changes))
    assert torch.isfinite(model(TOKENS).logits).all()


def test_limits_that_may_be_infinite(tmp_path):
    """State-space models say so in published files."""
    folder = folder_of("Llama", tmp_path, {"time_step_limit": [0.0, INF]})
    assert load_pretrained(folder).config.num_hidden_layers == 2
