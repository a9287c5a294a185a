"""Every published format and option against the numpy forward."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bilinear_lm.checkpoints import export, load_pretrained

from .published_cases import CASES, F4, F5, SCALARS
from .published_forward import IDS, LAYERS, NORMS, Case, logits, make


def difference(model, expected):
    with torch.no_grad():
        got = model(torch.from_numpy(IDS)).logits
    return np.abs(got.double().numpy() - expected).max()


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_numpy_forward(name, tmp_path):
    case = CASES[name]
    expected = logits(case, make(case, tmp_path))
    model = load_pretrained(tmp_path)
    assert np.abs(expected).max() > 0.5
    assert difference(model, expected) < 1e-4
    assert model.dtype is torch.float32
    assert not model.training


@pytest.mark.parametrize(
    "name", ["f1", "f2-biases", "f3-relu-mlp", "f5-late-bias", "f5-no-norms", "f5-scalars"]
)
def test_an_export_is_the_same_model_for_bare_transformers(name, tmp_path, recwarn):
    case = CASES[name]
    expected = logits(case, make(case, tmp_path / "published"))
    export(tmp_path / "published", tmp_path / "out")
    bare, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    again = load_pretrained(tmp_path / "out")
    assert not any(loading.values())
    assert type(bare).__name__ == "LlamaForCausalLM"
    assert difference(bare, expected) < 1e-4
    assert difference(again, expected) < 1e-4
    for one, other in zip(
        load_pretrained(tmp_path / "published").parameters(), again.parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("name", ["f3", "f4", "f5", "f5-explicitly-scaled"])
def test_the_attention_scale_can_be_overridden(name, scaled, tmp_path):
    case = CASES[name]
    tensors = make(case, tmp_path)
    overridden = Case(**(vars(case) | {"scaled": scaled}))
    assert difference(load_pretrained(tmp_path, attention_scale=scaled), logits(overridden, tensors)) < 1e-4


def test_the_comparison_sees_positions_and_the_scale(tmp_path):
    """Controls: without rotation, or with the other scale, the logits are far from the model's."""
    case = CASES["f5"]
    tensors = make(case, tmp_path)
    model = load_pretrained(tmp_path)
    assert difference(model, logits(case, tensors, rotary=False)) > 0.05
    assert difference(model, logits(Case(**(vars(case) | {"scaled": False})), tensors)) > 0.05


def test_the_recomputed_buffer_is_ignored(tmp_path):
    """inv_freq is saved with the file but is no parameter: what it holds changes nothing."""
    damaged = {f"{layer}.attn.rotary.inv_freq": np.ones(4) for layer in LAYERS}
    case = Case(F5, scaled=True, tensors=damaged)
    tensors = make(case, tmp_path)
    assert difference(load_pretrained(tmp_path), logits(case, tensors)) < 1e-4


def test_scalars_without_an_axis(tmp_path):
    """a and b may be saved with shape []."""
    scalars = {f"{norm}.norm.{name}": value for norm in NORMS for name, value in (("a", 1.3), ("b", 0.2))}
    case = Case(F4 | {"norm_bias": True}, norm_keys=SCALARS, tensors=scalars)
    tensors = make(case, tmp_path)
    tensors = {key: value.reshape(()) if key in scalars else value for key, value in tensors.items()}
    assert difference(load_pretrained(tmp_path), logits(case, tensors)) < 1e-4


def test_dtype_and_device(tmp_path):
    make(CASES["f5"], tmp_path)
    model = load_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.device.type == "cpu"


def test_the_llama_is_of_the_published_sizes(tmp_path):
    make(CASES["f5"], tmp_path)
    config = load_pretrained(tmp_path).config
    assert (config.hidden_act, config.max_position_embeddings, config.tie_word_embeddings) == (
        "linear",
        32,
        False,
    )
    assert (config.rms_norm_eps, config.attention_bias, config.mlp_bias) == (1e-8, False, False)
