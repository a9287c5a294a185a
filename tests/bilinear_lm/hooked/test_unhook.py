"""A model that is hooked is changed in place until `unhook` gives it back."""

import copy
import pickle

import pytest
import torch
import transformers
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoModelForCausalLM

from bilinear_lm.checkpoints.save import save_folder
from bilinear_lm.errors import InputError
from bilinear_lm.glus import find_glus
from bilinear_lm.hooked.adapters import hook, unhook

from .tiny_models import FAMILIES, N_LAYERS, TOKENS, hooked_in_mode, logits_of, tiny


def attributes(model):
    """What a model is, apart from numbers: its modules, their attributes and the names they own."""
    own = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
    return {
        name: (module, set(vars(module)), {key: set(vars(module)[key]) for key in own})
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_unhook_gives_the_model_back(family, tied, tmp_path):
    model = tiny(family, tie_word_embeddings=tied, attn_implementation="sdpa")
    model.model.embed_tokens.weight.requires_grad_(False)
    logits, config = logits_of(model), model.config.to_dict()
    before, keys, parameters = attributes(model), list(model.state_dict()), dict(model.named_parameters())

    bridge = hook(model)
    assert list(model.state_dict()) != keys
    bridge.add_hook("blocks.0.mlp.hook_post", lambda x, hook: x * 0)
    bridge.run_with_cache(TOKENS)
    clean = unhook(bridge)

    assert clean is model
    assert type(clean) is getattr(transformers, f"{family}ForCausalLM")
    assert attributes(clean) == before
    assert list(clean.state_dict()) == keys
    after = dict(clean.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert not clean.model.embed_tokens.weight.requires_grad
    assert (clean.lm_head.weight is clean.model.embed_tokens.weight) == tied
    assert clean.config._attn_implementation == "sdpa"
    assert clean.config.to_dict() == config
    assert torch.equal(logits_of(clean), logits)

    clean.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(reloaded), logits)
    assert torch.equal(logits_of(pickle.loads(pickle.dumps(clean))), logits)


UNSAVEABLE = {
    "save_pretrained": lambda model, path: model.save_pretrained(path / "model"),
    "push_to_hub": lambda model, path: model.push_to_hub("somebody/model"),
    "pickle": lambda model, path: pickle.dumps(model),
    "torch.save": lambda model, path: torch.save(model, path / "model.pt"),
    "copy": lambda model, path: copy.copy(model),
    "resize": lambda model, path: model.resize_token_embeddings(60),
    "save_folder": lambda model, path: save_folder(model, None, path / "model"),
}


@pytest.mark.parametrize("way", UNSAVEABLE)
@pytest.mark.parametrize("tied", [True, False])
def test_what_cannot_be_done_with_a_hooked_model_says_so(way, tied, tmp_path):
    model = tiny(tie_word_embeddings=tied)
    logits, bridge = logits_of(model), hook(model)
    bridges = () if way == "save_folder" else (bridge, copy.deepcopy(bridge))
    for changed in (model, copy.deepcopy(model), *bridges):
        with pytest.raises(InputError, match=r"bilinear_lm\.unhook\(bridge\)") as error:
            UNSAVEABLE[way](changed, tmp_path)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "model").exists()
    assert torch.equal(logits_of(model), logits)
    if way != "push_to_hub":
        UNSAVEABLE[way](unhook(bridge), tmp_path)


def test_a_hooked_model_is_not_converted():
    model = tiny(hidden_act="silu")
    bridge = hook(model)
    for changed in (model, bridge):
        with pytest.raises(
            InputError, match=r"MLPs are to be changed is hooked; .* as unhook\(bridge\) returns"
        ):
            find_glus(changed)
    assert len(find_glus(unhook(bridge))) == N_LAYERS


def test_unhooked_model_can_be_hooked_again():
    model = tiny()
    logits = logits_of(model)
    bridge = hook(unhook(hook(model)))
    with torch.no_grad():
        assert torch.equal(bridge(TOKENS), logits)


def test_unhook_keeps_what_the_bridge_did_to_the_weights():
    model, expected = tiny(), tiny()
    expected.model.layers[0].mlp.down_proj.weight.data *= 2
    expected = expected.to(torch.bfloat16)
    bridge = hook(model)
    bridge.blocks[0].mlp.out.weight.data *= 2
    bridge.to(torch.bfloat16)
    clean = unhook(bridge)
    assert clean.dtype == torch.bfloat16
    assert torch.equal(logits_of(clean), logits_of(expected))


def test_unhooking_a_copy_leaves_the_bridge_hooked():
    bridge = hook(tiny())
    with torch.no_grad():
        logits = bridge(TOKENS)
        clean = unhook(copy.deepcopy(bridge))
        assert torch.equal(logits_of(clean), logits)
        assert "blocks.0.mlp.hook_post" in bridge.run_with_cache(TOKENS)[1]


def test_unhook_after_processing_is_refused():
    bridge = hooked_in_mode(tiny(), compatibility=True)
    with pytest.raises(InputError, match=r"folded in place .* load the checkpoint again"):
        unhook(bridge)


def test_unhook_after_compatibility_mode_without_processing():
    model = tiny()
    logits = logits_of(model)
    bridge = hook(model)
    bridge.enable_compatibility_mode(no_processing=True)
    assert torch.equal(logits_of(unhook(bridge)), logits)


def test_unhook_twice_is_refused():
    bridge = hook(tiny())
    unhook(bridge)
    with pytest.raises(InputError, match="unhooked already"):
        unhook(bridge)
    for call in (bridge, bridge.run_with_cache, bridge.run_with_hooks, bridge.generate):
        with pytest.raises(InputError, match="the bridge is unhooked; hook the model again"):
            call(TOKENS)


def test_unhook_refuses_a_bridge_that_is_not_ours():
    model = tiny()
    bridge = build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config)
    with pytest.raises(InputError, match=r"LlamaArchitectureAdapter; expected a bridge made by"):
        unhook(bridge)


def test_hook_twice_is_refused():
    model = tiny()
    bridge = hook(model)
    for again in (model, bridge):
        with pytest.raises(InputError, match="is hooked already"):
            hook(again)
