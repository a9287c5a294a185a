"""The expansion of a one-layer model's logits against the model, its heads, and autograd."""

import pytest
import torch

from analysis.paths.logits import expand_along, expand_logits
from analysis.paths.measured import measure
from bilinear_lm import InputError, load_pretrained, load_tokenizer, mlp_tensor

from ..circuits.random_dictionaries import MODELS

IDS = [3, 1, 4, 1, 5, 9, 2]
TEXT = "Once upon a time there was a little girl named Lily. She loved to play outside in the park."
OPTIONS = {
    "Llama": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "Qwen2": {"family": "Qwen2"},
    "Qwen3": {"family": "Qwen3"},
    "Mistral": {"family": "Mistral", "sliding_window": 3},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def model(family_model, request):
    return family_model(n_layers=1, **request.param).double()


def named_terms(expansion):
    return (
        expansion.direct
        + expansion.ov.sum(-1)
        + expansion.direct_direct
        + expansion.direct_virtual.sum(-1)
        + expansion.virtual_virtual.sum((-1, -2))
        + expansion.biases
    )


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)
def test_all_paths_of_the_shipped_model_are_its_logits(dtype, limit):
    model = load_pretrained("stories-1l", dtype=dtype)
    ids = load_tokenizer("stories-1l").encode(TEXT)
    expansion = expand_logits(model, ids)
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([ids])).logits[0].T
    logits = plain if dtype == torch.float32 else measure(model, ids).logits.T
    assert expansion.total.shape == (2048, len(ids))
    for sum_of_paths in (expansion.total, named_terms(expansion)):
        assert float((sum_of_paths - logits).abs().max()) < limit
        # transformers computes the norms of a float64 model in float32.
        assert float((sum_of_paths - plain).abs().max()) < 1e-4
    assert float(expansion.biases.abs().max()) == 0


def test_all_paths_are_the_logits(model):
    expansion, logits = expand_logits(model, IDS), measure(model, IDS).logits.T
    assert torch.allclose(expansion.total, logits, atol=1e-11)
    assert torch.allclose(named_terms(expansion), logits, atol=1e-11)
    some = expand_logits(model, IDS, tokens=[7, 2])
    assert torch.allclose(some.direct_virtual, expansion.direct_virtual[[7, 2]])


@pytest.mark.parametrize("name", ["norms behind and soft caps", "norms behind alone", "multipliers"])
def test_what_lies_behind_attention_and_mlp(family_model, name):
    model = family_model(n_layers=1, **MODELS[name]).double()
    expansion, measured = expand_logits(model, IDS), measure(model, IDS)
    assert torch.allclose(expansion.total, measured.logits.T, atol=1e-11)
    assert torch.allclose(named_terms(expansion), measured.logits.T, atol=1e-11)
    x = measured.layers[0].resid_mid / measured.layers[0].ln2_scale.unsqueeze(-1)
    written, added = mlp_tensor(model, 0, fold_norm_after=True)(x), measured.layers[0].mlp_out
    scale = (written / added).mean(dim=-1, keepdim=True)
    assert torch.allclose(written, added * scale, atol=1e-10)
    assert bool((scale > 0).all())
    assert torch.allclose(scale, torch.ones_like(scale)) == (name == "multipliers")


def test_terms_are_derivatives_of_the_logits(model):
    """At held patterns and scales, each logit is a quadratic polynomial of factors on the components."""
    measured, at, token = measure(model, IDS), 5, 11
    block, layer, components = model.model.layers[0], measured.layers[0], measured.before_mlp(0)
    gamma, W_U = block.post_attention_layernorm.weight, model.lm_head.weight * model.model.norm.weight

    def logit(factors):
        stream = factors @ components.values[:, at]
        return (
            (stream + block.mlp(stream / layer.ln2_scale[at] * gamma)) @ W_U[token] / measured.final_scale[at]
        )

    zero = torch.zeros(len(components), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(logit, zero)
    gradient = torch.autograd.functional.jacobian(logit, zero)
    expansion = expand_logits(model, IDS, tokens=[token])
    heads = slice(1, 5)
    assert torch.allclose(expansion.direct_direct[0, at], hessian[0, 0] / 2, atol=1e-12)
    assert torch.allclose(expansion.direct_virtual[0, at], hessian[0, heads], atol=1e-12)
    assert torch.allclose(expansion.virtual_virtual[0, at], hessian[heads, heads] / 2, atol=1e-12)
    assert torch.allclose(expansion.skip[0, at] + expansion.mlp.linear[0, at], gradient, atol=1e-12)
    assert torch.allclose(expansion.mlp.constant[0, at], logit(zero), atol=1e-12)
    assert torch.allclose(
        expansion.direct[0, at], components.values[0, at] @ W_U[token] / measured.final_scale[at]
    )


def test_heads_are_linear_in_the_embeddings(family_model):
    """Each head's path is A_h W_U OV_h x0: nothing of a bias is in it."""
    model = family_model(n_layers=1, attention_bias=True).double()
    measured, expansion = measure(model, IDS), expand_logits(model, IDS, tokens=[3])
    block, layer = model.model.layers[0], measured.layers[0]
    x0 = model.model.embed_tokens(torch.tensor(IDS)) / layer.ln1_scale[:, None] * block.input_layernorm.weight
    W_V = block.self_attn.v_proj.weight.view(2, 6, 16).repeat_interleave(2, dim=0)
    W_O = block.self_attn.o_proj.weight.view(16, 4, 6)
    u = model.lm_head.weight[3] * model.model.norm.weight
    ov = torch.einsum("hqk,kd,hed,ohe,o->qh", layer.pattern, x0, W_V, W_O, u) / measured.final_scale[:, None]
    assert torch.allclose(expansion.ov[0], ov, atol=1e-12)


def test_input_that_cannot_be_used(family_model):
    with pytest.raises(InputError, match="the model has 2 layers; expected one"):
        expand_logits(family_model(), IDS)
    model = family_model(n_layers=1)
    with pytest.raises(InputError, match="token 50 does not exist; expected 0 to 49"):
        expand_logits(model, IDS, tokens=[50])
    with pytest.raises(InputError, match="empty prompt"):
        expand_logits(model, [])
    with pytest.raises(InputError, match=r"output directions of a path expansion: got \[15\]"):
        expand_along(measure(model, IDS), mlp_tensor(model, 0), torch.zeros(15))
    with pytest.raises(InputError, match="bilinear-lm convert"):
        expand_logits(family_model(n_layers=1, hidden_act="silu"), IDS)
