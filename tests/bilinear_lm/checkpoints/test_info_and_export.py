"""What `info` says of each kind of checkpoint, and that `export` writes all or nothing."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from bilinear_lm.checkpoints import checkpoint_info, export, load_pretrained, save_folder
from bilinear_lm.errors import InputError
from bilinear_lm.files import new_folder

from .published_cases import CASES, F3, F5
from .published_forward import NORMS, Case, make
from .shared_data import STORIES, needs_data
from .tiny_models import IDS, tiny, word_tokenizer


def n_parameters(path):
    return sum(parameter.numel() for parameter in load_pretrained(path).parameters())


def test_a_bilinear_llama(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    info = checkpoint_info(tmp_path / "model")
    assert (info.name, info.format, info.bilinear, info.gate) == (
        "model",
        "Hugging Face llama",
        True,
        "linear",
    )
    assert (info.n_layers, info.n_heads, info.n_kv_heads) == (2, 2, 2)
    assert (info.d_model, info.d_mlp, info.d_vocab, info.n_ctx) == (8, 12, 20, 16)
    assert (info.norm, info.tied_embeddings, info.attention_scale) == ("RMS", False, 1.0)
    assert info.n_parameters == n_parameters(tmp_path / "model")
    assert info.notes == ()


@needs_data
def test_a_swiglu_llama():
    info = checkpoint_info(STORIES)
    assert (info.n_parameters, info.tied_embeddings, info.n_kv_heads) == (260_032, True, 4)
    assert (info.gate, info.bilinear) == ("silu", False)
    assert f"bilinear-lm convert {STORIES} -o DIR" in info.notes[0]


def test_another_family(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=3, n_head=2))
    model.save_pretrained(tmp_path)
    info = checkpoint_info(tmp_path)
    assert (info.format, info.norm, info.gate, info.bilinear) == (
        "Hugging Face gpt2",
        "LayerNorm",
        "gelu_new",
        False,
    )
    assert (info.n_layers, info.d_model, info.n_ctx, info.d_mlp) == (3, 8, 16, None)
    assert info.n_parameters == n_parameters(tmp_path)
    assert info.notes == ("no gated linear unit (GLU) in its MLPs",)


@pytest.mark.parametrize(
    "name", ["f1", "f4", "f5", "f5-explicitly-unscaled", "f5-no-norms", "f5-silu", "f5-gelu-mlp"]
)
def test_published(name, tmp_path):
    case = CASES[name]
    tensors = make(case, tmp_path)
    info = checkpoint_info(tmp_path)
    assert (info.n_layers, info.n_heads, info.d_model, info.d_mlp) == (3, 2, 16, 20)
    assert (info.d_vocab, info.n_ctx) == (40, 32)
    assert info.gate == (case.activation or "linear")
    assert info.bilinear == (case.activation is None and case.branches == 2)
    assert info.norm == ("RMS" if case.norms else "none")
    assert info.attention_scale == pytest.approx(6**-0.5 if case.scaled else 1.0)
    assert info.n_parameters == sum(value.size for key, value in tensors.items() if "inv_freq" not in key)


def test_where_the_attention_scale_comes_from(tmp_path):
    def origin_and_note(case, **options):
        make(case, tmp_path)
        info = checkpoint_info(tmp_path, **options)
        return info.attention_scale_origin, [note for note in info.notes if "attention_scale" in note]

    assert origin_and_note(CASES["f5-explicitly-scaled"]) == ("explicit", [])
    assert origin_and_note(CASES["f3"]) == ("format", [])
    assert origin_and_note(CASES["f5"], attention_scale=False) == ("explicit", [])
    origin, (note,) = origin_and_note(CASES["f5"])
    assert (origin, note.endswith("override with attention_scale=False")) == ("derived", True)
    origin, (note,) = origin_and_note(CASES["f4"])
    assert (origin, note.endswith("override with attention_scale=True")) == ("derived", True)


def test_notes(tmp_path):
    def notes(case):
        make(case, tmp_path)
        return " ".join(checkpoint_info(tmp_path).notes)

    assert f"bilinear-lm convert {tmp_path} -o DIR" in notes(CASES["f5-silu"])
    assert "an ordinary MLP" in notes(CASES["f5-gelu-mlp"])
    assert "ignored `gate`" in notes(Case(F3 | {"gate": True}, "o", norm_keys=(".norm.weight",)))
    assert "7 stray tensors" in notes(
        replace(CASES["f4"], strays=tuple(f"{n}.norm.linear.weight" for n in NORMS))
    )


def test_the_record_of_an_export(tmp_path):
    make(Case(F5 | {"scale_attn": True}), tmp_path / "published")
    word_tokenizer(tmp_path / "published")
    export(tmp_path / "published", tmp_path / "new" / "out", attention_scale=False)
    text = "".join(path.read_text() for path in (tmp_path / "new" / "out").glob("*.json"))
    record = json.loads((tmp_path / "new" / "out" / "bilinear_lm.json").read_text())
    assert (record["source"], record["format"]) == ("published", "published F5")
    assert (record["attention_scale"], record["tokenizer"]) == (1.0, True)
    assert record["versions"].keys() == {"bilinear_lm", "torch", "transformers"}
    assert str(tmp_path) not in text
    assert checkpoint_info(tmp_path / "new" / "out").format == "Hugging Face llama"
    modes = {path.stat().st_mode & 0o444 for path in (tmp_path / "new" / "out").iterdir()}
    assert modes == {0o444}


def test_an_export_without_its_tokenizer_says_so(tmp_path):
    make(Case(F5), tmp_path / "published")
    with pytest.warns(UserWarning, match="exported without a tokenizer: mistral-community"):
        export(tmp_path / "published", tmp_path / "out")
    assert not json.loads((tmp_path / "out" / "bilinear_lm.json").read_text())["tokenizer"]


def test_the_export_of_an_existing_or_unwritable_path(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    word_tokenizer(tmp_path / "model")
    (tmp_path / "file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    for out, message in (
        ("model", "exists already"),
        ("file", "exists already"),
        ("file/out", "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            export(tmp_path / "model", tmp_path / out)
        assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match="no such file or folder"):
        export(tmp_path / "nonesuch", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    tiny().save_pretrained(tmp_path / "model")
    word_tokenizer(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("bilinear_lm.checkpoints.save.write_json", fail)
    with pytest.raises(InputError, match="No space left on device"):
        export(tmp_path / "model", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_save_folder(tmp_path):
    model = tiny()
    with new_folder(tmp_path / "out") as draft:
        save_folder(model, None, draft, {"steps": 3})
    record = json.loads((tmp_path / "out" / "bilinear_lm.json").read_text())
    assert record["steps"] == 3
    assert torch.equal(load_pretrained(tmp_path / "out")(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_in_half_precision(tied, tmp_path):
    """Half the size, the model untouched, tied weights once, and a norm weight of 1e6 as it was."""
    model = tiny(tie_word_embeddings=tied)
    with torch.no_grad():
        model.model.norm.weight.fill_(1e6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (tmp_path / "half").mkdir()
    save_folder(model, None, tmp_path / "half", store="float16")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    loaded = load_pretrained(tmp_path / "half")
    assert {name: value.dtype for name, value in stored.items() if value.dtype != torch.float16} == {
        "model.norm.weight": torch.float32
    }
    assert ("lm_head.weight" in stored) != tied
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        expected = value if name == "model.norm.weight" else value.half().float()
        assert torch.equal(loaded.state_dict()[name], expected)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype is torch.float32


def test_settings_of_generation_that_are_no_numbers_are_not_written(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(path.read_text().replace("{", '{"temperature": NaN,', 1))
    with pytest.raises(InputError, match=r"generation_config\.temperature nan; expected a finite number"):
        export(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()
