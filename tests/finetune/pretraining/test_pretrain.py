"""Training runs, from text to a checkpoint that bare transformers load."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import finetune.pretraining.pretrain
import finetune.runs.kept
from bilinear_lm import InputError, load_pretrained, load_tokenizer, mlp_tensor, mlp_weights, text_loss
from finetune import PretrainConfig, pretrain
from finetune.pretraining.presets import PRESETS, Preset, new_model

TINY = Preset(d_model=16, d_mlp=24, n_layers=1, n_heads=2, n_ctx=16, d_vocab=300)


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setitem(PRESETS, "tiny-no-norms", dataclasses.replace(TINY, norms=False))


@pytest.fixture
def config(tmp_path):
    generator = random.Random(0)
    names, verbs = ["A cat", "A dog", "The old man"], ["ran home", "saw a ball", "was happy"]
    stories = [
        " ".join(f"{generator.choice(names)} {generator.choice(verbs)}." for _ in range(6))
        for _ in range(120)
    ]
    (tmp_path / "train.txt").write_text("\n<|endoftext|>\n".join(stories[:100]))
    (tmp_path / "held-out.txt").write_text("\n".join(stories[100:]))
    return PretrainConfig(
        output=tmp_path / "model",
        data=(str(tmp_path / "train.txt"),),
        passes=(6.0,),
        preset="tiny",
        validation=tmp_path / "held-out.txt",
        batch_size=8,
        learning_rate=1e-2,
        precision="float32",
        device="cpu",
        checkpoint_steps=10,
    )


@pytest.mark.parametrize("gate", ["linear", "silu"])
def test_a_run_learns_and_leaves_a_plain_checkpoint(config, gate, tmp_path):
    record = pretrain(dataclasses.replace(config, gate=gate))
    folder = config.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held-out.txt", "model", "train.txt"]
    saved = json.loads((folder / "train.json").read_text())
    assert saved == record
    assert saved["settings"]["data"] == ["train.txt"]
    assert saved["validation"]["nats_per_token"] < 2.0
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.hidden_act == gate
    assert model.config.use_cache
    tokenizer = load_tokenizer(folder)
    for settings in (model.config, model.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id) == (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
        )
    loss = text_loss(model, tokenizer, (tmp_path / "held-out.txt").read_text())
    assert loss.nats_per_token == pytest.approx(saved["validation"]["nats_per_token"], rel=1e-5)


def test_a_model_without_gates_is_trained(config):
    record = pretrain(dataclasses.replace(config, gate="relu", keep_checkpoints=("0",)))
    assert record["validation"]["nats_per_token"] < 2.0
    model = AutoModelForCausalLM.from_pretrained(config.output)
    assert (model.config.model_type, model.config.hidden_act) == ("gpt_neox", "relu")
    assert model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.shape == (36, 16)
    weights, activation = mlp_weights(
        load_pretrained(config.output / "checkpoints" / "0"), 0, fold_norm=False
    )
    assert (weights.W_in, type(activation)) == (None, torch.nn.ReLU)
    twin = new_model(TINY, gate="silu")
    ours = sum(weight.numel() for weight in (weights.W_gate, weights.W_out))
    assert ours == sum(parameter.numel() for parameter in twin.model.layers[0].mlp.parameters())


@pytest.mark.parametrize("gate", ["relu", "gelu"])
def test_presets_that_no_ordinary_model_has(config, gate):
    for preset, missing in (("tiny-no-norms", "norms"), ("tinyllama-1.1b", "32 heads of keys and values")):
        with pytest.raises(InputError, match=f"a preset without {missing}, and --gate {gate}; expected"):
            pretrain(dataclasses.replace(config, preset=preset, gate=gate))


def test_identity_norms_stay_frozen_and_half_precision_keeps_them(config):
    pretrain(dataclasses.replace(config, preset="tiny-no-norms", store="float16", validation=None))
    model = load_pretrained(config.output)
    assert model.config.rms_norm_eps == 1e12
    assert torch.equal(model.model.norm.weight, torch.full((16,), 1e6))
    gate = model.model.layers[0].mlp.gate_proj.weight
    assert torch.equal(gate, gate.half().float())
    assert torch.allclose(mlp_tensor(model, 0).W_gate, gate.T, rtol=1e-6)


def test_an_interrupted_run_resumes_to_the_same_model(config, tmp_path, monkeypatch):
    whole = dataclasses.replace(config, output=tmp_path / "whole")
    pretrain(whole)

    class Interrupted(finetune.pretraining.pretrain.RunTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 25:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(finetune.pretraining.pretrain, "RunTrainer", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    assert not config.output.exists()
    with pytest.raises(InputError, match="an interrupted run is there; add --resume"):
        pretrain(config)
    with pytest.raises(InputError, match=r"learning_rate was 0\.01, is 0\.02"):
        pretrain(dataclasses.replace(config, resume=True, learning_rate=2e-2))
    pretrain(dataclasses.replace(config, resume=True))
    files = ("model.safetensors", "tokenizer.json")
    assert all((config.output / name).read_bytes() == (whole.output / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "no preset 'huge'; expected one of stories"),
        ({"data": ()}, "no data given"),
        ({"passes": (1.0, 2.0)}, "2 numbers of passes for 1 sources"),
        ({"passes": (0.0,)}, "expected positive numbers"),
        ({"resume": True}, "no interrupted run there"),
        ({"output": Path()}, r"\.: has no name of its own"),
        ({"max_tokens": 7}, "7 tokens of text, too short for one window of 16"),
        ({"passes": (1e-3,)}, r"no window of 16 tokens in 0\.001 passes; expected one or more"),
        ({"max_tokens": 16, "passes": (1.0,)}, "no window of 16 tokens"),
    ],
)
def test_bad_settings(config, change, message):
    with pytest.raises(InputError, match=message):
        pretrain(dataclasses.replace(config, **change))
    assert not config.output.exists()


def test_an_empty_validation_is_found_before_any_work(config, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"empty\.txt: no text in it"):
        pretrain(dataclasses.replace(config, validation=tmp_path / "empty.txt"))
    assert not config.output.exists()


def test_an_output_that_exists(config):
    config.output.mkdir()
    (config.output / "precious").touch()
    with pytest.raises(InputError, match="model: exists already; expected a new or empty folder"):
        pretrain(config)


def test_models_of_chosen_steps_are_kept(config, monkeypatch):
    """The same after an interruption; the last is the finished model, the first has learned nothing."""
    config = dataclasses.replace(config, passes=(1.0,), keep_checkpoints=("log", "3"), checkpoint_steps=2)
    whole = dataclasses.replace(config, output=config.output.with_name("whole"))
    steps = pretrain(whole)["steps"]
    names = [path.name for path in sorted((whole.output / "checkpoints").iterdir())]
    assert [int(name) for name in names] == [0, 1, 2, 3, 4, 8, 16, steps]
    text = (config.output.parent / "held-out.txt").read_text()
    losses = []
    for name in names:
        folder = whole.output / "checkpoints" / name
        losses.append(text_loss(load_pretrained(folder), load_tokenizer(folder), text).nats_per_token)
        assert json.loads((folder / "config.json").read_text())["use_cache"]
    assert losses == sorted(losses, reverse=True)
    weights = "model.safetensors"
    last = (whole.output / "checkpoints" / names[-1] / weights).read_bytes()
    assert last == (whole.output / weights).read_bytes()

    keep, kept = finetune.runs.kept.KeepCheckpoints._keep, []

    def interrupted(self, state):
        keep(self, state)
        kept.append(state.global_step)
        if kept.count(3) == 1 and state.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(finetune.runs.kept.KeepCheckpoints, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    pretrain(dataclasses.replace(config, resume=True))
    for name in names:
        again, before = (one.output / "checkpoints" / name / weights for one in (config, whole))
        assert again.read_bytes() == before.read_bytes()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (("often",), "keep_checkpoints 'often'; expected steps from 0, or log"),
        (("-1",), "keep_checkpoints '-1'"),
        (("5000",), "keep_checkpoints 5000: the run has"),
    ],
)
def test_steps_that_cannot_be_kept(config, keep, message):
    with pytest.raises(InputError, match=message):
        pretrain(dataclasses.replace(config, keep_checkpoints=keep))
    assert not list(config.output.parent.glob("model*"))
