"""The hooked class for the families beyond Llama: transformers' numbers, its hooks, and the way back."""

import copy
from itertools import product

import pytest
import torch

import bilinear_lm.hooked.adapters as hooked
from bilinear_lm import Site, attention_weights, embedding, mlp_tensor, unembedding
from bilinear_lm.hooked.adapters import hook, unhook
from bilinear_lm.sites import site_activations

from ..tiny_families import ACTIVATION, NEW_FAMILIES, TOKENS, tiny_family

in_each = pytest.mark.parametrize("family", NEW_FAMILIES)
# Phi-3's fused projections are computed part by part, its softmax in the model's own precision.
ROUNDING = {"Phi3": 5e-6}


@torch.no_grad()
def logits_of(model, **inputs):
    return model(TOKENS, **inputs).logits


def largest(difference):
    return difference.abs().max().item()


def in_compatibility_mode(model):
    bridge = hook(model)
    bridge.enable_compatibility_mode()
    return bridge


@torch.no_grad()
def assert_parity(family, model, **inputs):
    text = inputs.get("attention_mask", torch.ones_like(TOKENS)).bool()
    reference = logits_of(model, **inputs)
    bridge = hook(model)
    assert largest(bridge(TOKENS, **inputs) - reference) <= ROUNDING.get(family, 0)
    bridge.enable_compatibility_mode()
    log_probs = bridge(TOKENS, **inputs).log_softmax(-1)
    assert largest((log_probs - reference.log_softmax(-1))[text]) <= 1e-5


@pytest.mark.parametrize(
    ("family", "tied", "own"), product(NEW_FAMILIES, (True, False), (True, False)), ids=str
)
def test_logits_are_those_of_transformers(family, tied, own):
    activation = ACTIVATION[family] if own else "linear"
    assert_parity(family, tiny_family(family, activation=activation, tie_word_embeddings=tied))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@in_each
def test_any_activation_survives_compatibility_mode(family, activation):
    assert_parity(family, tiny_family(family, activation=activation))


@pytest.mark.parametrize("padding", [slice(4), slice(8, None)], ids=["left", "right"])
@in_each
def test_padded_batch(family, padding):
    mask = torch.ones_like(TOKENS)
    mask[0, padding] = 0
    model = tiny_family(family)
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    reference = logits_of(model, attention_mask=mask, position_ids=position_ids)
    with torch.no_grad():
        found = hook(model)(TOKENS, attention_mask=mask, position_ids=position_ids)
    assert largest((found - reference)[mask.bool()]) <= ROUNDING.get(family, 0)


def test_sliding_window_of_phi3():
    assert_parity("Phi3", tiny_family("Phi3", sliding_window=4))


@in_each
def test_adapter_is_found_by_its_registered_name(family):
    bridge = hook(tiny_family(family))
    assert type(bridge.adapter) is getattr(hooked, f"Bilinear{family}Adapter")


def test_importing_no_adapter_twice_warns(recwarn):
    hook(tiny_family("Gemma"))
    hook(tiny_family("Gemma"))
    assert not [warning for warning in recwarn if "adapter" in str(warning.message)]


@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])
@in_each
@torch.no_grad()
def test_hook_values(family, compatibility):
    model = tiny_family(family)
    sites = [Site(1, point) for point in ("resid-pre", "attn-out", "resid-mid", "mlp-out", "resid-post")]
    (seen,) = site_activations(model, [TOKENS], sites)
    bridge = in_compatibility_mode(model) if compatibility else hook(model)
    _, cache = bridge.run_with_cache(TOKENS)
    torch.testing.assert_close(cache["hook_embed"], cache["blocks.0.hook_resid_pre"])
    for site, value in seen.items():
        name = "blocks.1.hook_" + site.point.replace("-", "_")
        torch.testing.assert_close(cache[name], value, rtol=1e-4, atol=2e-5)
    block, mlp = "blocks.1.", bridge.blocks[1].mlp
    h = cache[block + "mlp.hook_in"]
    gate, into, product_ = (
        cache[block + name] for name in ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post")
    )
    tensor = mlp_tensor(bridge, 1, fold_norm=False)
    torch.testing.assert_close(product_, gate * into)
    torch.testing.assert_close(gate, h @ mlp.W_gate + (0 if mlp.b_gate is None else mlp.b_gate))
    torch.testing.assert_close(cache[block + "mlp.hook_out"], tensor(h), rtol=1e-4, atol=1e-5)
    if family != "Olmo2":
        assert torch.equal(h, cache[block + "ln2.hook_out"])
    pattern = cache[block + "attn.hook_pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 4, 12))


@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])
@pytest.mark.parametrize(
    ("name", "projection", "factor"),
    [("hook_pre", "gate", 3), ("hook_pre_linear", "in", -2), ("hook_post", "down", 0)],
)
@torch.no_grad()
def test_editing_a_hook_of_the_fused_mlp(name, projection, factor, compatibility):
    model = tiny_family("Phi3")
    scaled = copy.deepcopy(model)
    for layer in scaled.model.layers:
        rows = {"gate": layer.mlp.gate_up_proj.weight[:48], "in": layer.mlp.gate_up_proj.weight[48:]}
        (layer.mlp.down_proj.weight if projection == "down" else rows[projection]).mul_(factor)
    bridge = in_compatibility_mode(model) if compatibility else hook(model)
    edits = [(f"blocks.{i}.mlp.{name}", lambda x, hook: x * factor) for i in (0, 1)]
    edited = bridge.run_with_hooks(TOKENS, fwd_hooks=edits)
    assert largest(edited.log_softmax(-1) - logits_of(scaled).log_softmax(-1)) <= 1e-5


@pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])
@in_each
def test_a_bridge_gives_the_same_weights_as_its_model(family, compatibility):
    model = tiny_family(family)
    bridge = hook(copy.deepcopy(model))
    if compatibility:
        bridge.enable_compatibility_mode()
    ours, theirs = mlp_tensor(bridge, 1), mlp_tensor(model, 1)
    for name in ("W_gate", "W_in", "W_out"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    ours, theirs = attention_weights(bridge, 1), attention_weights(model, 1)
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(embedding(bridge), embedding(model))
    difference = unembedding(bridge) - unembedding(model)
    # Compatibility mode centres W_U over the vocabulary, except under a soft cap.
    if compatibility:
        difference -= difference.mean(-1, keepdim=True)
    assert largest(difference) <= 1e-6


@torch.no_grad()
@in_each
def test_generation_is_greedy_generation_of_transformers(family):
    model = tiny_family(family)
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(TOKENS[:1], pad_token_id=0, eos_token_id=None, **options)
    got = hook(model).generate(TOKENS[:1], stop_at_eos=False, verbose=False, return_type="tokens", **options)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("tied", [True, False])
@in_each
def test_unhook_gives_the_model_back(family, tied, tmp_path):
    model = tiny_family(family, tie_word_embeddings=tied)
    model.model.embed_tokens.weight.requires_grad_(False)
    logits, config = logits_of(model), model.config.to_dict()
    modules = {name: (module, set(vars(module))) for name, module in model.named_modules()}
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())

    bridge = hook(model)
    bridge.add_hook("blocks.0.mlp.hook_post", lambda x, hook: x * 0)
    bridge.run_with_cache(TOKENS)
    clean = unhook(bridge)

    assert clean is model
    assert {name: (module, set(vars(module))) for name, module in clean.named_modules()} == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in clean.modules())
    assert list(clean.state_dict()) == keys
    after = dict(clean.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert clean.config.to_dict() == config
    assert torch.equal(logits_of(clean), logits)
    clean.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits_of(reloaded), logits)


@pytest.mark.parametrize("cast_first", [False, True])
def test_unhook_keeps_what_the_bridge_did_to_parts_of_a_fused_weight(cast_first):
    model, expected = tiny_family("Phi3"), tiny_family("Phi3").double()
    bridge = hook(model)
    if cast_first:
        bridge.to(torch.float64)
    with torch.no_grad():
        expected.model.layers[0].self_attn.qkv_proj.weight[32:48] *= 2
        expected.model.layers[0].mlp.gate_up_proj.weight[48:] *= 3
    bridge.blocks[0].attn.k.weight.data *= 2
    getattr(bridge.blocks[0].mlp, "in").weight.data *= 3
    torch.testing.assert_close(
        mlp_tensor(bridge, 0).W_in.double(), mlp_tensor(expected, 0).W_in, rtol=1e-6, atol=1e-6
    )
    clean = unhook(bridge)
    assert clean.dtype == (torch.float64 if cast_first else torch.float32)
    torch.testing.assert_close(logits_of(clean).double(), logits_of(expected), rtol=1e-5, atol=1e-5)


def test_unhooking_a_copy_leaves_the_bridge_hooked():
    bridge = hook(tiny_family("Phi3"))
    with torch.no_grad():
        logits = bridge(TOKENS)
        clean = unhook(copy.deepcopy(bridge))
        assert largest(logits_of(clean) - logits) <= 5e-6
        assert "blocks.0.mlp.hook_post" in bridge.run_with_cache(TOKENS)[1]
