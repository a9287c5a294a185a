"""Accessors against the model's own forward."""

import copy

import pytest
import torch

from bilinear_lm import InputError, attention_weights, embedding, mlp_tensor, unembedding
from bilinear_lm.sites import mlp_inputs

IDS = torch.arange(18).view(2, 9)


def record(model, modules):
    """Outputs of modules in one forward."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda _, args, out, name=name: seen.__setitem__(name, out))
        for name, module in modules.items()
    ]
    with torch.inference_mode():
        logits = model(input_ids=IDS).logits
    for handle in handles:
        handle.remove()
    return seen, logits


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("mlp_bias", [True, False])
def test_mlp_tensor_is_the_mlp(make_model, norms, mlp_bias):
    model = make_model(norms=norms, mlp_bias=mlp_bias and norms)
    layers = model.model.layers
    seen, _ = record(
        model,
        {
            f"{part}{i}": module
            for i, b in enumerate(layers)
            for part, module in (("mlp", b.mlp), ("ln", b.post_attention_layernorm))
        },
    )
    inputs = mlp_inputs(model, IDS, [0, 1])
    for layer in (0, 1):
        tensor = mlp_tensor(model, layer)
        assert tensor.constant == (mlp_bias and norms)
        assert torch.allclose(tensor(inputs[layer]), seen[f"mlp{layer}"], atol=1e-5)
        unfolded = mlp_tensor(model, layer, fold_norm=False)
        if norms:
            assert torch.allclose(unfolded(seen[f"ln{layer}"]), seen[f"mlp{layer}"], atol=1e-5)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("attention_bias", [True, False])
def test_attention_weights_are_the_projections(make_model, n_kv_heads, attention_bias):
    from transformers.models.llama.modeling_llama import repeat_kv

    model = make_model(n_kv_heads=n_kv_heads, attention_bias=attention_bias)
    block = model.model.layers[1]
    attention = block.self_attn
    seen, _ = record(
        model,
        {
            "ln": block.input_layernorm,
            "q": attention.q_proj,
            "k": attention.k_proj,
            "v": attention.v_proj,
            "o": attention.o_proj,
        },
    )
    weights = attention_weights(model, 1, fold_norm=False)
    for name, W, b in (
        ("q", weights.W_Q, weights.b_Q),
        ("k", weights.W_K, weights.b_K),
        ("v", weights.W_V, weights.b_V),
    ):
        heads = seen[name].view(2, 9, -1, 4).transpose(1, 2)
        expected = heads if name == "q" else repeat_kv(heads, 4 // n_kv_heads)
        found = torch.einsum("bpd,hde->bhpe", seen["ln"], W)
        found = found if b is None else found + b[:, None]
        assert torch.allclose(found, expected, atol=1e-5)
    z = torch.randn(3, 4, 4)
    expected = torch.nn.functional.linear(z.flatten(1), attention.o_proj.weight, attention.o_proj.bias)
    found = torch.einsum("nhe,hed->nd", z, weights.W_O)
    assert torch.allclose(found if weights.b_O is None else found + weights.b_O, expected, atol=1e-5)
    assert (weights.b_O is not None) == attention_bias


def test_folding_multiplies_by_the_norm_weight_and_changes_nothing(make_model):
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    gamma = model.model.layers[0].input_layernorm.weight
    folded, plain = attention_weights(model, 0), attention_weights(model, 0, fold_norm=False)
    for name in ("W_Q", "W_K", "W_V"):
        assert torch.allclose(getattr(folded, name), getattr(plain, name) * gamma[:, None])
    assert torch.equal(folded.W_O, plain.W_O)
    mlp_tensor(model, 0)
    unembedding(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norms", [True, False])
def test_embedding_and_unembedding(make_model, norms):
    model = make_model(norms=norms)
    seen, logits = record(model, {"embed": model.model.embed_tokens, "last": model.model.layers[-1]})
    assert torch.equal(embedding(model)[IDS], seen["embed"])
    last = seen["last"]
    scaled = last * torch.rsqrt(last.pow(2).mean(-1, keepdim=True)) if norms else last
    assert torch.allclose(scaled @ unembedding(model), logits, atol=1e-4)


def test_identity_norms_fold_to_nothing(make_model):
    model = make_model(norms=False)
    mlp = model.model.layers[0].mlp
    tensor = mlp_tensor(model, 0)
    assert torch.allclose(tensor.W_gate, mlp.gate_proj.weight.T, rtol=1e-6)
    assert torch.allclose(
        attention_weights(model, 0).W_Q.flatten(1).norm(),
        attention_weights(model, 0, fold_norm=False).W_Q.norm(),
    )


def test_a_gate_with_an_activation_names_the_cure(make_model):
    with pytest.raises(
        InputError, match=r"layer 0 has a SiLU.* gate; expected a linear one.*finetune.*bilinear-lm convert"
    ):
        mlp_tensor(make_model(gate="silu"), 0)


@pytest.mark.parametrize("accessor", [mlp_tensor, attention_weights])
def test_a_layer_that_does_not_exist(make_model, accessor):
    with pytest.raises(InputError, match="layer 2 does not exist; the model has layers 0 to 1"):
        accessor(make_model(), 2)


def test_a_family_with_other_blocks():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
    with pytest.raises(InputError, match="weights of a gpt2 model; expected one of llama, mistral"):
        mlp_tensor(model, 0)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("compatibility_mode", [False, True])
def test_a_bridge_gives_the_same_weights_as_its_model(make_model, norms, compatibility_mode):
    from bilinear_lm import hook

    model = make_model(norms=norms)
    tensors = [mlp_tensor(model, layer) for layer in (0, 1)]
    heads, inputs, W_E = attention_weights(model, 1), mlp_inputs(model, IDS, [0, 1]), embedding(model)
    expected = [(tensor.W_gate, tensor.W_in, tensor.W_out) for tensor in tensors]
    bridge = hook(copy.deepcopy(model))
    if compatibility_mode:
        bridge.enable_compatibility_mode()
    for layer, factors in enumerate(expected):
        found = mlp_tensor(bridge, layer)
        for ours, theirs in zip((found.W_gate, found.W_in, found.W_out), factors, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        assert torch.allclose(
            getattr(attention_weights(bridge, 1), name), getattr(heads, name), rtol=1e-5, atol=1e-6
        )
    assert torch.equal(embedding(bridge), W_E)
    assert torch.allclose(mlp_inputs(bridge.original_model, IDS, [0, 1]), inputs, atol=1e-5)
