"""Interactions between tokens from the weights, against logits at measured patterns and by brute force."""

import itertools

import pytest
import torch

from analysis.paths.components import Component
from analysis.paths.measured import measure
from analysis.paths.tokens import read_along, strongest_token_interactions, token_paths
from analysis.text.tokens import token_direction
from bilinear_lm import InputError, load_pretrained, mlp_tensor, unembedding

IDS = [3, 1, 4, 1, 5, 9, 2]


def without_norms(model):
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.fill_(1e6)
    return model.double()


@pytest.fixture(params=[False, True], ids=["no biases", "biases"])
def model(family_model, request):
    biases = {"attention_bias": request.param, "mlp_bias": request.param}
    return without_norms(family_model(n_layers=1, rms_norm_eps=1e12, **biases))


def test_at_measured_patterns_they_sum_to_the_logits(model):
    paths, measured = token_paths(model), measure(model, IDS)
    assert [str(path) for path in paths.paths] == [
        "embedding",
        "head 0.0",
        "head 0.1",
        "head 0.2",
        "head 0.3",
    ]
    code = torch.zeros(len(IDS), 5, 50, dtype=torch.float64)
    for query, token in enumerate(IDS):
        code[query, 0, token] = 1
        for key, read in enumerate(IDS):
            code[query, 1:, read] += measured.layers[0].pattern[:, query, key]
    for token in (0, 17):
        u = paths.features.outputs[token]
        flat = code.flatten(1)
        quadratic = torch.einsum("pi,ij,pj->p", flat, paths.features.matrix(u), flat)
        logit = paths.constant(u) + (code * paths.linear(u)).sum((1, 2)) + quadratic
        assert torch.allclose(logit, measured.logits[:, token], atol=1e-9)


def test_strongest_are_those_of_brute_force(family_model):
    model = without_norms(family_model(n_layers=1, rms_norm_eps=1e12))
    tokens, heads, targets = [7, 2, 30], [3, 1], [5, 8]
    paths = token_paths(model, heads=heads, tokens=tokens)
    found = strongest_token_interactions(paths, targets, k=10)
    attention, W_E = model.model.layers[0].self_attn, model.model.embed_tokens.weight
    vectors = {}
    for token in tokens:
        vectors[Component("embedding"), token] = W_E[token]
        for head in heads:
            value = attention.v_proj.weight[6 * (head // 2) : 6 * (head // 2 + 1)] @ W_E[token]
            written = attention.o_proj.weight[:, 6 * head : 6 * head + 6] @ value
            vectors[Component("head", 0, head), token] = written
    tensor, W_U, brute = mlp_tensor(model, 0), unembedding(model), []
    for target in targets:
        for (left, x), (right, y) in itertools.combinations_with_replacement(vectors.items(), 2):
            value = float((tensor(x, y) @ W_U[:, target]).detach()) * (1 if left == right else 2)
            brute.append((target, {left, right}, value))
    brute.sort(key=lambda item: -abs(item[2]))
    for ours, (target, parts, value) in zip(found, brute, strict=False):
        assert ours.output == target
        assert {(part.path, part.token) for part in (ours.left, ours.right)} == parts
        assert ours.value == pytest.approx(value)
        n_direct = sum(part.path.kind == "embedding" for part in (ours.left, ours.right))
        assert ours.kind == ["virtual-virtual", "direct-virtual", "direct-direct"][n_direct]


def test_along_another_direction(model):
    paths = token_paths(model, heads=[0])
    u = token_direction(unembedding(model), 4, [5, 6])
    one, *_ = strongest_token_interactions(read_along(paths, u[None]), k=1)
    matrix = paths.features.matrix(u)
    values = matrix + matrix.triu(1)
    assert abs(one.value) == pytest.approx(float(values.abs().triu().max()))
    linear = paths.linear(torch.stack([u, 2 * u]))
    assert linear.shape == (2, 2, 50)
    assert torch.allclose(linear[1], 2 * linear[0])


def test_the_shipped_model():
    paths = token_paths(load_pretrained("stories-1l"), heads=[0], tokens=range(100))
    found = strongest_token_interactions(paths, [400], k=5)
    assert len(found) == 5
    assert [abs(item.value) for item in found] == sorted((abs(item.value) for item in found), reverse=True)


def test_input_that_cannot_be_used(family_model):
    model = family_model()
    with pytest.raises(InputError, match="head 4 does not exist; expected 0 to 3"):
        token_paths(model, heads=[4])
    with pytest.raises(InputError, match="token -1 does not exist; expected 0 to 49"):
        token_paths(model, tokens=[-1])
    with pytest.raises(
        InputError, match=r"50 tokens on 5 paths need 16,000 bytes.*choose fewer heads or tokens"
    ):
        token_paths(model, max_bytes=1000)
    with pytest.raises(InputError, match="bilinear-lm convert"):
        token_paths(family_model(hidden_act="silu"))
