"""Folders of the families beyond Llama: what loads, what `info` says, and commands on them."""

import json

import pytest
import torch

from bilinear_lm import mlp_tensor
from bilinear_lm.checkpoints import checkpoint_info, load_pretrained, save_folder
from bilinear_lm.cli import main

from ..tiny_families import ACTIVATION, NEW_FAMILIES, TOKENS, tiny_family

in_each = pytest.mark.parametrize("family", NEW_FAMILIES)


@in_each
def test_a_folder_gives_the_model_back(family, tmp_path):
    model = tiny_family(family)
    save_folder(model, None, tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(mlp_tensor(loaded, 1).W_gate, mlp_tensor(model, 1).W_gate)


@pytest.mark.parametrize("own", [True, False])
@in_each
def test_info(family, own, tmp_path):
    activation = ACTIVATION[family] if own else "linear"
    model = tiny_family(family, activation=activation)
    save_folder(model, None, tmp_path / "model")
    info = checkpoint_info(tmp_path / "model")
    assert info.format == f"Hugging Face {family.lower()}"
    assert (info.gate, info.bilinear, info.norm) == (activation, not own, "RMS")
    assert (info.n_layers, info.n_heads, info.n_kv_heads, info.d_model, info.d_mlp) == (2, 4, 2, 32, 48)
    assert info.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert any("bilinear-lm convert" in note for note in info.notes) == own


def test_info_of_gemma2_reads_the_activation_that_the_model_uses(tmp_path):
    save_folder(tiny_family("Gemma2"), None, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "gelu_pytorch_tanh"}))
    info = checkpoint_info(tmp_path / "model")
    assert (info.gate, info.bilinear) == ("linear", True)
    mlp_tensor(load_pretrained(tmp_path / "model"), 0)


@pytest.mark.parametrize("family", ["Gemma", "Phi3"])
def test_commands(family, tmp_path, tiny_tokenizer):
    model = tiny_family(family, vocab_size=len(tiny_tokenizer))
    save_folder(model, tiny_tokenizer, tmp_path / "model")
    folder, page = str(tmp_path / "model"), tmp_path / "page.html"
    where = ["--device", "cpu", "-o"]
    assert main(["eigen", folder, "--layer", "1", "--tokens", "g", *where, str(tmp_path / "eigen")]) == 0
    assert main(["hosvd", folder, "--layer", "1", *where, str(tmp_path / "hosvd")]) == 0
    few = ["--layers", "1", "--directions", "1", "--text", "a cat ran to the park"]
    assert main(["report", folder, *few, *where, str(page)]) == 0
    assert page.read_text().startswith("<!doctype html>")
