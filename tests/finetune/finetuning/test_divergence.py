"""Training that diverges stops with a line that says it, and no weights of it are ever written."""

import dataclasses
import math
import re

import pytest
import torch
from safetensors.torch import load_file

import finetune.pretraining.pretrain
from bilinear_lm import InputError
from bilinear_lm.checkpoints import load_pretrained, save_folder
from bilinear_lm.cli import main
from finetune import FitSettings, PretrainConfig, convert, pretrain
from finetune import finetune as run
from finetune.conversion.glu_fit import fit_bilinear
from finetune.pretraining.presets import PRESETS, Preset

from ..conversion.test_glu_fit import draw, glu


@pytest.fixture
def config(stories, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", Preset(16, 24, 1, 2, n_ctx=32, d_vocab=300))
    return PretrainConfig(
        output=stories / "out" / "model",
        data=(str(stories / "train.txt"),),
        preset="tiny",
        batch_size=4,
        precision="float32",
        device="cpu",
        checkpoint_steps=5,
    )


def require_finite_checkpoints(folder):
    for path in folder.rglob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values()), path


@pytest.mark.parametrize("rate", [1e4, 1e30])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_from_scratch(config, rate, precision):
    config = dataclasses.replace(config, learning_rate=rate, precision=precision)
    told = rf"training diverged before step \d+: loss .* rate of {re.escape(f'{rate:g}')}; give a smaller one"
    with pytest.raises(InputError, match=told):
        pretrain(config)
    require_finite_checkpoints(config.output.parent)
    assert not config.output.exists()


def test_on_the_command_line(config, stories, capsys):
    arguments = ["train", "-o", str(config.output), "--data", *config.data, "--preset", "tiny"]
    arguments += ["--batch-size", "4", "--learning-rate", "1e4", "--precision", "float32", "--device", "cpu"]
    assert main(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("bilinear-lm: training diverged before step")
    assert last.endswith("give a smaller one and start anew (no checkpoint had been saved)")
    assert not list(config.output.parent.iterdir())
    assert (
        main([*arguments, "--learning-rate", "0.01"]) == 0
    )  # nothing is in the way of the corrected command


def test_in_the_very_last_step(config):
    """A run of one step: its loss is that of the start, and only the weights behind it are bad."""
    config = dataclasses.replace(config, batch_size=1000, learning_rate=1e38, warmup=0.0)
    with pytest.raises(InputError, match=r"training diverged before step 2: loss nan at a learning rate"):
        pretrain(config)
    assert not config.output.exists()


def test_what_was_good_is_kept(config, monkeypatch):
    """NaN gradients from a step on, long after the first checkpoint."""
    real = finetune.pretraining.pretrain.RunTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step >= 13 else loss

    monkeypatch.setattr(finetune.pretraining.pretrain.RunTrainer, "compute_loss", compute_loss)
    with pytest.raises(InputError, match=r"loss nan.* \(the last good checkpoint is .*checkpoint-10\)"):
        pretrain(config)
    kept = config.output.with_name("model.run") / "checkpoint-10"
    assert kept.is_dir()
    require_finite_checkpoints(config.output.parent)


def test_finetuning_in_the_very_last_step(settings):
    settings = dataclasses.replace(
        settings, tokens=1000, batch_size=30, learning_rate=1e38, warmup=0.0, rate_schedule="constant"
    )
    with pytest.raises(InputError, match="training diverged before step 2: loss nan"):
        run(settings)
    assert not list(settings.output.parent.iterdir())


def test_a_fit_that_overflows():
    """Weights of 1e20 are finite, and their products are not."""
    with pytest.raises(InputError, match=r"diverged at a relative learning rate of 1e\+20"):
        fit_bilinear(glu(), torch.nn.functional.silu, draw(100, 8), settings=FitSettings(5, 64, 1e20))


def test_an_mlp_that_puts_out_zero(swiglu, stories):
    """As pruned models have: it is fitted exactly."""
    model = load_pretrained(swiglu)
    model.model.layers[0].mlp.down_proj.weight.data.zero_()
    windows = torch.randint(290, (10, 16), generator=torch.Generator().manual_seed(0))
    done = convert(model, "fit", windows, fit=FitSettings(10, 64))
    assert done.layers[0].r_squared == 1.0
    assert math.isfinite(done.loss_after)


@pytest.mark.parametrize("method", ["fit", "closed-form", "linear"])
def test_a_conversion_that_does_not_fit_the_precision(method, swiglu):
    """Weights of 4e4 are within float16; twice as large ones, as the other ways to share them, are not."""
    model = load_pretrained(swiglu)
    mlp = model.model.layers[0].mlp
    mlp.gate_proj.weight.data.mul_(3e38)
    mlp.up_proj.weight.data.mul_(1e-38)
    windows = torch.randint(290, (10, 16), generator=torch.Generator().manual_seed(0))
    try:
        done = convert(model, method, windows, fit=FitSettings(10, 64))
    except InputError:
        return
    assert math.isfinite(done.loss_after)
    assert all(value.isfinite().all() for value in model.parameters())


def test_nothing_that_is_not_finite_is_saved(make_model, tiny_tokenizer, tmp_path):
    model = make_model(d_vocab=len(tiny_tokenizer))
    model.model.layers[1].mlp.down_proj.weight.data[3, 4] = math.inf
    with pytest.raises(InputError, match=r"NaN or infinity in model\.layers\.1\.mlp\.down_proj\.weight"):
        save_folder(model, tiny_tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()
