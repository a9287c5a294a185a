"""The strongest of many numbers, in pieces and in any order, against sorting all of them."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.streaming import PairMoments, Strongest, StrongestOfEach
from bilinear_lm import InputError


@given(
    numbers=st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=60),
    k=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    data=st.data(),
)
def test_pieces_in_any_order_are_the_sorted_whole(numbers, k, cuts, data):
    values, places = torch.tensor(numbers), torch.arange(len(numbers))
    order = torch.tensor(data.draw(st.permutations(range(len(numbers)))))
    found = Strongest(k, torch.empty(0))
    for part in torch.tensor_split(order, sorted(cuts)):
        (strong,) = found.candidates(values[part].abs())
        found.add(values[part][strong], places[part][strong])
    expected = values.abs().argsort(descending=True, stable=True)[:k]
    assert found.places.tolist() == expected.tolist()
    assert found.values.tolist() == values[expected].tolist()


@settings(max_examples=40)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 7),
    k=st.integers(1, 12),
    before=st.lists(st.integers(-4, 4).map(float), max_size=12),
    data=st.data(),
)
def test_candidates_of_rows_hold_the_strongest(rows, columns, k, before, data):
    numbers = data.draw(
        st.lists(st.integers(-4, 4).map(float), min_size=rows * columns, max_size=rows * columns)
    )
    values, n = torch.tensor(numbers).reshape(rows, columns), len(before)
    found = Strongest(k, values)
    found.add(torch.tensor(before), torch.arange(n))
    row, column = found.candidates_of_rows(values.abs())
    found.add(values[row, column], n + row * columns + column)
    everything = torch.cat([torch.tensor(before), values.flatten()])
    expected = everything.abs().argsort(descending=True, stable=True)[:k]
    assert found.places.tolist() == expected.tolist()


def test_masked_numbers_are_no_candidates():
    found = Strongest(3, torch.empty(0))
    sizes = torch.tensor([[2.0, -1.0], [-1.0, 1.0]])
    row, column = found.candidates(sizes)
    assert list(zip(row.tolist(), column.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert found.candidates(torch.full((4, 5), -1.0))[0].tolist() == []


def test_what_is_below_the_threshold_is_no_candidate():
    found = Strongest(2, torch.empty(0))
    found.add(torch.tensor([5.0, -4.0, 1.0]), torch.arange(3))
    assert found.threshold == 4
    assert found.candidates(torch.tensor([3.0, 4.0]))[0].tolist() == [1]
    assert len(found.candidates(torch.zeros(0))[0]) == 0


def test_nothing_was_added():
    for dtype in (torch.float16, torch.float64):
        found = Strongest(2, torch.empty(3, dtype=dtype))
        assert len(found.values) == len(found.places) == 0
        assert (found.values.dtype, found.places.dtype) == (dtype, torch.long)
        assert found.values.device == found.places.device == torch.device("cpu")


def test_numbers_that_left_the_range_are_refused():
    for number in (torch.nan, torch.inf):
        with pytest.raises(InputError, match=r"numbers to rank overflow torch.float32 or are NaN"):
            Strongest(1, torch.empty(0)).candidates(torch.tensor([1.0, number, 2.0]))


@settings(deadline=None, max_examples=40)
@given(
    numbers=st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 4).map(float)), max_size=60),
    k=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    data=st.data(),
)
def test_the_strongest_of_each_group_in_pieces_and_any_order(numbers, k, cuts, data):
    found = StrongestOfEach(4, k, torch.empty(0))
    order = torch.tensor(data.draw(st.permutations(range(len(numbers)))), dtype=torch.long)
    for part in torch.tensor_split(order, sorted(cuts)):
        groups, values = (torch.tensor([numbers[at][side] for at in part.tolist()]) for side in (0, 1))
        found.add(groups.long(), values.float(), part)
    found.merge()
    for group in range(4):
        own = [(value, place) for place, (of, value) in enumerate(numbers) if of == group and value]
        expected = sorted(own, key=lambda item: (-abs(item[0]), item[1]))[:k]
        strong = list(zip(found.values[group].tolist(), found.places[group].tolist(), strict=True))
        assert strong[: len(expected)] == expected
        assert all(value == 0 for value, _ in strong[len(expected) :])
        assert float(found.least[group]) == abs(strong[-1][0])


def test_moments_of_groups_are_those_of_series():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, 50, generator=generator) + 2, torch.randn(7, 50, generator=generator)
    seen = torch.rand(7, 50, generator=generator) < torch.linspace(0, 1, 7).unsqueeze(1)
    group, at = torch.nonzero(seen, as_tuple=True)
    found = PairMoments.of_groups(x[group, :, at], y[group, at], group, 7)
    expected = PairMoments.of_series(x.double(), y.double(), seen)
    for field in fields(PairMoments):
        torch.testing.assert_close(getattr(found, field.name), getattr(expected, field.name))
