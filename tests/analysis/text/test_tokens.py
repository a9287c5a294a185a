"""Directions in tokens, against sums written out."""

import pytest
import torch

from analysis import direct_scores, read_tokens, token_direction, virtual_scores
from bilinear_lm import InputError

D, V, HEADS, D_HEAD = 6, 20, 3, 2


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_token_against_its_like():
    W_U = draw(D, V)
    like = [1, 2, 5]
    expected = W_U[:, 7] - (W_U[:, 1] + W_U[:, 2] + W_U[:, 5]) / 3
    assert torch.allclose(token_direction(W_U, 7, like), expected)
    assert torch.allclose(token_direction(W_U, 7), W_U[:, 7] - W_U.mean(1))


def test_direct_and_virtual_tokens():
    W_E, W_V, W_O, v = draw(V, D), draw(HEADS, D, D_HEAD), draw(HEADS, D_HEAD, D), draw(4, D, seed=1)
    assert torch.allclose(direct_scores(v, W_E), torch.einsum("nd,td->nt", v, W_E))
    found = virtual_scores(v, W_E, W_V, W_O)
    assert found.shape == (4, HEADS, V)
    for head in range(HEADS):
        written = W_E @ W_V[head] @ W_O[head]
        assert torch.allclose(found[:, head], v @ written.T)


def test_reading_both_ends():
    scores = torch.tensor([[0.0, 3.0, -2.0, 1.0], [5.0, 6.0, 7.0, 8.0]])
    reading = read_tokens(scores, k=2)
    assert reading.top.tolist() == [[1, 3], [3, 2]]
    assert reading.bottom.tolist() == [[2, 0], [0, 1]]
    assert reading.bottom_scores[0].tolist() == [-2.0, 0.0]


@pytest.mark.parametrize(
    "bad", [lambda: token_direction(draw(D, V), V), lambda: token_direction(draw(D, V), 0, [-1])]
)
def test_a_token_that_does_not_exist(bad):
    with pytest.raises(InputError, match="does not exist; expected 0 to 19"):
        bad()


def test_too_many_tokens():
    with pytest.raises(InputError, match="k=5 tokens; expected 1 to 4"):
        read_tokens(torch.zeros(4), k=5)
