"""Estimates of a run from its configuration, by hand for TinyLlama, and beside a real backward pass."""

import dataclasses
import json
from contextlib import contextmanager

import pytest
import torch

from bilinear_lm import InputError
from finetune import FinetuneConfig
from finetune.finetuning.losses import stream_error
from finetune.finetuning.plan import plan
from finetune.finetuning.trainer import RECOMPUTE
from finetune.pretraining.presets import Preset, new_model

TINYLLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
PARAMETERS = 1_100_048_384


@pytest.fixture
def config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINYLLAMA))
    return FinetuneConfig(model=str(tmp_path), output=tmp_path / "out", data=("text",), tokens=400_000_000)


def test_tinyllama(config):
    found = plan(dataclasses.replace(config, distillation=0.0))
    assert found.parameters == found.trained == PARAMETERS
    assert found.gated_mlps == 22
    assert found.state_bytes == (16 + 2) * PARAMETERS
    assert found.sharded_bytes == 16 * PARAMETERS
    block = 2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 5632 + 2 * 2048
    assert found.whole_bytes == pytest.approx(2 * 2 * (2 * 32_000 * 2048 + block), rel=1e-5)
    multiplied = PARAMETERS - 32_000 * 2048 + 22 * 2048 * 2048
    assert found.operations_per_token == 6 * multiplied
    assert found.hours["one A100"] == pytest.approx(400e6 * 6 * multiplied / (312e12 * 0.4) / 3600)
    assert found.peak_bytes == found.state_bytes + found.activation_bytes
    assert "1,100,048,384 (1,100,048,384 trained)" in str(found)
    assert "weights, optimiser   18.4 GiB a process; with FSDP over n 0.7 + 16.4 / n GiB" in str(found)
    assert "400,000,000 tokens take       12.5 h on one A40" in str(found)
    assert list(found.hours)[-1].startswith("this CPU")


def test_a_small_model_has_units_in_which_it_is_more_than_nothing(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(TINYLLAMA | {"hidden_size": 64, "intermediate_size": 128})
    )
    config = FinetuneConfig(model=str(tmp_path), output=tmp_path / "out", data=("text",), tokens=100_000)
    told = str(plan(config))
    assert "MiB" in told
    assert "GiB" not in told
    assert " 0.0 " not in told


def test_what_changes_it(config):
    base = plan(config)
    assert base.state_bytes == (16 + 2 + 2) * PARAMETERS  # with the teacher
    alone = plan(dataclasses.replace(config, distillation=0.0))
    assert base.sharded_bytes == alone.sharded_bytes
    assert base.whole_bytes == alone.whole_bytes + 2 * PARAMETERS
    accumulating = plan(dataclasses.replace(config, accumulation=2))
    assert accumulating.state_bytes == base.state_bytes
    assert accumulating.sharded_bytes == base.sharded_bytes - 4 * PARAMETERS
    assert accumulating.whole_bytes == base.whole_bytes + 4 * PARAMETERS
    assert base.operations_per_token * 6 == alone.operations_per_token * 8
    recomputed = plan(dataclasses.replace(config, gradient_checkpointing=True))
    assert recomputed.operations_per_token * 8 == base.operations_per_token * 10
    assert recomputed.activation_bytes < base.activation_bytes / 2
    halved = plan(dataclasses.replace(config, batch_size=4))
    assert base.activation_bytes / 2.3 < halved.activation_bytes < base.activation_bytes / 1.7
    exact = plan(dataclasses.replace(config, precision="float32"))
    assert exact.state_bytes == (16 + 4) * PARAMETERS
    lora = plan(dataclasses.replace(config, lora_rank=16))
    wide = 2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 5632)
    assert lora.trained == 22 * 16 * wide
    assert lora.state_bytes == 8 * PARAMETERS + 12 * lora.trained
    assert "give --train-tokens" in str(plan(dataclasses.replace(config, tokens=None)))


@contextmanager
def kept_for_backward(model, precision):
    """By its place, the memory that operations keep for the backward pass, but for the model's weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its place
        return x

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
    ):
        yield kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_beside_what_a_backward_pass_really_keeps(precision, tmp_path):
    """At the peak there is more than that: temporaries, above all the float32 gradient of the logits."""
    preset = Preset(d_model=256, d_mlp=688, n_layers=4, n_heads=8, n_ctx=64, d_vocab=2048)
    model = new_model(preset, gate="silu").train()
    model.config.save_pretrained(tmp_path)
    config = FinetuneConfig(
        model=str(tmp_path),
        output=tmp_path / "out",
        data=("text",),
        batch_size=4,
        precision=precision,
        distillation=0.0,
    )
    ids = torch.randint(2048, (4, 64))
    with kept_for_backward(model, precision) as kept:
        model(input_ids=ids, labels=ids, use_cache=False)
    copies = 0 if precision == "float32" else 2 * (model.num_parameters() - 2048 * 256)
    measured = sum(storage.nbytes() for storage in kept.values()) - copies
    gradient = 4 * ids.numel() * 2048
    assert 1.0 < plan(config).activation_bytes / (measured + gradient) < 1.35


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_beside_the_streams_that_matching_really_holds(precision, tmp_path):
    """The plan leaves out the embeddings, which the teacher puts out besides, and the student's last stream,
    which is no input of a block and of which the matrix product keeps a copy in bfloat16."""
    preset = Preset(d_model=64, d_mlp=96, n_layers=8, n_heads=4, n_ctx=64, d_vocab=128)
    model, teacher = new_model(preset, gate="silu").train(), new_model(preset, gate="silu").eval()
    model.config.save_pretrained(tmp_path)
    base = FinetuneConfig(
        model=str(tmp_path), output=tmp_path / "out", data=("text",), batch_size=4, precision=precision
    )
    teacher.requires_grad_(False).to(getattr(torch, precision))
    ids = torch.randint(128, (4, 64))
    with kept_for_backward(model, precision) as kept:
        own = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        without = set(kept)
        taught = teacher(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        stream_error(own[1:], taught[1:])
    assert all(stream.untyped_storage().data_ptr() in without for stream in own[:-1])
    measured = sum(storage.nbytes() for place, storage in kept.items() if place not in without)
    measured += sum(stream.nbytes for stream in taught)
    matching = plan(dataclasses.replace(base, matching=1.0))
    estimated = matching.activation_bytes - plan(base).activation_bytes
    assert estimated == (4 + taught[0].itemsize) * ids.numel() * 64 * 8
    assert 0.9 < estimated / measured < 1.0
    assert matching.state_bytes == plan(base).state_bytes


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_beside_the_inputs_that_recomputing_really_keeps(precision, tmp_path):
    """The difference of two depths, so that only what each block adds counts."""
    preset = Preset(d_model=64, d_mlp=96, n_layers=2, n_heads=4, n_ctx=64, d_vocab=128)
    ids, measured, estimated = torch.randint(128, (4, 64)), [], []
    for n_layers in (2, 6):
        model = new_model(dataclasses.replace(preset, n_layers=n_layers), gate="silu").train()
        model.config.save_pretrained(tmp_path)
        getattr(model, f"{RECOMPUTE}_enable")()
        with kept_for_backward(model, precision) as kept:
            model(input_ids=ids, labels=ids, use_cache=False)
        measured.append(sum(storage.nbytes() for storage in kept.values()))
        config = FinetuneConfig(model=str(tmp_path), output=tmp_path / "out", data=("text",), batch_size=4)
        config = dataclasses.replace(config, precision=precision, gradient_checkpointing=True)
        estimated.append(plan(config).activation_bytes)
    assert estimated[1] - estimated[0] == measured[1] - measured[0]


def test_a_file_and_other_models(tmp_path, config):
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.bin: a single file; expected a folder with config\.json"):
        plan(dataclasses.replace(config, model=str(tmp_path / "model.bin")))
    gpt2 = tmp_path / "gpt2"
    gpt2.mkdir()
    (gpt2 / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
    with pytest.raises(InputError, match="no gated MLP found in GPT2LMHeadModel"):
        plan(dataclasses.replace(config, model=str(gpt2)))
    with pytest.raises(InputError, match="batch_size"):
        plan(dataclasses.replace(config, batch_size=0))
    with pytest.raises(InputError, match="a context of 4096 tokens; expected 2 to the model's 2048"):
        plan(dataclasses.replace(config, context=4096))
