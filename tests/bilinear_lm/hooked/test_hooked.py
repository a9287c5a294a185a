"""The hooked class against transformers: same numbers, hooks that hold and change them, and the way back."""

import copy
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import bilinear_lm.hooked.adapters as hooked
from bilinear_lm import Site, attention_weights, mlp_tensor, unembedding
from bilinear_lm.errors import InputError
from bilinear_lm.hooked.adapters import HOOKABLE, hook, load_hooked, unhook
from bilinear_lm.sites import Point, replaced, site_activations

from ..tiny_families import tiny_family
from .tiny_models import (
    D_MODEL,
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    N_VOCAB,
    TOKENS,
    assert_parity,
    hooked_in_mode,
    largest,
    logits_of,
    tiny,
    tiny_tokenizer,
)

STORIES = Path(__file__).parents[3].parent / "shared" / "data" / "stories260K"


@pytest.mark.parametrize(
    ("family", "tied", "kv_heads", "hidden_act"),
    product(FAMILIES, (True, False), (N_HEADS, 2), ("linear", "silu")),
)
def test_logits_are_those_of_transformers(family, tied, kv_heads, hidden_act):
    assert_parity(tiny(family, tie_word_embeddings=tied, num_key_value_heads=kv_heads, hidden_act=hidden_act))


@pytest.mark.parametrize("hidden_act", ["relu", "gelu_pytorch_tanh", "sigmoid", "tanh"])
def test_any_activation_survives_compatibility_mode(hidden_act):
    assert_parity(tiny(hidden_act=hidden_act))


@pytest.mark.parametrize("kv_heads", [N_HEADS, 2])
def test_biases(kv_heads):
    assert_parity(tiny(mlp_bias=True, attention_bias=True, num_key_value_heads=kv_heads))


def test_sliding_window_shorter_than_the_text():
    assert_parity(tiny("Mistral", sliding_window=4))


@pytest.mark.parametrize("padding", [slice(4), slice(8, None)], ids=["left", "right"])
def test_padded_batch(padding):
    mask = torch.ones_like(TOKENS)
    mask[0, padding] = 0
    # What the bridge makes of a mask by itself: positions counted from the first token.
    assert_parity(tiny(), attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))


def test_model_without_norms():
    """A norm with eps 1e12 and weight 1e6 is the identity, raw and with the 1e6 folded into the weights."""
    model = tiny(rms_norm_eps=1e12, norm=1e6)
    x = torch.randn(5, D_MODEL)
    torch.testing.assert_close(model.model.norm(x), x)
    assert_parity(model)


@pytest.mark.parametrize("kernel", ["sdpa", "flex_attention"])
@torch.no_grad()
def test_attention_is_eager_whatever_kernel_the_model_has(kernel):
    mask = torch.ones_like(TOKENS)
    mask[0, 8:] = 0
    model = tiny(attn_implementation=kernel)
    bridge = hook(model)
    assert torch.equal(bridge(TOKENS, attention_mask=mask), tiny()(TOKENS, attention_mask=mask).logits)
    assert unhook(bridge).config._attn_implementation == kernel


def test_model_with_another_kernel_differs_by_rounding():
    model = tiny(attn_implementation="sdpa")
    reference = logits_of(model)
    with torch.no_grad():
        assert largest(hook(model)(TOKENS) - reference) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_is_found_by_its_registered_name(family):
    bridge = hook(tiny(family))
    assert type(bridge.adapter) is getattr(hooked, f"Bilinear{family}Adapter")
    assert bridge.cfg.act_fn == "linear"


BOTH_MODES = pytest.mark.parametrize("compatibility", [False, True], ids=["raw", "compatibility"])


@BOTH_MODES
@torch.no_grad()
def test_hook_values(compatibility):
    bridge = hooked_in_mode(tiny(mlp_bias=True), compatibility)
    _, cache = bridge.run_with_cache(TOKENS)
    assert torch.equal(cache["hook_embed"], cache["blocks.0.hook_resid_pre"])
    for i in range(N_LAYERS):
        block, mlp = f"blocks.{i}.", bridge.blocks[i].mlp
        h = cache[block + "ln2.hook_out"]
        gate, up = h @ mlp.W_gate + mlp.b_gate, h @ mlp.W_in + mlp.b_in
        middle = cache[block + "hook_resid_pre"] + cache[block + "hook_attn_out"]
        expected = {
            "mlp.hook_pre": gate,
            "mlp.hook_pre_linear": up,
            "mlp.hook_post": gate * up,
            "hook_mlp_out": (gate * up) @ mlp.W_out + mlp.b_out,
            "hook_resid_mid": middle,
            "hook_resid_post": middle + cache[block + "hook_mlp_out"],
            "ln2.hook_normalized": middle / cache[block + "ln2.hook_scale"],
        }
        for name, value in expected.items():
            torch.testing.assert_close(cache[block + name], value, rtol=1e-4, atol=1e-5)
        rest = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_attn_scores", "hook_rot_q", "hook_rot_k")
        assert all(f"{block}attn.{name}" in cache for name in rest)
        pattern = cache[block + "attn.hook_pattern"]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(2, N_HEADS, 12))
        assert {block + "ln1.hook_scale", block + "ln1.hook_normalized"} <= cache.keys()


@BOTH_MODES
@pytest.mark.parametrize(
    ("name", "projection", "factor"),
    [("hook_pre", "gate_proj", 3), ("hook_pre_linear", "up_proj", -2), ("hook_post", "down_proj", 0)],
)
@torch.no_grad()
def test_editing_a_hook_is_scaling_the_projection(name, projection, factor, compatibility):
    model = tiny()
    scaled = copy.deepcopy(model)
    for layer in scaled.model.layers:
        getattr(layer.mlp, projection).weight *= factor
    edited = hooked_in_mode(model, compatibility).run_with_hooks(
        TOKENS, fwd_hooks=[(f"blocks.{i}.mlp.{name}", lambda x, hook: x * factor) for i in range(N_LAYERS)]
    )
    assert largest(edited.log_softmax(-1) - logits_of(scaled).log_softmax(-1)) <= 1e-5


@torch.no_grad()
def test_editing_resid_mid_reaches_the_mlp_only():
    bridge = hook(tiny())
    _, before = bridge.run_with_cache(TOKENS)
    with bridge.hooks([("blocks.0.hook_resid_mid", lambda x, hook: torch.zeros_like(x))]):
        _, after = bridge.run_with_cache(TOKENS)
    assert largest(after["blocks.0.hook_mlp_out"]) == 0
    stream = before["blocks.0.hook_resid_pre"] + before["blocks.0.hook_attn_out"]
    torch.testing.assert_close(after["blocks.0.hook_resid_post"], stream)


@torch.no_grad()
def test_generation_is_greedy_generation_of_transformers():
    model = tiny()
    expected = model.generate(
        TOKENS[:1], max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    got = hook(model).generate(
        TOKENS[:1], max_new_tokens=6, do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens"
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("family", HOOKABLE)
def test_a_hooked_model_is_of_its_own_class_and_computes_what_it_did(family):
    name = family.removesuffix("ForCausalLM")
    model, plain = tiny_family(name), tiny_family(name)
    hook(model)
    assert isinstance(model, type(plain))
    assert type(model).__name__ == family
    torch.testing.assert_close(logits_of(model), logits_of(plain), rtol=1e-5, atol=1e-5)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(TOKENS[:1], **options), plain.generate(TOKENS[:1], **options))
    for layer in range(N_LAYERS):
        assert torch.equal(mlp_tensor(model, layer).W_in, mlp_tensor(plain, layer).W_in)
        assert torch.equal(attention_weights(model, layer).W_K, attention_weights(plain, layer).W_K)
    assert torch.equal(unembedding(model), unembedding(plain))


@pytest.mark.parametrize("family", HOOKABLE)
@pytest.mark.parametrize("point", get_args(Point))
@torch.no_grad()
def test_sites_of_a_hooked_model(family, point):
    name, site = family.removesuffix("ForCausalLM"), Site(1, point)
    model, plain = tiny_family(name), tiny_family(name)
    hook(model)
    theirs, ours = (next(site_activations(each, [TOKENS], [site]))[site] for each in (plain, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    logits = []
    for each in (plain, model):
        with replaced(each, site, lambda x: x * torch.linspace(0, 2, D_MODEL)):
            logits.append(logits_of(each))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
    assert largest(logits[0] - logits_of(plain)) > 1e-3


def test_other_families_are_refused():
    config = transformers.GPT2Config(vocab_size=N_VOCAB, n_embd=32, n_layer=1, n_head=2)
    with pytest.raises(InputError, match=r"^GPT2LMHeadModel: .* LlamaForCausalLM, .* GraniteForCausalLM$"):
        hook(transformers.GPT2LMHeadModel(config))


@pytest.mark.parametrize("options", [{}, {"add_bos_token": False}, {"add_bos_token": True}])
def test_tokenizer_made_in_memory(options):
    tokenizer = tiny_tokenizer(**options)
    before = tokenizer("once upon").input_ids, dict(tokenizer.init_kwargs)
    bridge = hook(tiny(), tokenizer)
    assert bridge.to_tokens("once upon a").tolist() == [[0, 3, 4, 5]]
    assert bridge.to_tokens("once upon a", prepend_bos=False).tolist() == [[3, 4, 5]]
    assert bridge.to_string(torch.tensor([3, 4])) == "once upon"
    assert bridge("once upon a").shape == (1, 4, N_VOCAB)
    assert (tokenizer("once upon").input_ids, dict(tokenizer.init_kwargs)) == before


def test_token_added_after_loading_is_kept(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["!"])
    assert hook(tiny(), tokenizer).to_tokens("once!").tolist() == [[0, 3, 6]]


def test_load_hooked(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    bridge = load_hooked(str(tmp_path))
    with torch.no_grad():
        assert largest(bridge(TOKENS) - logits_of(model)) <= 1e-6
    assert bridge.to_tokens("once upon").tolist() == [[0, 3, 4]]
    assert load_hooked(tmp_path, device="cpu", dtype=torch.bfloat16).cfg.dtype == torch.bfloat16


def test_load_hooked_without_a_tokenizer(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    bridge = load_hooked(tmp_path)
    assert bridge.tokenizer is None
    with torch.no_grad():
        assert largest(bridge(TOKENS) - logits_of(model)) <= 1e-6


@pytest.mark.skipif(not STORIES.is_dir(), reason="the stories260K checkpoint is not beside the repository")
def test_stories260k_is_unchanged():
    model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32, attn_implementation="eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(STORIES)
    text = "Once upon a time, there was a little girl."
    tokens = tokenizer(text, return_tensors="pt").input_ids
    reference = logits_of(model, tokens)
    bridge = hook(model, tokenizer)
    assert torch.equal(bridge.to_tokens(text), tokens)
    with torch.no_grad():
        assert largest(bridge(text) - reference) <= 1e-6
    # In float64: log-probabilities go down to -33 here, and float32 alone is off by more than 1e-5.
    assert_parity(unhook(bridge).double(), tokens)
