"""Differences of layers and models: dense oracles, symmetries that differ by 0, and what a ranking finds."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import attention_layer, diff, difference, largest_change, null_changes
from analysis.guarantees.changes import Sizes
from analysis.guarantees.findings import NullChanges, first_of_each_subject, ranked, scores
from analysis.guarantees.heads import head_change
from bilinear_lm import BilinearTensor, Dictionary, InputError, Site, embedding, mlp_tensor, unembedding

from ...bilinear_lm.tiny_families import tiny_family

D = 16


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(seed, d_mlp=9, bias=False):
    parts = [drawn(6, d_mlp, seed=seed), drawn(6, d_mlp, seed=seed + 1), drawn(d_mlp, 5, seed=seed + 2)]
    biases = [drawn(d_mlp, seed=seed + 3), drawn(d_mlp, seed=seed + 4), drawn(5, seed=seed + 5)]
    return BilinearTensor.from_layer(*parts, *biases) if bias else BilinearTensor(*parts)


@pytest.mark.parametrize("biases", [(False, False), (True, True), (True, False), (False, True)])
def test_the_difference_of_layers(biases):
    """Of layers with other numbers of hidden units, and of one with biases and one without."""
    first, second = layer(0, 9, biases[0]), layer(10, 7, biases[1])
    x = drawn(50, 6, seed=3)
    found = difference(first, second)
    assert torch.allclose(found(x), first(x) - second(x), atol=1e-12)
    if not any(biases):
        assert found.d_mlp == 16
        assert torch.allclose(found.dense(), first.dense() - second.dense(), atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_bracket_of_all_directions(seed, bias):
    """No input exceeds it; below is an input that gets there."""
    tensor = difference(layer(seed, bias=bias), layer(seed + 20, bias=bias))
    found = largest_change(tensor, 2.0)
    assert float(found.input.norm()) <= 2 + 1e-9
    assert float(tensor(found.input).norm()) == pytest.approx(found.low, rel=1e-6)
    z = 2 * torch.nn.functional.normalize(drawn(5000, 6, seed=seed), dim=1)
    z = torch.cat([z, z * torch.rand(5000, 1, generator=torch.Generator().manual_seed(seed), dtype=z.dtype)])
    sampled = float(tensor(z).norm(dim=1).max())
    assert sampled <= found.high * (1 + 1e-9)
    columns, sigmas, _ = np.linalg.svd(tensor.dense().flatten(1).numpy(), full_matrices=False)
    sigma = sigmas[0]
    if not bias:  # at least as much as along the first singular direction
        values = np.linalg.eigvalsh(np.einsum("o,oij->ij", columns[:, 0], tensor.dense().numpy()))
        assert found.low >= 4 * np.abs(values).max() * (1 - 1e-9)
    assert found.low <= found.high == pytest.approx(sigma * (4 + bias), rel=1e-6)


def regauged(model, seed=0):
    """The same function in other weights: hidden units, gate and up, and every head's gauge."""
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(seed)
    n_heads, n_kv = model.config.num_attention_heads, model.config.num_key_value_heads
    with torch.no_grad():
        for block in model.model.layers:
            mlp, attention = block.mlp, block.self_attn
            n = mlp.gate_proj.weight.shape[0]
            order = torch.randperm(n, generator=generator)
            scale = torch.rand(n, 1, generator=generator, dtype=torch.float64) * 3 + 0.3
            gate, up = mlp.gate_proj.weight[order] * scale, mlp.up_proj.weight[order] / scale
            mlp.gate_proj.weight.copy_(up)
            mlp.up_proj.weight.copy_(gate)
            mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order])
            d_head = attention.v_proj.weight.shape[0] // n_kv
            group = n_heads // n_kv
            for kv in range(n_kv):
                rows = slice(kv * d_head, (kv + 1) * d_head)
                G = torch.eye(d_head, dtype=torch.float64) + 0.3 * torch.randn(
                    d_head, d_head, generator=generator, dtype=torch.float64
                )
                attention.v_proj.weight[rows] = G @ attention.v_proj.weight[rows]
                half = torch.rand(d_head // 2, generator=generator, dtype=torch.float64) + 0.5
                stretch = torch.cat([half, half]).unsqueeze(1)  # of the pairs that RoPE turns
                attention.k_proj.weight[rows] *= stretch
                for head in range(kv * group, (kv + 1) * group):
                    own = slice(head * d_head, (head + 1) * d_head)
                    attention.q_proj.weight[own] /= stretch
                    attention.o_proj.weight[:, own] = attention.o_proj.weight[:, own] @ torch.linalg.inv(G)
            # Gains of norms go into what reads them.
            gain = 1 + torch.rand(model.config.hidden_size, generator=generator, dtype=torch.float64)
            block.post_attention_layernorm.weight.mul_(gain)
            mlp.gate_proj.weight.div_(gain)
            mlp.up_proj.weight.div_(gain)
    return model


def test_symmetries_differ_by_nothing(make_model):
    model = make_model().double()
    other = regauged(model)
    ids = torch.arange(20).view(2, 10)
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, other(ids).logits, atol=1e-9)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) > 0.5
    for second in (other, copy.deepcopy(model)):
        found = diff(model, second)
        assert found.findings == found.strongest == ()
        assert found.score == 0
        assert all(not bool(sizes.change.any()) for sizes in found.sizes.values())
        assert all((each.change, each.directions, each.interactions) == (0, (), ()) for each in found.layers)
        assert all(each.largest.high < 1e-5 for each in found.layers)


def test_heads_against_dense_circuits(family_model):
    """With grouped keys and biases, at every offset by the matrices themselves."""
    model, other = (family_model("Qwen2", seed=seed) for seed in (0, 1))
    first, second = (attention_layer(each, 1) for each in (model, other))
    found = head_change(first, second)

    def read(each, name):
        weight, bias = (getattr(each.weights, f"{part}_{name}") for part in "Wb")
        return torch.cat([weight, bias.unsqueeze(1)], dim=1).double()

    ov = [read(each, "V") @ each.weights.W_O.double() for each in (first, second)]
    assert torch.allclose(found.ov, (ov[0] - ov[1]).flatten(1).norm(dim=1))
    assert torch.allclose(found.ov_largest, torch.linalg.matrix_norm(ov[0] - ov[1], ord=2))
    assert torch.allclose(found.ov_own, ov[0].flatten(1).norm(dim=1))
    squares, largest = [], []
    for offset in found.offsets:
        angle = torch.cat([offset * first.frequencies] * 2)
        half = first.weights.W_Q.shape[-1] // 2
        R = torch.diag(angle.cos())
        R[:half, half:], R[half:, :half] = torch.diag(angle.sin()[:half]), -torch.diag(angle.sin()[:half])
        qk = [each.scale * read(each, "Q") @ R @ read(each, "K").mT for each in (first, second)]
        squares.append((qk[0] - qk[1]).flatten(1).square().sum(1))
        largest.append(torch.linalg.matrix_norm(qk[0] - qk[1], ord=2))
    assert torch.allclose(found.qk, torch.stack(squares).mean(0).sqrt(), rtol=1e-5)
    assert torch.allclose(found.qk_largest, torch.stack(largest).amax(0), rtol=1e-5)
    assert found.offsets[0] == 0
    assert found.offsets[-1] == first.max_offset


def planted(model, token, layer=1, size=0.5):
    """A model whose MLP of one layer has got a hidden unit that reads one token."""
    other = copy.deepcopy(model)
    reader = embedding(model)[token] / embedding(model)[token].norm()
    block = other.model.layers[layer]
    with torch.no_grad():
        gain = block.post_attention_layernorm.weight
        block.mlp.gate_proj.weight[0] += size * reader / gain
        block.mlp.up_proj.weight[0] += size * reader / gain
        block.mlp.down_proj.weight[:, 0] += size * unembedding(model)[:, 7]
    return other


def shaken(model, seed, size=0.02):
    """A model with small changes everywhere, as training makes."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return other


def test_what_was_planted_is_found(make_model, tiny_tokenizer):
    """The token and the layer, first, beside a null; and not in a model of the null's kind."""
    model = make_model(d_vocab=len(tiny_tokenizer))
    null = null_changes(model, [shaken(model, seed) for seed in (1, 2, 3)])
    found = diff(model, planted(shaken(model, 4), 42), tokenizer=tiny_tokenizer, null=null, k=4)
    first = found.strongest[0]
    assert (first.kind.split()[0], first.layer) == ("MLP", 1)
    about = next(each for each in found.strongest if each.item == 42 and "token" in each.kind)
    assert (about.kind, about.layer) == ("MLP reads token", 1)
    assert found.strongest.index(about) < 5
    assert about.times_null > 1.5
    assert found.n_null == 3
    chance = diff(model, shaken(model, 5), null=null, k=4)
    assert chance.score < 6 < found.score
    alone = diff(model, planted(model, 42), k=4)  # without a null, and nothing else is changed
    assert {each.layer for each in alone.strongest} == {1}
    read = alone.sizes["MLP reads token", 1].change
    assert read[42] > 0.9 * read.max()


def test_sizes_and_bounds_are_those_of_the_functions(make_model, tiny_tokenizer):
    model = make_model(d_vocab=len(tiny_tokenizer), mlp_bias=True)
    other = shaken(model, 1)
    torch.manual_seed(0)
    scope = {
        site: Dictionary(torch.randn(16, 20), torch.randn(20, 16), activation="topk", k=4, site=site)
        for site in (Site(1, "mlp-in"), Site(1, "mlp-out"))
    }
    found = diff(model, other, dictionaries=scope, k=3)
    change = mlp_tensor(other, 1).to(torch.float64).dense() - mlp_tensor(model, 1).to(torch.float64).dense()
    gain = model.model.layers[1].post_attention_layernorm.weight.detach().double()
    u = scope[Site(1, "mlp-out")].encoder.T.double()
    f = scope[Site(1, "mlp-in")].decoder.double() / gain
    f = 4 * f / f.norm(dim=1, keepdim=True)
    sizes = {place: part.change for place, part in found.sizes.items()}
    along = torch.einsum("no,oij->nij", u, change)
    assert torch.allclose(sizes["MLP writes feature", 1], along.flatten(1).norm(dim=1))
    read = torch.einsum("nj,oij->noi", f, change[..., :D])
    assert torch.allclose(sizes["MLP reads feature", 1], read.flatten(1).norm(dim=1))
    assert float(sizes["MLP", 1]) == pytest.approx(float(change.norm()))
    W_E = embedding(other) - embedding(model)
    assert torch.allclose(sizes["embedding", None], W_E.double().norm(dim=1))
    z = 4 * torch.nn.functional.normalize(drawn(3000, D), dim=1)
    one = torch.cat([z, torch.ones(3000, 1, dtype=z.dtype)], dim=1)
    moved = torch.einsum("oij,ni,nj->no", change, one, one)
    for each in found.layers[1].directions:
        if each.along == "feature":
            reached = moved @ u[int(each.name.removeprefix("#"))]
            assert each.low - 1e-9 <= reached.min() <= reached.max() <= each.high + 1e-9
    bracket = found.layers[1].largest
    assert float(moved.norm(dim=1).max()) <= bracket.high
    assert bracket.low <= bracket.high
    for each in found.layers[1].interactions[-3:]:
        o, i, j = (int(name.removeprefix("#")) for name in (each.output, each.left, each.right))
        value = f[i] @ along[o, :D, :D] @ f[j] * (1 if i == j else 2)
        assert each.value == pytest.approx(float(value), rel=1e-6)
    assert "strongest=" in repr(found)


def test_scores_of_a_null():
    """log(change / geometric mean) over the spread of the null's own checkpoints."""
    own = torch.ones(400, dtype=torch.float64)
    logs = 0.1 * drawn(4, 400)
    null = NullChanges(tuple({("embedding", None): Sizes(row.exp(), own)} for row in logs))
    score = scores({("embedding", None): Sizes(math.e * own, own)}, null)["embedding", None]
    assert float(score.mean()) == pytest.approx(1 / (0.1 * math.sqrt(5 / 4)), rel=0.1)
    names = {("embedding", None): [f"t{number}" for number in range(400)]}
    change = logs[0].exp()
    change[5] = 3.0
    found = ranked({("embedding", None): Sizes(change, own)}, null, names, 10)
    assert (found[0].name, found[0].item) == ("t5", 5)
    assert len(first_of_each_subject([*found, *found])) == len(found)
    with pytest.raises(InputError, match="a null without checkpoints"):
        NullChanges(())


def test_refusals(make_model, family_model):
    model = make_model()
    narrow, gated = family_model(), make_model(gate="silu")
    broken = make_model()
    broken.lm_head.weight.data[0, 0] = math.nan
    for call, said in (
        (lambda: diff(model, narrow), "another shape: tokens 300 and 50"),
        (lambda: diff(model, make_model(n_layers=3)), "another shape: layers 2 and 3"),
        (lambda: diff(model, gated), "expected a linear one"),
        (lambda: diff(gated, model), "expected a linear one"),
        (lambda: diff(model, broken), "NaN or infinity in lm_head"),
        (lambda: diff(model, model, null=[narrow]), "a model of the null has another shape"),
        (lambda: diff(model, model, k=0), "k=0"),
        (lambda: diff(tiny_family("Gemma2"), tiny_family("Gemma2")), "normalises or scales"),
        (lambda: diff(model, "stories"), "model_b is 'stories'; expected a model"),
        (lambda: difference(layer(0), BilinearTensor(*(drawn(3, 3) for _ in range(3)))), "expected the same"),
    ):
        with pytest.raises(InputError, match=said):
            call()
