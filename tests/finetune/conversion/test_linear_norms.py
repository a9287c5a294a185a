"""Norms on their way to fixed factors, and the checkpoints that they become."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bilinear_lm import InputError, mlp_tensor
from finetune.conversion.linear_norms import anneal_norms, annealed_norms, fold_norms, norm_factors

from ...bilinear_lm.tiny_families import gated

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
IDS = torch.randint(1, 64, (9, 10), generator=torch.Generator().manual_seed(0))


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_are_numpys(family):
    model = gated(family)
    seen = {}
    names = [name for name, module in model.named_modules() if type(module).__name__.endswith("RMSNorm")]
    assert len(names) == (9 if family == "Qwen3" else 5)  # two a block and the last; queries and keys

    def keep(name):
        return lambda module, args: seen.__setitem__(name, args[0].double().numpy())

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    logits(model)
    for handle in handles:
        handle.remove()
    found = norm_factors(model, IDS)
    assert found.keys() == set(names)
    for name, x in seen.items():
        rms = np.sqrt((x**2).mean(axis=-1, keepdims=True) + model.config.rms_norm_eps)
        assert found[name] == pytest.approx((x * x / rms).sum() / (x**2).sum(), rel=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_from_the_norms_to_a_checkpoint_without_them(family, tmp_path):
    model = gated(family)
    before = logits(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    factors = norm_factors(model, IDS)
    made = anneal_norms(model, factors)
    assert annealed_norms(model) == made
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    for norm in made:
        norm.linearity = 1.0
    linear = logits(model)
    fold_norms(model)
    assert model.config.rms_norm_eps == 1e12
    model.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert again.state_dict().keys() == weights.keys()
    for name, factor in factors.items():
        expected = 1e6 * factor * weights[f"{name}.weight"]
        torch.testing.assert_close(again.get_submodule(name).weight.data, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits(again), linear, rtol=1e-4, atol=1e-4 * float(linear.abs().max()))


def test_halfway():
    model = gated("Llama")
    norm = model.model.layers[0].input_layernorm
    anneal_norms(model, norm_factors(model, IDS))
    made = model.model.layers[0].input_layernorm
    made.linearity = 0.25
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x), 0.75 * norm(x) + 0.25 * x * made.weight)


def test_a_polynomial_model(tmp_path):
    """With linear gates and norms and without attention, logits are a polynomial of the embedding."""
    model = gated("Llama", activation="linear", num_hidden_layers=1)
    model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    for norm in anneal_norms(model, norm_factors(model, IDS)):
        norm.linearity = 1.0
    fold_norms(model)
    x = model.model.embed_tokens.weight.detach()[:7]
    stream = x + mlp_tensor(model, 0)(x)
    expected = stream * model.model.norm.weight * 1e-6 @ model.lm_head.weight.T
    with torch.inference_mode():
        found = model(input_ids=torch.arange(7).unsqueeze(1)).logits[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_too_early():
    model = gated("Llama")
    anneal_norms(model, norm_factors(model, IDS))[0].linearity = 1.0
    with pytest.raises(InputError, match="has come 0% of the way to linear; train on"):
        fold_norms(model)


@pytest.mark.parametrize("family", ["Gemma2", "Olmo2", "Granite"])
def test_other_families_are_refused(family):
    with pytest.raises(InputError, match="expected a model of llama, mistral, qwen2, qwen3 for linear norms"):
        norm_factors(gated(family), IDS)
