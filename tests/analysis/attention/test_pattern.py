"""Patterns in pieces of queries against the whole pattern."""

import pytest
import torch

import bilinear_lm.numerics.memory
from analysis.attention.pattern import MeasuredAttention

N_HEADS, N_POS, D_HEAD, D_MODEL = 3, 11, 4, 6


@pytest.fixture(params=[(None, None), (4, None), (4, 0.7)], ids=["all", "window", "window and soft cap"])
def attention(request):
    torch.manual_seed(2)
    window, soft_cap = request.param
    queries, keys, values = torch.randn(3, N_HEADS, N_POS, D_HEAD, dtype=torch.float64)
    W_O = torch.randn(N_HEADS, D_HEAD, D_MODEL, dtype=torch.float64)
    return MeasuredAttention(queries, keys, values, W_O, None, 0.5, window, soft_cap=soft_cap)


def whole(attention):
    """The pattern by its definition, one query and key after the other."""
    pattern = torch.zeros(N_HEADS, N_POS, N_POS, dtype=torch.float64)
    for head in range(N_HEADS):
        for query in range(N_POS):
            first = 0 if attention.window is None else max(0, query - attention.window + 1)
            scores = (
                attention.keys[head, first : query + 1] @ attention.queries[head, query] * attention.scale
            )
            if attention.soft_cap is not None:
                scores = attention.soft_cap * (scores / attention.soft_cap).tanh()
            pattern[head, query, first : query + 1] = scores.exp() / scores.exp().sum()
    return pattern


# One query a piece, two, four, all of them.
@pytest.mark.parametrize("n_queries", [1, 2, 4, N_POS])
def test_pieces_are_the_whole(attention, n_queries, monkeypatch):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", 4 * N_HEADS * N_POS * 8 * n_queries)
    pieces, pattern = attention.query_pieces(), whole(attention)
    assert [piece.stop - piece.start for piece in pieces][:-1] == [n_queries] * (len(pieces) - 1)
    assert torch.cat([torch.arange(N_POS)[piece] for piece in pieces]).tolist() == list(range(N_POS))
    for piece in pieces:
        at_piece = attention.pattern_at(piece)
        torch.testing.assert_close(at_piece, pattern[:, piece, : piece.stop])
    mixed = pattern @ attention.values
    torch.testing.assert_close(attention.pattern, pattern)
    torch.testing.assert_close(attention.mix(attention.values), mixed)
    torch.testing.assert_close(attention.mix(attention.values.expand(2, -1, -1, -1))[1], mixed)
    torch.testing.assert_close(attention.heads, mixed @ attention.W_O)
    torch.testing.assert_close(attention.out, (mixed @ attention.W_O).sum(dim=0))
    rows = torch.tensor([7, 0, 10, 7])
    torch.testing.assert_close(attention.pattern_rows(rows), pattern[:, rows])
    for position in (0, 5, 10):
        torch.testing.assert_close(attention.heads_at(position), (mixed @ attention.W_O)[:, position])
        torch.testing.assert_close(attention.scores_at(1, position), attention.scores[1, position])
