"""Finetuning runs of every kind, from a SwiGLU folder to a bilinear one that bare transformers load."""

import dataclasses
import hashlib
import json
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import finetune.data.token_files
import finetune.data.windows
import finetune.finetuning.finetune
from bilinear_lm import InputError, load_pretrained, load_tokenizer, mlp_tensor, text_loss
from bilinear_lm.checkpoints import save_folder
from finetune import FitSettings
from finetune import finetune as run
from finetune.data.sources import documents
from finetune.data.windows import Windows
from finetune.finetuning.annealing import anneal_gates
from finetune.finetuning.trainer import trainer

from ...bilinear_lm.tiny_families import gated

IDS = torch.randint(290, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quick_fits(monkeypatch):
    monkeypatch.setattr(
        finetune.finetuning.finetune, "FitSettings", partial(FitSettings, steps=40, batch_size=128)
    )


def fingerprint(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


BASELINE = {"arm": "baseline"}
TAUGHT = {"distillation": 0.5, "matching": 1.0, "temperature": 2.0}
KINDS = {
    "annealed": {},
    "annealed-taught": TAUGHT,
    "annealed-learnable": {"learnable_gates": True, "schedule": "exponential", "exponential_k": 1.4},
    "annealed-lora": {"lora_rank": 2},
    "annealed-norms": {"norms": "linear"},
    "annealed-recomputed": {"gradient_checkpointing": True, "accumulation": 2, "schedule": "logistic"},
    "annealed-bfloat16": {"precision": "bfloat16", **TAUGHT},
    "fit": {"start": "fit"},
    "fit-taught": {"start": "fit", **TAUGHT},
    "fit-lora-taught": {"start": "fit", "lora_rank": 2, **TAUGHT},
    "closed-form-norms": {"start": "closed-form", "norms": "linear"},
    "linear": {"start": "linear", "first_token": False},
    "baseline": BASELINE,
    "baseline-lora-taught": {**BASELINE, "lora_rank": 2, **TAUGHT},
    "baseline-norms": {**BASELINE, "norms": "linear"},  # which only the bilinear arm makes linear
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_every_kind(settings, kind):
    settings = dataclasses.replace(settings, tokens=2_500, **KINDS[kind])
    source = settings.output.parents[1] / "swiglu"
    before = fingerprint(source)
    record = run(settings)
    assert fingerprint(source) == before
    assert [path.name for path in settings.output.parent.iterdir()] == ["model"]

    model = AutoModelForCausalLM.from_pretrained(settings.output, dtype=torch.float32)
    bilinear, folder = settings.arm == "bilinear", settings.output
    assert model.config.hidden_act == ("linear" if bilinear else "silu")
    assert (model.config.rms_norm_eps == 1e12) == (bilinear and settings.norms == "linear")
    assert model.config.use_cache
    names = {name for name, _ in model.named_parameters()}
    own_biases = {name for name in names if name.endswith("proj.bias")}
    assert bool(own_biases) == (bilinear and settings.start in ("fit", "closed-form"))
    assert not any(part in name for name in names for part in ("act_fn", "lora", "norm.norm"))
    torch.testing.assert_close(logits(model), logits(load_pretrained(folder)))
    assert not torch.allclose(logits(model), logits(load_pretrained(source)), atol=1e-3)
    if bilinear:
        assert mlp_tensor(model, 0).constant == bool(own_biases)
    assert load_tokenizer(folder).encode("a cat") == load_tokenizer(source).encode("a cat")

    assert json.loads((folder / "finetune.json").read_text()) == record
    assert record["source"] == "swiglu"
    assert record["settings"]["data"] == ["train.txt"]
    assert record["settings"]["learning_rate"] == settings.learning_rate
    assert record["settings"]["processes"] == 1
    assert record["reload_difference"] <= 1e-4
    assert ("conversion" in record) == (bilinear and settings.start != "anneal")
    assert ("norm_factors" in record) == (bilinear and settings.norms == "linear")
    assert record["tokens"] == pytest.approx(2_500, rel=0.1)
    assert record["tokens"] == record["steps"] * 32 * 4 * settings.accumulation
    versions = json.loads((folder / "bilinear_lm.json").read_text())["versions"]
    assert versions.keys() == {"bilinear_lm", "torch", "transformers"}
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert log == record["log"]
    assert [entry["step"] for entry in log][:3] == [1, 5, min(10, record["steps"])]
    assert log[-1]["step"] == record["steps"]
    assert all(entry["loss"] > 0 and entry["tokens_per_second"] > 0 for entry in log)
    anneals = bilinear and (settings.start == "anneal" or settings.norms == "linear")
    assert log[0]["linearity"] == (0.0 if anneals else None)
    assert log[-1]["linearity"] == (1.0 if anneals else None)
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_source_and_the_text_are_read_once(settings, monkeypatch):
    """The teacher is the source as it was, although the start was made of it."""
    loaded, read, taught = [], [], []

    def load(path, **options):
        loaded.append(path)
        return load_pretrained(path, **options)

    def read_documents(source, selection):
        read.append(source)
        return documents(source, selection)

    def make(config, run, model, teacher, *args, **options):
        taught.append({name: value.clone() for name, value in teacher.state_dict().items()})
        return trainer(config, run, model, teacher, *args, **options)

    monkeypatch.setattr(finetune.finetuning.finetune, "load_pretrained", load)
    monkeypatch.setattr(finetune.finetuning.finetune, "trainer", make)
    for module in (finetune.data.windows, finetune.data.token_files):
        monkeypatch.setattr(module, "documents", read_documents)
    run(dataclasses.replace(settings, tokens=600, start="fit", norms="linear", **TAUGHT))
    assert loaded.count(settings.model) == 1
    assert read == list(settings.data)
    source = load_pretrained(settings.model).state_dict()
    assert taught[0].keys() == source.keys()
    assert all(torch.equal(taught[0][name], source[name]) for name in source)


def test_training_learns_and_is_evaluated(settings, stories):
    held_out = stories / "held-out.txt"
    settings = dataclasses.replace(
        settings,
        tokens=12_000,
        learning_rate=1e-2,
        batch_size=8,
        validation=held_out,
        validation_steps=20,
    )
    record = run(settings)
    losses = [entry["validation_loss"] for entry in record["log"] if "validation_loss" in entry]
    assert len(losses) == -(-record["steps"] // 20)
    assert losses[-1] < 0.7 * losses[0]
    model = load_pretrained(settings.output)
    found = text_loss(model, load_tokenizer(settings.output), held_out.read_text())
    assert record["validation"]["nats_per_token"] == pytest.approx(found.nats_per_token, rel=1e-5)
    assert record["validation"]["nats_per_token"] < 3


@pytest.mark.parametrize("store", ["bfloat16", "float16"])
def test_stored_in_half_precision(settings, store):
    run(dataclasses.replace(settings, tokens=600, store=store, norms="linear"))
    model = load_pretrained(settings.output)
    gate = model.model.layers[0].mlp.gate_proj.weight
    assert torch.equal(gate, gate.to(getattr(torch, store)).float())
    assert logits(model).isfinite().all()


def test_seeds(settings):
    settings = dataclasses.replace(settings, tokens=800, start="fit")

    def weights(name, seed):
        output = settings.output.with_name(name)
        run(dataclasses.replace(settings, output=output, seed=seed))
        return (output / "model.safetensors").read_bytes()

    first = weights("first", 3)
    assert weights("again", 3) == first
    assert weights("other", 4) != first


@pytest.mark.parametrize("family", ["Qwen2", "Gemma2", "Phi3", "Olmo2", "Granite"])
def test_other_families(family, settings, stories, tiny_tokenizer):
    model = gated(family, vocab_size=len(tiny_tokenizer))
    save_folder(model, tiny_tokenizer, stories / "family")
    settings = dataclasses.replace(settings, model=str(stories / "family"), tokens=2_500, learning_rate=1e-2)
    record = run(settings)
    assert record["log"][-1]["loss"] < 0.9 * record["log"][0]["loss"]
    mlp_tensor(load_pretrained(settings.output), 1)


def test_only_matrices_decay(settings):
    model = load_pretrained(settings.model)
    anneal_gates(model, learnable=True)
    windows = Windows([np.arange(200, dtype=np.int32)], [1.0], context=32, first=None, seed=0)
    made = trainer(settings.with_context(32), settings.output, model, None, windows, None, [], use_cpu=True)
    matrices = {name for name, value in model.named_parameters() if value.dim() == 2}
    assert set(made.get_decay_parameter_names(model)) == matrices


def test_settings_that_make_no_sense(settings, stories):
    for change, said in {
        ("data", ()): "no data given",
        ("distillation", 1.5): "distillation 1.5, temperature 1.0, matching 0.0",
        ("temperature", 0.0): "temperature 0.0",
        ("anneal", 0.0): "anneal 0.0; expected the share of the steps",
        ("tokens", 0): "tokens 0; expected at least 1",
        ("validation", stories / "nowhere.txt"): r"nowhere\.txt: no such file",
        ("validation_steps", 5): "validation_steps are at least 1, and need a validation text",
        ("batch_size", 0): "batch_size, accumulation, checkpoint_steps and log_steps are at least 1",
        ("lora_rank", 0): "lora_rank 0; expected at least 1",
        ("learning_rate", 0.0): "learning_rate 0.0, weight_decay 0.1, warmup 0.02; expected above 0",
        ("warmup", 1.0): "warmup 1.0; expected above 0, at least 0, and a share of the steps below 1",
        ("report_to", ("nowhere",)): "report_to nowhere; expected a tracker that is installed",
        ("tokens", 10**14): r"[0-9,]+ passes over the data, [0-9,]+ windows of 32 tokens; expected at most",
        ("context", 33): "a context of 33 tokens; expected 2 to the model's 32",
        ("context", 1): "a context of 1 tokens; expected 2 to the model's 32",
        ("model", str(stories / "nowhere")): "nowhere: no such file or folder",
        ("data", (str(stories / "nowhere"),)): "nowhere: neither a text file, nor a folder",
        ("tokens", 30): "30 tokens of text, too short for windows of 32; give more text",
        ("batch_size", 1000): "windows of 32 tokens to train on; expected at least the 1000 of one step",
        ("resume", True): r"model\.run: no interrupted run there",
        ("calibration_tokens", 20): "too short for one window of 32|hold no window of 32",
    }.items():
        name, value = change
        start = "fit" if name == "calibration_tokens" else "anneal"
        with pytest.raises(InputError, match=said):
            run(dataclasses.replace(settings, start=start, **{name: value}))
        assert not list(settings.output.parent.glob("*")), name


@pytest.mark.parametrize("change", [{"start": "fit"}, {"arm": "baseline"}, {"lora_rank": 2}])
def test_learnable_gates_are_annealed(settings, change):
    with pytest.raises(InputError, match="learnable_gates"):
        run(dataclasses.replace(settings, learnable_gates=True, **change))


def test_empty_texts(settings, stories):
    (stories / "empty.txt").write_text(" \n<|endoftext|>\n")
    with pytest.raises(InputError, match=r"empty\.txt: no text in it; expected documents to train on"):
        run(dataclasses.replace(settings, data=(str(stories / "empty.txt"),)))
    with pytest.raises(InputError, match=r"empty\.txt"):
        run(dataclasses.replace(settings, validation=stories / "empty.txt", validation_steps=1))
    assert not list(settings.output.parent.glob("*"))


def test_a_model_that_is_bilinear_already(settings, make_model, tiny_tokenizer, stories):
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, stories / "bilinear")
    with pytest.raises(InputError, match="2 MLPs are bilinear already; nothing to finetune"):
        run(dataclasses.replace(settings, model=str(stories / "bilinear")))


def test_a_tokenizer_of_another_model(settings, make_model, tiny_tokenizer, stories):
    save_folder(make_model(d_vocab=200, gate="silu"), tiny_tokenizer, stories / "small")
    most = max(tiny_tokenizer.get_vocab().values())
    with pytest.raises(InputError, match=f"token ids up to {most}, but the model has 200 embeddings"):
        run(dataclasses.replace(settings, model=str(stories / "small")))


def test_an_output_that_is_there_or_cannot_be(settings):
    settings.output.mkdir(parents=True)
    (settings.output / "precious").touch()
    with pytest.raises(InputError, match="model: exists already"):
        run(settings)
    with pytest.raises(InputError, match=r"/proc/model\.run: cannot be written"):
        run(dataclasses.replace(settings, output=settings.output.__class__("/proc/model")))
    assert [path.name for path in settings.output.iterdir()] == ["precious"]
