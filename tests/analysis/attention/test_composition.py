"""Composition of heads against dense matrices in float64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.attention.composition import composition_scores, composition_through
from analysis.attention.layer import AttentionLayer, attention_layer
from bilinear_lm import AttentionWeights, InputError

KINDS = ("query", "key", "value")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(n_heads, seed, d_model=9, d_head=4):
    W = [draw(n_heads, d_model, d_head, seed=seed + i) for i in range(3)]
    W_O = draw(n_heads, d_head, d_model, seed=seed + 3)
    return AttentionLayer(AttentionWeights(*W, W_O), torch.tensor([1.0, 0.1]).double(), 1.0, 0.5, 16)


def dense(first, second, offset, through=None):
    a, b = first.weights, second.weights
    turn = torch.zeros(4, 4, dtype=torch.float64)
    for j, omega in enumerate(second.frequencies):
        c, s = math.cos(omega * offset), math.sin(omega * offset)
        turn[j, j], turn[j, j + 2], turn[j + 2, j], turn[j + 2, j + 2] = c, s, -s, c
    QK, OV = b.W_Q @ turn @ b.W_K.mT, b.W_V @ b.W_O
    written, norm = a.W_V @ a.W_O, torch.linalg.matrix_norm
    scores = {}
    for kind, reads in zip(KINDS, (QK, QK.mT, OV), strict=True):
        between = written if through is None else written @ through
        scores[kind] = norm(between[:, None] @ reads) / (norm(written)[:, None] * norm(reads))
    return scores


@pytest.mark.parametrize("offset", [0, 5])
def test_scores_are_frobenius_norms(offset):
    first, second = layer(3, 0), layer(2, 10)
    ours, theirs = composition_scores(first, second, offset), dense(first, second, offset)
    for kind in KINDS:
        assert getattr(ours, kind).shape == (3, 2)
        assert torch.allclose(getattr(ours, kind), theirs[kind], atol=1e-12)
        assert float(getattr(ours, kind).max()) <= 1


def test_through_a_direction_is_through_its_projector():
    first, second, directions = layer(3, 0), layer(2, 10), draw(4, 9, seed=20)
    ours = composition_through(first, second, directions, offset=3)
    for i, v in enumerate(directions):
        theirs = dense(first, second, 3, torch.outer(v, v) / (v @ v))
        for kind in KINDS:
            assert torch.allclose(getattr(ours, kind)[i], theirs[kind], atol=1e-12)


def test_by_hand():
    """The first head copies coordinate 0 to 1; the second reads queries from 1, keys from 0."""
    e = torch.eye(3, dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.float64)

    def head(q, k, v, o):
        W = [e[i].reshape(1, 3, 1) for i in (q, k, v)]
        return AttentionLayer(AttentionWeights(*W, e[o].reshape(1, 1, 3)), none, 1.0, 1.0, 4)

    scores = composition_scores(head(0, 0, 0, 1), head(1, 0, 2, 0))
    assert [float(getattr(scores, kind)) for kind in KINDS] == [1, 0, 0]


@settings(deadline=None)
@given(c=st.floats(0.1, 10), seed=st.integers(0, 5))
def test_factors_of_a_circuit_do_not_matter(c, seed):
    first, second = layer(2, seed), layer(2, 50 + seed)
    W = first.weights
    scaled = replace(first, weights=replace(W, W_V=W.W_V * c, W_O=W.W_O / c))
    for kind in KINDS:
        same = getattr(composition_scores(scaled, second, 1), kind)
        assert torch.allclose(same, getattr(composition_scores(first, second, 1), kind))


def test_input_that_cannot_be_used(family_model):
    first = layer(2, 0)
    with pytest.raises(InputError, match="width 9 and 8; expected two layers of one model"):
        composition_scores(first, layer(2, 0, d_model=8))
    with pytest.raises(InputError, match=r"directions of a composition: got \[2, 8\]"):
        composition_through(first, first, draw(2, 8))
    with pytest.raises(InputError, match="is zero"):
        composition_through(first, first, torch.zeros(1, 9).double())
    with pytest.raises(InputError, match="relative position 16"):
        composition_scores(first, first, 16)
    qwen = attention_layer(family_model("Qwen3"), 0)
    with pytest.raises(InputError, match="normalises its queries and keys"):
        composition_scores(qwen, qwen)
