"""Moves of heads taken away, against the model with their writes taken from the output of attention."""

import pytest
import torch

from analysis.interventions import head_moves as module
from analysis.interventions.head_moves import head_moves
from bilinear_lm import InputError, Site
from bilinear_lm.sites import observed, replaced
from bilinear_lm.weights import attention_weights

IDS = torch.tensor([1, 5, 9, 3, 7, 2])


@pytest.fixture
def model(make_model):
    return make_model(d_vocab=20).eval().requires_grad_(False)


def read(logits):
    return logits[..., 4] - logits[..., [6, 8]].mean(-1)


@torch.no_grad()
def without(model, layer, head, key, query):
    """The number read, with what a head moves taken from attn-out; and the head's attention."""
    weights = attention_weights(model, layer)
    model.set_attn_implementation("eager")
    pattern = model(IDS[None], output_attentions=True).attentions[layer][0, head]
    seen = {}
    with observed(model, Site(layer, "resid-pre"), seen):
        model(IDS[None])
    x = seen[Site(layer, "resid-pre")][0, key]
    x = x / (x.square().mean() + model.config.rms_norm_eps).sqrt()
    written = pattern[query, key] * (x @ weights.W_V[head] @ weights.W_O[head])

    def less(output):
        output = output.clone()
        output[0, query] -= written
        return output

    with replaced(model, Site(layer, "attn-out"), less):
        return float(read(model(IDS[None]).logits[0, query])), float(pattern[query, key])


def test_effects_are_those_of_the_writes_taken_from_the_output_of_attention(model):
    n_layers, n_heads = model.config.num_hidden_layers, model.config.num_attention_heads
    query, first = 4, 1
    n = n_layers * n_heads * (query - first)
    moves = head_moves(model, IDS, read, query, n=n, n_random=0, first=first)
    assert len(moves) == n
    assert not len(moves.random)
    assert moves.value == pytest.approx(float(read(model(IDS[None]).logits[0, query])), abs=1e-5)
    assert moves.effects.abs().tolist() == sorted(moves.effects.abs().tolist(), reverse=True)
    assert set(places(moves)) == {
        (layer, head, key)
        for layer in range(n_layers)
        for head in range(n_heads)
        for key in range(first, query)
    }
    for index in range(0, n, 3):
        place = (int(column[index]) for column in (moves.layers, moves.heads, moves.keys))
        left, attention = without(model, *place, query)
        assert float(moves.effects[index]) == pytest.approx(moves.value - left, abs=1e-5)
        assert float(moves.attention[index]) == pytest.approx(attention, abs=1e-5)


def test_the_derivative_is_the_effect_of_a_small_part(model, monkeypatch):
    whole = head_moves(model, IDS, read, n=4, n_random=0)

    def smaller(*given):
        return 1e-2 * moved(*given)

    moved = module._moved
    monkeypatch.setattr(module, "_moved", smaller)
    part = head_moves(model, IDS, read, n=4, n_random=0)
    torch.testing.assert_close(100 * part.effects, part.first_order * 100, rtol=0.1, atol=1e-2)
    expected = dict(zip(places(whole), whole.first_order.tolist(), strict=True))
    got = dict(zip(places(part), (100 * part.first_order).tolist(), strict=True))
    assert got == pytest.approx(expected, rel=1e-3)


def places(moves):
    return list(zip(moves.layers.tolist(), moves.heads.tolist(), moves.keys.tolist(), strict=True))


def test_random_moves_are_others(model):
    moves = head_moves(model, IDS, read, n=2, n_random=5)
    assert (len(moves), len(moves.random)) == (2, 5)
    assert moves.position == len(IDS) - 1
    assert moves.random.abs().min() <= moves.effects.abs().max()
    again = head_moves(model, IDS, read, n=2, n_random=5)
    assert torch.equal(again.random, moves.random)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"position": 0}, "expected a position between"),
        ({"position": 9}, "position"),
        ({"first": 5}, "expected a position between"),
        ({"n": 0}, "n=0 moves"),
        ({"n_random": -1}, "n_random=-1"),
    ],
)
def test_wrong_input(model, wrong, message):
    with pytest.raises(InputError, match=message):
        head_moves(model, IDS, read, **wrong)
