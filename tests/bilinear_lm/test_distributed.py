"""Work split over processes: ranges, and the same result from two processes as from one."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis import FeatureLayer, strongest_interactions
from analysis.features.interactions import merged_interactions, n_pairs, split_strongest_interactions
from bilinear_lm import BilinearTensor, InputError
from bilinear_lm.distributed import Worker, gather_rows

SCRIPT = """
import sys
import torch
from safetensors.torch import load_file, save_file
from analysis import FeatureLayer
from bilinear_lm.distributed import Worker, gather_rows
from analysis.features.interactions import split_strongest_interactions
from bilinear_lm import BilinearTensor

folder, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
)
# Copied, since products of tensors that lie in memory otherwise may differ in the last bit.
t = {name: value.clone() for name, value in load_file(f"{folder}/layer.safetensors").items()}
features = FeatureLayer(BilinearTensor(t["gate"], t["in"], t["out"]), t["inputs"], t["outputs"])
results = {"rows": gather_rows(torch.full((rank * 3, 2), float(rank)))}
for name, outputs, k in (("all", None, 40), ("one", [2], 7), ("some", [5, 1, 1, 3], 11)):
    found = split_strongest_interactions(features, outputs, k)
    results |= {f"{name}.{column}": getattr(found, column) for column in vars(found)}
save_file({name: value.contiguous() for name, value in results.items()}, f"{folder}/{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


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


def test_two_processes_find_what_one_finds(tmp_path):
    tensors, script = layer(), tmp_path / "script.py"
    save_file(tensors, tmp_path / "layer.safetensors")
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path), str(rank)], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    features = features_of(tensors)
    for rank in range(2):
        results = load_file(tmp_path / f"{rank}.safetensors")
        assert results["rows"].tolist() == [[1.0, 1.0]] * 3
        for name, outputs, k in (("all", None, 40), ("one", [2], 7), ("some", [5, 1, 3], 11)):
            expected = strongest_interactions(features, outputs, k)
            for column, value in vars(expected).items():
                assert torch.equal(results[f"{name}.{column}"], value)
