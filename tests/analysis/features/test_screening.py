"""Screened search for the strongest pairs against a search of all of them, to the last bit."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis.features.interactions
from analysis import FeatureLayer, strongest_interactions
from analysis.features import screening
from analysis.features.interactions import n_pairs
from analysis.features.screening import Screen, pairs_in_reach, plain_rows, rounded_rows
from bilinear_lm import BilinearTensor

DTYPES = (torch.float32, torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(inputs, outputs, h=40):
    width = inputs.shape[1]
    factors = draw(width, h, seed=1), draw(width, h, seed=2), draw(h, outputs.shape[1], seed=3)
    return FeatureLayer(BilinearTensor(*(part.to(inputs) for part in factors)), inputs, outputs)


def ties():
    rows = draw(12, 16, seed=4)
    return torch.cat([rows, rows, -rows, rows.roll(1, 0)])


def zeros():
    return draw(40, 16, seed=5) * (torch.arange(40) % 3 > 0).unsqueeze(1)


def sizes():
    return draw(40, 16, seed=6) * torch.logspace(-9, 3, 40)[torch.randperm(40)].unsqueeze(1)


def peaks():
    return draw(40, 16, seed=7) * 0.001 + torch.eye(16, dtype=torch.float64).repeat(3, 1)[:40]


CASES = {
    "ties": ties,
    "all zero": lambda: torch.zeros(20, 16, dtype=torch.float64),
    "some zero": zeros,
    "any size": sizes,
    "peaks": peaks,
    "equal": lambda: torch.ones(30, 16, dtype=torch.float64),
    "one": lambda: draw(1, 16),
    "more hidden units than features": lambda: draw(9, 300, seed=8),
    "plain": lambda: draw(60, 16, seed=9),
}


def exhaustive(features, outputs, k):
    """Values of all pairs, by the same sums, ranked."""
    left, right = torch.triu_indices(features.n_in, features.n_in)
    screen, found = Screen(features, whole=False), []
    for output in outputs:
        values = screen.along(features.outputs[output]).values(left, right).tolist()
        found += zip(itertools.repeat(output), left.tolist(), right.tolist(), values, strict=False)
    return sorted(found, key=lambda item: (-abs(item[3]), item[:3]))[:k]


@pytest.mark.parametrize("whole", [True, False], ids=["whole numbers", "plain"])
@pytest.mark.parametrize("tile", [7, 256])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_screened_equals_exhaustive(case, dtype, tile, whole, monkeypatch):
    interactions = analysis.features.interactions
    monkeypatch.setattr(interactions, "_tile_size", lambda features: tile)
    monkeypatch.setattr(interactions, "Screen", lambda features: Screen(features, whole))
    features = layer(CASES[case]().to(dtype), draw(3, 5, seed=10).to(dtype))
    for outputs, k in (([1], 1), ([2, 0, 1], 13), ([0, 1, 2], 3 * n_pairs(features.n_in))):
        k = min(k, len(outputs) * n_pairs(features.n_in))
        found = strongest_interactions(features, outputs, k)
        expected = exhaustive(features, outputs, k)
        assert [(item.output, item.left, item.right, item.value) for item in found] == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_rows_are_within_their_distance(case, dtype):
    rows = CASES[case]().to(dtype)
    for screened in (rounded_rows(rows), plain_rows(rows)):
        numbers = screened.numbers[:, : rows.shape[1]].double() * screened.steps.unsqueeze(1)
        assert bool(((numbers - rows.double()).norm(dim=1) <= screened.distances).all())
        assert bool((rows.double().norm(dim=1) <= screened.norms).all())
        assert bool((numbers.norm(dim=1) <= screened.norms).all())
    assert screened[2:5].norms.equal(screened.norms[2:5])


def test_rows_that_are_given_stay_as_they_are():
    rows = draw(40, 16).float()
    before = rows.clone()
    rounded_rows(rows)
    assert rows.equal(before)


def test_pairs_out_of_reach_are_left_out():
    """Few pairs of 150 random rows are near the strongest."""
    rows = draw(150, 64).float()
    products = rows.double() @ rows.double().T
    least = 2 * float(products.fill_diagonal_(0).abs().max())
    found = pairs_in_reach(rounded_rows(rows), rounded_rows(rows), least, 10**6, False)
    off = found[0] != found[1]
    assert 2 <= int(off.sum()) < 30


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 24),
    n_out=st.integers(1, 3),
    k=st.integers(1, 40),
    whole=st.booleans(),
    tile=st.sampled_from([3, 8, 256]),
    exponent=st.integers(-9, 9),
    data=st.data(),
)
def test_screened_equals_exhaustive_for_rows_of_few_numbers(n, n_out, k, whole, tile, exponent, data):
    """Rows of small whole numbers have many ties, equal rows, rows of zeros, and ends of both signs."""
    numbers = data.draw(st.lists(st.integers(-2, 2), min_size=4 * n, max_size=4 * n))
    inputs = torch.tensor(numbers, dtype=torch.float32).reshape(n, 4) * 10.0**exponent
    ends = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, 0.0]])[:n_out]
    features = FeatureLayer(
        BilinearTensor(*(draw(4, 6, seed=s).round().float() for s in (1, 2)), draw(6, 2).float()),
        inputs,
        ends,
    )
    k = min(k, n_out * n_pairs(n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis.features.interactions, "_tile_size", lambda features: tile)
        patch.setattr(analysis.features.interactions, "Screen", lambda features: Screen(features, whole))
        found = strongest_interactions(features, None, k)
    expected = exhaustive(features, range(n_out), k)
    assert [(item.output, item.left, item.right, item.value) for item in found] == expected


@pytest.mark.parametrize(("n", "width", "whole"), [(2048, 191, False), (2047, 192, False), (2048, 192, True)])
def test_few_products_are_plain(n, width, whole, monkeypatch):
    monkeypatch.setattr(screening, "whole_numbers_are_faster", lambda *_: True)
    assert Screen(layer(torch.ones(n, width), torch.ones(1, 2), h=8 * width)).whole == whole
