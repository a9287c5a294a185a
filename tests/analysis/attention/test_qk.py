"""Attention scores between directions against TransformerLens' hooks, by hand, and by brute force."""

import math

import pytest
import torch

import analysis.attention.pairs
import analysis.attention.qk
import bilinear_lm.numerics.memory
from analysis.attention.layer import AttentionLayer, attention_layer
from analysis.attention.qk import feature_scores, strongest_scores
from analysis.paths.measured import measure
from bilinear_lm import AttentionWeights, InputError, embedding, hook

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 0, 8, 7])
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 8}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "rope_theta": 100.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 100.0}
HALF = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}


def longrope(original, **more):
    """Phi-3 whose angles are those of `long_factor` beyond `original` tokens."""
    parameters = {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "original_max_position_embeddings": original,
        "short_factor": [1.0, 1.3],
        "long_factor": [2.0, 5.0],
    }
    return {"family": "Phi3", "pad_token_id": 0, "head_dim": 4, "rope_parameters": parameters | more}


MODELS = {
    "multi-head": {"n_kv_heads": 4},
    "grouped-query": {"n_kv_heads": 2},
    "one key head": {"n_kv_heads": 1},
    "biases": {"attention_bias": True},
    "yarn": {"rope_parameters": YARN},
    "llama3": {"rope_parameters": LLAMA3},
    "linear": {"rope_parameters": LINEAR},
    "dynamic": {"rope_parameters": DYNAMIC},
    "longrope, short": longrope(12),
    "longrope, long": longrope(11),
    "longrope, half rotated": longrope(8, partial_rotary_factor=0.5, short_factor=[1.0], long_factor=[7.0]),
    "longrope, gain given": longrope(8, attention_factor=1.7),
    "Mistral": {"family": "Mistral", "sliding_window": None},
    "Qwen2": {"family": "Qwen2"},
    "Gemma": {"family": "Gemma"},
    "Phi3, half rotated": {"family": "Phi3", "pad_token_id": 0, "rope_parameters": HALF, "head_dim": 4},
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hooked_scores(model):
    """hook_attn_scores of layer 0 [n_heads, query, key]."""
    bridge = hook(model)
    _, cache = bridge.run_with_cache(IDS.unsqueeze(0))
    return cache["blocks.0.attn.hook_attn_scores"][0]


def random_layer(n_heads=3, d_model=10, d_head=8, n_freq=4, n_ctx=16, biases=True, **more):
    weights = [draw(n_heads, d_model, d_head, seed=i).double() for i in range(3)]
    b = [draw(n_heads, d_head, seed=i).double() if biases else None for i in (4, 5, 6)]
    W_O = draw(n_heads, d_head, d_model, seed=7).double()
    frequencies = 100.0 ** -torch.linspace(0, 1, n_freq, dtype=torch.float64)
    return AttentionLayer(
        AttentionWeights(*weights, W_O, *b), frequencies, 1.0, 1 / math.sqrt(d_head), n_ctx, **more
    )


def turned_products(layer, q, k, offset):
    """Products of queries q [n_heads, n, d_head] and keys k, with the rotation written as a matrix."""
    n, turn = len(layer.frequencies), torch.eye(q.shape[-1], dtype=torch.float64)
    for j, omega in enumerate(layer.frequencies):
        c, s = math.cos(omega * offset), math.sin(omega * offset)
        # Turning the query by the offset leaves the key as it is.
        turn[j, j], turn[j, j + n], turn[j + n, j], turn[j + n, j + n] = c, s, -s, c
    return q.double() @ turn @ k.double().mT * layer.scale


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_scores_of_features_are_the_hooked_ones_at_every_offset(family_model, options):
    model = family_model(**options)
    features, codes = draw(20, 16), draw(50, 20, seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(codes @ features / 4)
    # Gemma multiplies its embeddings by a factor.
    codes = codes * (embedding(model)[0, 0] / model.model.embed_tokens.weight[0, 0]).item()
    scale, n = measure(model, IDS).layers[0].ln1_scale, len(IDS)
    layer = attention_layer(model, 0, n_tokens=n)
    S = feature_scores(layer, features, constant=True).at(range(n))
    with_constant = torch.cat([codes[IDS] / 4 / scale[:, None], torch.ones(n, 1)], dim=1)
    S = torch.einsum("qi,ohij,kj->ohqk", with_constant, S, with_constant)
    offset = torch.arange(n)[:, None] - torch.arange(n)
    ours = S.gather(0, offset.clamp(min=0).expand(1, layer.n_heads, n, n))[0]
    theirs, read = hooked_scores(model), offset >= 0
    assert (ours - theirs)[:, read].abs().max() < 1e-5 * max(1, theirs[:, read].abs().max())
    assert theirs[:, read].std() > 0.05


def test_a_bridge_gives_the_same_layer(family_model):
    model = family_model("Qwen2")
    ours = attention_layer(model, 1)
    theirs = attention_layer(hook(model), 1)
    assert torch.equal(ours.weights.W_K, theirs.weights.W_K)
    assert torch.equal(ours.frequencies, theirs.frequencies)
    for name in ("rope_gain", "scale", "n_ctx", "window", "qk_norm"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_bias_rows_are_the_parts_of_the_score(family_model):
    layer, x, y = attention_layer(family_model(attention_bias=True), 0), draw(3, 16), draw(5, 16, seed=1)
    S = feature_scores(layer, x, y, constant=True).at([4])[0]
    W = layer.weights
    b_Q, b_K = W.b_Q[:, None], W.b_K[:, None]
    for query, rows in ((x @ W.W_Q, slice(3)), (b_Q, slice(3, 4))):
        for key, columns in ((y @ W.W_K, slice(5)), (b_K, slice(5, 6))):
            part = turned_products(layer, query, key, 4)
            assert torch.allclose(S[:, rows, columns].double(), part, atol=1e-5)
    whole = turned_products(layer, x @ W.W_Q + b_Q, y @ W.W_K + b_K, 4)
    summed = S[:, :-1, :-1] + S[:, -1:, :-1] + S[:, :-1, -1:] + S[:, -1:, -1:]
    assert torch.allclose(summed.double(), whole, atol=1e-5)


def test_without_biases_the_constant_does_nothing(family_model):
    S = feature_scores(attention_layer(family_model(), 0), draw(3, 16), constant=True).at([4])
    assert S[..., -1, :].abs().max() == S[..., -1].abs().max() == 0


def test_by_hand():
    one = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    layer = AttentionLayer(
        AttentionWeights(one, one, one, one), torch.tensor([math.pi / 3], dtype=torch.float64), 1.0, 0.5, 8
    )
    x = torch.eye(2, dtype=torch.float64)
    scores = feature_scores(layer, x).at([0, 1, 3])[:, 0]
    half, root = 0.25, math.sqrt(3) / 4
    assert torch.allclose(scores[0], 0.5 * x)
    # The query (1, 0) is turned by 60 degrees to (1/2, sqrt(3)/2), then halved.
    assert torch.allclose(scores[1], torch.tensor([[half, root], [-root, half]], dtype=torch.float64))
    assert torch.allclose(scores[2], -0.5 * x)


@pytest.mark.parametrize("n_freq", [4, 2, 0], ids=["all rotated", "half rotated", "none rotated"])
def test_curves_and_extremes_are_scores_at_all_offsets(n_freq):
    layer = random_layer(n_freq=n_freq)
    q, k = draw(6, 10).double(), draw(5, 10, seed=9).double()
    scores = feature_scores(layer, q, k)
    everywhere, W = scores.at(range(16)), layer.weights
    for offset in (0, 1, 15):
        assert torch.allclose(
            everywhere[offset], turned_products(layer, q @ W.W_Q, k @ W.W_K, offset), atol=1e-12
        )
    places = torch.cartesian_prod(torch.arange(3), torch.arange(6), torch.arange(5)).T
    curves = scores.curves(*places).at(range(16))
    assert torch.allclose(curves.T.reshape(16, 3, 6, 5), everywhere, atol=1e-12)


@pytest.mark.parametrize(("chunk", "tile"), [(1, 1), (300, 40), (2**28, 2**20)])
@pytest.mark.parametrize("offsets", [(0,), (2, 5), None], ids=["at 0", "at 2 and 5", "everywhere"])
def test_strongest_scores_are_those_of_brute_force(monkeypatch, chunk, tile, offsets):
    monkeypatch.setattr(analysis.attention.qk, "TILE", tile)
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
    scores = feature_scores(random_layer(), draw(7, 10).double(), draw(5, 10, seed=9).double())
    asked = list(range(16) if offsets is None else offsets)
    everywhere = scores.at(asked)
    best, at = everywhere.abs().max(dim=0)
    order = best.flatten().argsort(descending=True)[:12]
    found = strongest_scores(scores, 12, offsets)
    assert torch.equal((found.heads * 7 + found.left) * 5 + found.right, order)
    assert found.offsets.tolist() == [asked[i] for i in at.flatten()[order]]
    assert torch.allclose(found.values.abs(), best.flatten()[order])
    first = next(iter(found))
    assert first.value == pytest.approx(
        float(everywhere[asked.index(first.offset), first.head, first.left, first.right])
    )


def test_equal_scores_come_in_order():
    layer = random_layer(n_heads=2)
    scores = feature_scores(layer, torch.ones(3, 10).double())
    found = strongest_scores(scores, 9)
    assert found.left.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.right.tolist() == [0, 1, 2] * 3


def test_normalised_queries_and_keys(family_model):
    model = family_model("Qwen3")
    layer, measured = attention_layer(model, 0), measure(model, IDS)
    x = (measured.layers[0].resid_pre / measured.layers[0].ln1_scale[:, None])[[7, 3]]
    with pytest.raises(InputError, match="not bilinear in features; give qk_scales"):
        feature_scores(layer, x)
    attention = measured.layers[0].attention
    scales = attention.q_scale[:, 7], attention.k_scale[:, 3]
    score = feature_scores(layer, x[:1], x[1:], qk_scales=scales).at([4])[0, :, 0, 0]
    assert torch.allclose(score, hooked_scores(model)[:, 7, 3], atol=1e-5)
    with pytest.raises(InputError, match="this one does not"):
        feature_scores(random_layer(), draw(2, 10), qk_scales=(torch.ones(3), torch.ones(3)))


def test_other_scales_and_norms_of_queries(family_model):
    granite = family_model("Granite", attention_multiplier=0.25, residual_multiplier=0.5)
    assert attention_layer(granite, 0).scale == 0.25
    olmo = family_model("Olmo2")  # normalises the queries of all heads together
    layer, measured = attention_layer(olmo, 0), measure(olmo, IDS).layers[0].attention
    scales = measured.q_scale[:, 7], measured.k_scale[:, 3]
    assert len(set(scales[0].tolist())) == 1
    x = measure(olmo, IDS).layers[0].resid_pre
    score = feature_scores(layer, x[7:8], x[3:4], qk_scales=scales).at([4])[0, :, 0, 0]
    assert torch.allclose(score, measured.scores[:, 7, 3], atol=1e-5)


def test_input_that_cannot_be_used(family_model):
    layer = random_layer(window=6)
    scores = feature_scores(layer, draw(4, 10))
    with pytest.raises(InputError, match=r"W_Q of an attention layer: got \[4, 9\]; expected .* of 10"):
        feature_scores(layer, draw(4, 9))
    with pytest.raises(InputError, match=r"W_K of an attention layer: got \[0, 10\]"):
        feature_scores(layer, draw(4, 10), draw(0, 10))
    for offset in (-1, 6):
        with pytest.raises(InputError, match=rf"relative position {offset} .* expected 0 to 5"):
            scores.at([offset])
    with pytest.raises(InputError, match="no relative positions"):
        scores.at([])
    with pytest.raises(InputError, match="need 384 bytes, more than max_bytes=100"):
        scores.at([0], max_bytes=100)
    with pytest.raises(InputError, match=r"k=49 pairs; expected 1 to the 48"):
        strongest_scores(scores, 49)
    model = family_model()
    for n_tokens in (0, 33):
        with pytest.raises(InputError, match=rf"a prompt of {n_tokens} tokens; expected 1 to 32"):
            attention_layer(model, 0, n_tokens)


def test_longrope_without_the_length_of_a_prompt(family_model):
    model = family_model(**longrope(16))
    with pytest.raises(InputError, match="longrope change with the length of the prompt; give n_tokens"):
        attention_layer(model, 0)
    scores = feature_scores(attention_layer(model, 0, n_tokens=5), draw(4, 16))
    with pytest.raises(InputError, match=r"relative position 5 .* expected 0 to 4"):
        scores.at([5])


@pytest.mark.parametrize("options", [longrope(11), {"rope_parameters": DYNAMIC}], ids=["longrope", "dynamic"])
def test_frequencies_do_not_depend_on_what_was_read_before(family_model, options):
    model = family_model(**options)
    fresh = [attention_layer(model, 0, n).frequencies for n in (5, 11, 12, 32)]
    theirs = []
    for n in (5, 11, 12, 32):
        model(input_ids=torch.ones(1, n, dtype=torch.long))
        theirs.append(model.model.rotary_emb.inv_freq.double())
    model(input_ids=torch.ones(1, 60, dtype=torch.long))  # dynamic scaling grows here
    again = [attention_layer(model, 0, n).frequencies for n in (5, 11, 12, 32)]
    for one, two, three in zip(fresh, theirs, again, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    model.to(torch.bfloat16)
    for n in (12, 5):
        model(input_ids=torch.ones(1, n, dtype=torch.long))
        assert torch.equal(attention_layer(model, 0, n).frequencies, model.model.rotary_emb.inv_freq.double())
