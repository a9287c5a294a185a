"""Work split over processes: ranges, and parts that merge to the whole (two processes: test_torchrun)."""

import pytest
import torch

from analysis import FeatureLayer, strongest_interactions
from analysis.features.interactions import merged_interactions, n_pairs, split_strongest_interactions
from bilinear_lm import BilinearTensor, InputError
from bilinear_lm.distributed import Worker, gather_rows


def layer():
    torch.manual_seed(0)
    tensors = {"gate": (12, 20), "in": (12, 20), "out": (20, 12), "inputs": (150, 12), "outputs": (7, 12)}
    return {name: torch.randn(shape) for name, shape in tensors.items()}


def features_of(t):
    return FeatureLayer(BilinearTensor(t["gate"], t["in"], t["out"]), t["inputs"], t["outputs"])


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_parts_are_ranges_that_cover_everything(world):
    for n in (0, 1, 5, 12):
        parts = [Worker(rank, world).of(n) for rank in range(world)]
        assert [number for part in parts for number in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_that_does_not_exist():
    with pytest.raises(InputError, match="worker 2 of 2; expected 0 to 1"):
        Worker(2, 2)


def test_one_process_has_all_the_work():
    rows, features = torch.ones(3, 2), features_of(layer())
    assert Worker.own() == Worker(0, 1)
    assert gather_rows(rows) is rows
    found, expected = split_strongest_interactions(features, k=20), strongest_interactions(features, k=20)
    assert all(torch.equal(getattr(found, column), getattr(expected, column)) for column in vars(found))
    with pytest.raises(InputError, match=f"expected 1 to the {n_pairs(150):,}"):
        split_strongest_interactions(features, [0], n_pairs(150) + 1)


def test_parts_without_a_group_merge_to_the_whole():
    features = features_of(layer())
    parts = [strongest_interactions(features, Worker(rank, 3).of(7), 30) for rank in range(3)]
    found, expected = merged_interactions(parts, 30), strongest_interactions(features, k=30)
    assert all(torch.equal(getattr(found, column), getattr(expected, column)) for column in vars(found))
    with pytest.raises(InputError, match="k=100 interactions; expected 1 to the 90"):
        merged_interactions(parts, 100)
