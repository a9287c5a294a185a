"""Names of features: unique, short, by the rule, and equal to those of a slow search."""

from collections import Counter

import pytest
import torch

from analysis.features.names import LONGEST, PeakTokens, numbered, unique_names

WORDS = [
    "␣the",
    "␣a",
    "␣cat",
    "␣dog",
    "␣park",
    "␣to",
    "␣something",
    ",",
    "a-word-that-is-longer-than-any-name-may-be",
]


def peaks(rows):
    """The tokens of rows of (code, before, at, after)."""
    k = max(map(len, rows))
    padded = [[*row, *[(0.0, -1, 0, -1)] * (k - len(row))] for row in rows]
    values, before, at, after = torch.tensor(padded, dtype=torch.float64).unbind(2)
    return PeakTokens(values, at.long(), before.long(), after.long())


def names(rows, acted=None, words=WORDS):
    acted = acted or [[4, 5, 6]] * len(rows)
    return unique_names(peaks(rows), words.__getitem__, lambda some: torch.tensor(acted)[some], "raises")


def test_tokens_of_most_code_come_first():
    """Two smaller peaks at one token outweigh the highest; where equal, the higher peak is first."""
    assert names([[(3.0, 0, 2, 1), (2.0, 0, 3, 1), (2.0, 0, 3, 1)]]) == ("␣dog, ␣cat",)
    assert names([[(2.0, 0, 5, 1), (2.0, 0, 4, 1)]]) == ("␣to, ␣park",)
    assert names([[(float(4 - i), 0, i, 1) for i in range(4)]]) == ("␣the, ␣a, ␣cat",)


def test_a_typical_neighbour_tells_apart():
    rows = [[(1.0, 5, 0, 4), (1.0, 5, 0, 2)], [(1.0, 2, 0, 4), (1.0, 3, 0, 4)], [(1.0, 2, 3, 4)]]
    assert names(rows) == ("␣the after ␣to", "␣the before ␣park", "␣dog")


def test_weights_and_rarer_neighbours_tell_apart():
    """Neighbours that are not typical come after the weights, whose tokens that the name has are left out."""
    rows = [[(1.0, before, 0, before) for before in (2, 3, 4, 5)]] * 2
    assert names(rows, [[0, 3, 5], [0, 2, 5]]) == ("␣the raises ␣dog", "␣the raises ␣cat")
    other = [[(1.0, before, 0, before) for before in (3, 2, 4, 5)]]
    assert names([*rows[:1], *other]) == ("␣the after ␣cat", "␣the after ␣dog")


def test_the_number_is_last():
    rows = [[(1.0, 5, 0, 4)]] * 2
    assert names(rows) == ("␣the (0)", "␣the (1)")


def test_without_peaks_weights_name_and_say_so():
    rows = [[(0.0, -1, 0, -1)], [(1.0, 2, 0, 2)], [(0.0, -1, 0, -1)], [(0.0, -1, 0, -1)]]
    assert names(rows, [[4, 3, 2], [0, 1, 2], [1, 3, 2], [1, 3, 2]]) == (
        "weights: raises ␣park, ␣dog, ␣cat",
        "␣the",
        "weights: raises ␣a, ␣dog, ␣cat (2)",
        "weights: raises ␣a, ␣dog, ␣cat (3)",
    )


def test_long_tokens_are_cut():
    (name,) = names([[(1.0, 0, 8, 1)]])
    assert len(name) == LONGEST
    assert name.endswith("…")


def test_neighbours_are_those_of_the_windows():
    windows = [(9, 8, 7), (6, 5)]
    values, window = torch.ones(2, 2), torch.tensor([[0, 1], [1, 0]])
    found = PeakTokens.of(values, window, torch.tensor([[0, 1], [0, 1]]), windows)
    assert found.at.tolist() == [[9, 5], [6, 8]]
    assert found.before.tolist() == [[-1, 6], [-1, 9]]
    assert found.after.tolist() == [[8, -1], [5, 7]]


def test_shares_against_a_search():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(-1, 4, (50, 6), generator=generator)
    values = torch.randint(0, 4, (50, 6), generator=generator).double().sort(descending=True).values
    ranked, share = PeakTokens(values, tokens, tokens, tokens).ranked(tokens)
    columns = (column.tolist() for column in (tokens, values, ranked, share))
    for row, code, found, its_share in zip(*columns, strict=True):
        weight = Counter()
        for token, value in zip(row, code, strict=True):
            if token >= 0 and value:
                weight[token] += value
        expected = weight.most_common()  # of equal ones the first that was counted comes first
        assert [token for token in found if token >= 0] == [token for token, _ in expected]
        parts = [value / sum(code) for _, value in expected]
        assert its_share[: len(parts)] == pytest.approx(parts)


def test_many_features_of_few_tokens():
    """Names are unique, short, and equal whenever they are made."""
    n, generator = 20_000, torch.Generator().manual_seed(1)
    before, at, after = torch.randint(0, 9, (3, n, 8), generator=generator)
    values = torch.rand(n, 8, generator=generator).sort(descending=True).values
    acted = torch.randint(0, 9, (n, 4), generator=generator)
    first, again = (
        unique_names(PeakTokens(values, at, before, after), WORDS.__getitem__, acted.__getitem__, "reads")
        for _ in range(2)
    )
    assert len(set(first)) == n
    assert max(map(len, first)) <= LONGEST
    assert first == again


@pytest.mark.parametrize(("words", "name"), [("␣the, ␣a", "#12 ␣the, ␣a"), ("", "#12")])
def test_a_number_and_a_name(words, name):
    assert numbered(12, words) == name
