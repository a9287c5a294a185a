"""The strongest of many numbers, in pieces and in any order, against sorting all of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.strongest import Strongest


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
    assert len(Strongest(2, torch.empty(0)).values) == len(Strongest(2, torch.empty(0)).places) == 0
