"""Accessors and sites of the families beyond Llama against what hooks see in the model itself."""

import pytest
import torch
from torch import nn

from bilinear_lm import InputError, Site, attention_weights, embedding, mlp_tensor, unembedding
from bilinear_lm.families import FAMILIES, attention_norm, family_of, mlp_norm, require_plain_blocks
from bilinear_lm.norms import norm_epsilon, norm_factor, normalised
from bilinear_lm.sites import POINTS, mlp_inputs, replaced, site_activations

from .tiny_families import NEW_FAMILIES, SOFT_CAP, TOKENS, own_norm_factor, tiny_family

ALL = ("Llama", *NEW_FAMILIES)
LAYER = 1
NORM_BEFORE_MLP = {"Gemma2": "pre_feedforward_layernorm", "Olmo2": None}
SITES = [Site(LAYER, point) for point in POINTS]
in_each = pytest.mark.parametrize("family", ALL)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def seen_by(model, modules):
    """Inputs and outputs of modules, by name, in one forward, and the logits."""
    seen = {}

    def note(name):
        def keep(module, args, output):
            seen[name] = (args[0], output)

        return keep

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    with torch.inference_mode():
        logits = model(input_ids=TOKENS).logits
    for handle in handles:
        handle.remove()
    return seen, logits


@in_each
def test_mlp_tensor_is_the_mlp_module(family):
    model = tiny_family(family, dtype=torch.float64)
    block = model.model.layers[LAYER]
    seen, _ = seen_by(model, {"mlp": block.mlp})
    h, out = seen["mlp"]
    close(mlp_tensor(model, LAYER, fold_norm=False)(h), out)
    name = NORM_BEFORE_MLP.get(family, "post_attention_layernorm")
    factor = own_norm_factor(family, getattr(block, name)) if name else 1
    close(mlp_tensor(model, LAYER)(h / factor), out)
    assert mlp_tensor(model, LAYER).constant == (family == "Granite")


@in_each
def test_mlp_inputs_are_its_points(family):
    model = tiny_family(family)
    seen, _ = seen_by(model, {layer: model.model.layers[layer].mlp for layer in (0, 1)})
    inputs = mlp_inputs(model, TOKENS, [1, 0])
    for points, layer in zip(inputs, (1, 0), strict=True):
        torch.testing.assert_close(mlp_tensor(model, layer)(points), seen[layer][1], rtol=1e-5, atol=1e-5)
    rms = inputs.square().mean(-1).sqrt()
    assert torch.allclose(rms, torch.ones(()), atol=1e-3) == (family != "Olmo2")


@in_each
def test_attention_weights_are_the_projections(family):
    model = tiny_family(family, dtype=torch.float64)
    block, config = model.model.layers[LAYER], model.config
    attention = block.self_attn
    names = ("qkv_proj",) if family == "Phi3" else ("q_proj", "k_proj", "v_proj")
    seen, _ = seen_by(model, {name: getattr(attention, name) for name in (*names, "o_proj")})
    h = seen[names[0]][0]
    flat = torch.cat([seen[name][1] for name in names], dim=-1)
    heads = flat.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
    queries, keys, values = heads.split([4, 2, 2], dim=1)
    expected = {"Q": queries, "K": keys[:, [0, 0, 1, 1]], "V": values[:, [0, 0, 1, 1]]}
    norm = None if family == "Olmo2" else own_norm_factor(family, block.input_layernorm)
    for fold_norm in (True, False):
        weights = attention_weights(model, LAYER, fold_norm)
        x = h / norm if fold_norm and norm is not None else h
        for name, value in expected.items():
            bias = getattr(weights, f"b_{name}")
            assert (bias is not None) == (family == "Granite")
            got = torch.einsum("bpd,hde->bhpe", x, getattr(weights, f"W_{name}"))
            close(got if bias is None else got + bias[:, None], value)
        z, out = seen["o_proj"]
        got = torch.einsum("bphe,hed->bpd", z.unflatten(-1, (4, -1)), weights.W_O)
        close(got if weights.b_O is None else got + weights.b_O, out)


@pytest.mark.parametrize("tied", [True, False])
@in_each
def test_embedding_is_what_the_first_block_reads(family, tied):
    model = tiny_family(family, dtype=torch.float64, tie_word_embeddings=tied)
    (seen,) = site_activations(model, [TOKENS], [Site(0, "resid-pre")])
    close(embedding(model)[TOKENS], seen[Site(0, "resid-pre")])


@pytest.mark.parametrize("tied", [True, False])
@in_each
def test_unembedding_gives_the_logits(family, tied):
    model = tiny_family(family, dtype=torch.float64, tie_word_embeddings=tied)
    norm = model.model.norm
    seen, logits = seen_by(model, {"norm": norm})
    before_cap = SOFT_CAP * torch.atanh(logits / SOFT_CAP) if family == "Gemma2" else logits
    h = seen["norm"][1]
    close(h @ unembedding(model, fold_norm=False), before_cap)
    close(h / own_norm_factor(family, norm) @ unembedding(model), before_cap)


@in_each
def test_accessors_change_nothing(family):
    model = tiny_family(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for read in (embedding, unembedding):
        read(model)
    for read in (mlp_tensor, attention_weights):
        read(model, LAYER)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@in_each
def test_the_points_of_a_block_fit_together(family):
    model = tiny_family(family, dtype=torch.float64)
    block = model.model.layers[LAYER]
    (seen,) = site_activations(model, [TOKENS], SITES)
    pre, attn, mid, mlp_in, mlp_out, post = (seen[site] for site in SITES)
    with torch.inference_mode():
        hidden = model.model(input_ids=TOKENS, output_hidden_states=True).hidden_states
    close(pre, hidden[LAYER])
    close(mid, pre + attn)
    close(post, mid + mlp_out)
    modules, _ = seen_by(model, {"mlp": block.mlp})
    assert torch.equal(mlp_in, modules["mlp"][0])
    assert torch.equal(mlp_in, mid) == (family == "Olmo2")
    out = modules["mlp"][1]
    after = nn.Identity() if family not in ("Gemma2", "Olmo2") else block.post_feedforward_layernorm
    with torch.inference_mode():
        close(mlp_out, after(out) * (0.6 if family == "Granite" else 1))


@pytest.mark.parametrize("site", SITES, ids=str)
@in_each
def test_a_replacement_goes_on_as_the_block_would(family, site):
    model = tiny_family(family, dtype=torch.float64)
    (clean,) = site_activations(model, [TOKENS], SITES)
    with torch.inference_mode():
        end = model(input_ids=TOKENS).logits
        with replaced(model, site, torch.clone):
            close(model(input_ids=TOKENS).logits, end)
        moved = clean[site].flip(-1) * 1.3
        later = SITES[SITES.index(site) + 1 :]
        with replaced(model, site, lambda x: x.flip(-1) * 1.3):
            (after,) = site_activations(model, [TOKENS], later) if later else ({},)
            assert not torch.allclose(model(input_ids=TOKENS).logits, end)
        got = {**clean, site: moved, **after}
        pre, attn, mid, mlp_in, mlp_out, post = SITES
        if site in (pre, attn):
            close(got[mid], got[pre] + got[attn])
        if site == mid:
            assert torch.equal(got[mlp_in], got[mid]) == (family == "Olmo2")
        if site == mlp_in:
            # The MLP alone reads what was put there, not the residual stream around it.
            close(got[post] - got[mlp_out], clean[mid])
            assert not torch.allclose(got[mlp_out], clean[mlp_out])
        elif site != post:
            close(got[post], got[mid] + got[mlp_out])
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@in_each
def test_norms(family):
    model = tiny_family(family)
    norm = model.model.norm
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(normalised(norm, x) * norm_factor(norm), norm(x))
        norm.weight.fill_(1e6 - ("Gemma" in family))
        setattr(norm, "eps" if "Gemma" in family else "variance_epsilon", 1e12)
        assert norm_epsilon(norm) == 1e12
        assert normalised(norm, x) is x
        torch.testing.assert_close(norm_factor(norm), torch.ones(32))
        torch.testing.assert_close(norm(x), x)


def test_the_norms_in_front():
    model = tiny_family("Gemma2")
    block = model.model.layers[0]
    assert mlp_norm(model, 0) is block.pre_feedforward_layernorm
    assert attention_norm(model, 0) is block.input_layernorm
    olmo = tiny_family("Olmo2")
    assert (mlp_norm(olmo, 0), attention_norm(olmo, 0)) == (None, None)


def test_which_families_add_plainly():
    plain = {name for name, family in FAMILIES.items() if family.adds_plainly}
    assert plain == {"llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"}
    require_plain_blocks(tiny_family("Phi3"), "paths")
    for family in ("Gemma2", "Olmo2", "Granite"):
        with pytest.raises(InputError, match=rf"paths of a {family.lower()} model, .*: llama, .*, phi3$"):
            require_plain_blocks(tiny_family(family), "paths")


def test_an_unknown_family_has_no_entry():
    with pytest.raises(InputError, match=r"weights of a Linear model; expected one of llama, .*granite"):
        family_of(nn.Linear(2, 2))


@pytest.mark.parametrize("family", NEW_FAMILIES)
def test_a_gate_with_an_activation_names_the_cure(family):
    model = tiny_family(family, activation="silu")
    with pytest.raises(InputError, match=r"layer 0 has a SiLU.* gate; .*bilinear-lm convert"):
        mlp_tensor(model, 0)
