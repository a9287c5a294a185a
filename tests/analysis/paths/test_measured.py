"""What is measured on a prompt against transformers' own outputs."""

import copy

import pytest
import torch

from analysis.paths.components import Component
from analysis.paths.measured import measure
from bilinear_lm import InputError, hook, unhook
from bilinear_lm.norms import norm_factor
from bilinear_lm.sites import Site, site_activations

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 0, 8, 7]
BATCH = torch.tensor([IDS])
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 8}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.3],
    "long_factor": [2.0, 5.0],
}
PARTIAL = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
PHI3 = {"family": "Phi3", "pad_token_id": 0, "head_dim": 4}
MODELS = {
    "Llama": {"n_kv_heads": 4},
    "Llama without norms": {"rms_norm_eps": 1e12},
    "Llama with biases": {"attention_bias": True, "mlp_bias": True},
    "Llama with yarn": {"rope_parameters": YARN},
    "Llama with dynamic positions": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    },
    "Phi3 with longrope, short": PHI3 | {"rope_parameters": LONGROPE},
    "Phi3 with longrope, long": PHI3
    | {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 8}},
    "Llama with SiLU": {"hidden_act": "silu"},
    "Mistral with a window": {"family": "Mistral", "sliding_window": 4},
    "Qwen2": {"family": "Qwen2"},
    "Qwen2 with a window in one layer": {
        "family": "Qwen2",
        "use_sliding_window": True,
        "sliding_window": 3,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "Qwen3": {"family": "Qwen3"},
    "Gemma": {"family": "Gemma"},
    "Phi3, half rotated": PHI3 | {"rope_parameters": PARTIAL},
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(family_model, request):
    made = family_model(**request.param)
    if request.param.get("rms_norm_eps") == 1e12:
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.data.fill_(1e6)
    return made


def largest(x):
    return float(x.detach().abs().max())


@torch.no_grad()
def test_all_is_as_transformers_has_it(model):
    measured = measure(model, IDS)
    theirs = model(input_ids=BATCH, output_attentions=True, output_hidden_states=True)
    assert torch.equal(measured.logits, theirs.logits[0])
    for layer, pattern, resid in zip(measured.layers, theirs.attentions, theirs.hidden_states, strict=False):
        assert layer.pattern.shape == (4, 12, 12)
        assert largest(layer.pattern - pattern[0]) < 1e-5
        assert torch.equal(layer.resid_pre, resid[0])


@torch.no_grad()
def test_norms_divide_by_their_scales(model):
    measured = measure(model, IDS)
    block, layer = model.model.layers[1], measured.layers[1]
    for norm, x, scale in (
        (block.input_layernorm, layer.resid_pre, layer.ln1_scale),
        (block.post_attention_layernorm, layer.resid_mid, layer.ln2_scale),
        (model.model.norm, measured.resid_final, measured.final_scale),
    ):
        factor = norm_factor(norm)
        assert torch.allclose(norm(x), x / scale[:, None] * factor, atol=1e-5)


def test_sources_sum_to_the_residual_stream(model):
    measured = measure(model, IDS)
    for number, layer in enumerate(measured.layers):
        assert largest(measured.before_attention(number).total - layer.resid_pre) < 1e-4
        assert largest(measured.before_mlp(number).total - layer.resid_mid) < 1e-4
    components = measured.before_unembedding()
    assert largest(components.total - measured.resid_final) < 1e-4
    biases = [Component("bias", 0)] if measured.layers[0].attention.bias is not None else []
    first = [
        Component("embedding"),
        *(Component("head", 0, head) for head in range(4)),
        *biases,
        Component("mlp", 0),
    ]
    assert list(components.names[: len(first)]) == first
    assert len(measured.before_mlp(1)) == len(components) - 1
    assert components.index(Component("mlp", 1)) == len(components) - 1
    assert len(components.of_kind("head", "mlp")) == 10


def test_in_float64_sums_hold_to_1e_12(model):
    single = measure(model, IDS)
    measured = measure(model.double(), IDS)
    assert measured.logits.dtype == torch.float64
    assert largest(measured.logits - single.logits) < 1e-3
    for number, layer in enumerate(measured.layers):
        assert largest(measured.before_mlp(number).total - layer.resid_mid) < 1e-12
    assert largest(measured.before_unembedding().total - measured.resid_final) < 1e-12


def test_the_model_stays_as_it_was(model):
    before = copy.deepcopy(model.state_dict())
    measure(model, IDS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_another_kernel_gives_the_same_parts(family_model, attention):
    ours = measure(family_model(attention=attention, attention_bias=True), torch.tensor(IDS))
    theirs = measure(family_model(attention_bias=True), IDS)
    assert torch.allclose(ours.layers[1].heads, theirs.layers[1].heads, atol=1e-5)


def test_a_half_precision_model_is_measured_in_float32(family_model):
    model = family_model().to(torch.bfloat16)
    measured = measure(model, IDS)
    assert measured.logits.dtype == measured.layers[0].pattern.dtype == torch.float32
    size = largest(measured.resid_final)
    assert largest(measured.before_unembedding().total - measured.resid_final) < 0.02 * size


def test_a_query_does_not_read_beyond_its_window(family_model):
    pattern = measure(family_model("Mistral", sliding_window=3), IDS).layers[0].pattern
    offset = torch.arange(12)[:, None] - torch.arange(12)
    assert torch.equal(pattern[0] > 0, (offset >= 0) & (offset < 3))


def test_input_that_cannot_be_used(family_model):
    model = family_model()
    with pytest.raises(InputError, match="empty prompt"):
        measure(model, [])
    with pytest.raises(InputError, match=r"prompts of shape \[2, 12\]; expected one, "):
        measure(model, BATCH.repeat(2, 1))
    with pytest.raises(InputError, match="has 33 tokens; expected 1 to 32"):
        measure(model, [1] * 33)
    with pytest.raises(InputError, match="tokens 1 to 50; expected 0 to 49"):
        measure(model, [1, 50])
    measured = measure(model, IDS)
    for read in (measured.before_mlp, measured.before_attention):
        with pytest.raises(InputError, match="layer 2 does not exist; expected 0 to 1"):
            read(2)
    with pytest.raises(InputError, match=r"component mlp 5 is not among these: embedding, head 0\.0"):
        measured.before_unembedding().index(Component("mlp", 5))
    bridge = hook(model)
    for hooked in (bridge, model):
        with pytest.raises(InputError, match="hooked"):
            measure(hooked, IDS)
    measure(unhook(bridge), IDS)


def test_a_model_in_training_mode_is_refused(family_model):
    with pytest.raises(InputError, match=r"training mode; call model\.eval\(\)"):
        measure(family_model(attention_dropout=0.5).train(), IDS)


def test_attention_that_is_not_what_its_weights_give_is_refused(family_model):
    model = family_model()
    model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda _, args, output: 2 * output)
    with pytest.raises(InputError, match=r"attention of layer 1 is off by .* nothing hooked into it"):
        measure(model, IDS)
    assert not model.model.norm._forward_hooks


SPECIAL = {
    "Gemma2": {"hidden_activation": "linear", "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 5},
    "Olmo2": {},
    "Granite": {"residual_multiplier": 0.6, "embedding_multiplier": 3.0, "attention_bias": True},
}


@pytest.mark.parametrize("family", SPECIAL)
def test_what_blocks_write_through_norms_and_multipliers(family_model, family):
    """Parts are those of the stream: they sum to what transformers computes, and to what sites have."""
    model = family_model(family, **SPECIAL[family]).double()
    measured, ids = measure(model, IDS), torch.tensor([IDS])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    for number, layer in enumerate(measured.layers):
        assert (layer.resid_pre - states[number][0]).abs().max() < 1e-5
        assert (measured.before_attention(number).values.sum(dim=0) - layer.resid_pre).abs().max() < 1e-9
        assert (measured.before_mlp(number).values.sum(dim=0) - layer.resid_mid).abs().max() < 1e-9
        (seen,) = site_activations(model, [ids], [Site(number, "attn-out"), Site(number, "mlp-out")])
        attention = layer.heads.sum(dim=0)
        if layer.attention_bias is not None:
            attention = attention + layer.attention_bias
        assert (attention - seen[Site(number, "attn-out")][0]).abs().max() < 1e-5
        assert (layer.mlp_out - seen[Site(number, "mlp-out")][0]).abs().max() < 1e-5
    last = measured.before_unembedding().values.sum(dim=0)
    assert (last - measured.resid_final).abs().max() < 1e-9


def test_a_model_of_another_family_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=10))
    with pytest.raises(InputError, match="gpt2 model; expected one of llama"):
        measure(model, [1])
