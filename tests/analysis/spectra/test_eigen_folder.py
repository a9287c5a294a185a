"""Folders of eigendecompositions that somebody changed: each part is what settings.json says, or refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis import eigendecompose, eigendecompose_to_folder, load_decomposition, save_decomposition
from analysis.spectra import Eigendecomposition
from bilinear_lm import BilinearTensor, InputError

D, H, OUT, N, PART = 12, 20, 6, 14, 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(seed=0, d_in=D, dtype=torch.float64):
    shapes = (d_in, H), (d_in, H), (H, OUT)
    return BilinearTensor(*(draw(*shape, seed=seed + i).to(dtype) for i, shape in enumerate(shapes)))


@pytest.fixture
def run(tmp_path):
    """Three parts of eigenpairs, k = 4, and how to resume the run."""

    def resume(folder=tmp_path / "run", tensor=None, k=4, u=None):
        tensor = make() if tensor is None else tensor
        u = draw(N, OUT, seed=9).to(tensor.dtype) if u is None else u
        eigendecompose_to_folder(tensor, u, folder, k, part_size=PART, resume=True)
        return folder

    resume()
    return resume


def part(folder, index):
    return folder / f"part-0000{index}.safetensors"


OTHERS = {
    "another k": {"k": 3},
    "another d_in": {"tensor": make(d_in=10)},
    "another precision": {"tensor": make(dtype=torch.float32)},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_part_of_another_run(run, tmp_path, other, index):
    folder, foreign = run(), run(tmp_path / "other", **OTHERS[other])
    shutil.copy(part(foreign, index), part(folder, index))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for call in (lambda: load_decomposition(folder), lambda: load_decomposition(folder, partial=True), run):
        with pytest.raises(InputError, match=rf"part-0000{index}\.safetensors: has .*another run, delete it"):
            call()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    part(folder, index).unlink()
    run()
    expected = eigendecompose(make(), draw(N, OUT, seed=9), 4)
    assert torch.allclose(load_decomposition(folder).values, expected.values)


@pytest.mark.parametrize("foreign", [{"tensor": make(seed=5)}, {"u": draw(N, OUT, seed=8)}])
def test_a_part_of_the_same_shape_of_another_layer_or_direction(run, tmp_path, foreign):
    folder, other = run(), run(tmp_path / "other", **foreign)
    shutil.copy(part(other, 1), part(folder, 1))
    with pytest.raises(InputError, match="no eigenvectors of this layer along direction 5"):
        run()


def test_a_part_that_lies_under_the_number_of_another(run):
    folder = run()
    shutil.copy(part(folder, 0), part(folder, 1))
    with pytest.raises(InputError, match="along direction 5"):
        run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 3}, "part-00000.* has k 4; expected k 3 as in settings.json"),
        ({"d_in": 10}, "has d_in 12; expected d_in 10"),
        ({"dtype": "float32"}, "has dtype float64; expected dtype float32"),
        ({"k": "4"}, "has k 4; expected k 4"),
        ({"axes": [9]}, "has part-00002.safetensors, but settings.json tells of 2 parts"),
        ({"axes": [13]}, "expected values, vectors, residuals, gap of 3 directions"),
        ({"axes": [10**18]}, r"holds 14 of 1000000000000000000|gap of 5 directions"),
        ({"axes": [2, 7]}, None),
        ({"axes": [-14]}, "expected axes of 0 or more"),
        ({"axes": [True]}, "expected whole numbers"),
        ({"axes": 14}, "expected whole numbers"),
        ({"part_size": 0}, "parts of 1 or more directions"),
        ({"part_size": -5}, "parts of 1 or more directions"),
        ({"part_size": True}, "expected whole numbers"),
        ({"part_size": 7}, "but settings.json tells of 2 parts"),
    ],
)
def test_settings_that_somebody_edited(run, changes, message):
    folder = run()
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | changes))
    if message is None:
        assert load_decomposition(folder).values.shape == (2, 7, 4)
        return
    with pytest.raises(InputError, match=message):
        load_decomposition(folder)


def test_a_part_that_is_missing_in_the_middle(run):
    folder = run()
    part(folder, 1).unlink()
    for partial in (False, True):
        with pytest.raises(
            InputError, match=r"has part-00002.safetensors but not part-00001.safetensors; finish"
        ):
            load_decomposition(folder, partial=partial)
    run()
    assert load_decomposition(folder).values.shape == (N, 4)


def test_a_part_too_many(run):
    folder = run()
    for name in ("part-00003.safetensors", "part-000001.safetensors", "part-x.safetensors"):
        shutil.copy(part(folder, 1), folder / name)
        with pytest.raises(InputError, match=f"has {name}, but settings.json tells of 3 parts"):
            load_decomposition(folder)
        with pytest.raises(InputError, match=f"{name}: not a part of this run, which has 3; delete it"):
            run()
        (folder / name).unlink()
    assert load_decomposition(run()).values.shape == (N, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"values": t["values"].flip(1)}, "not sorted by magnitude"),
        (lambda t: t | {"values": t["values"] * torch.nan}, "NaN or infinity in values"),
        (lambda t: t | {"vectors": t["vectors"] / 0}, "NaN or infinity in vectors"),
        (lambda t: t | {"values": t["values"][:, :3]}, r"holds .*values \[5, 3\].*; expected values"),
        (lambda t: t | {"residuals": t["residuals"][:, :2]}, r"residuals \[5, 2\]"),
        (lambda t: t | {"vectors": t["vectors"][..., 0]}, r"vectors \[5, 4\]"),
        (lambda t: t | {"vectors": t["vectors"].float()}, "vectors .* torch.float32"),
        (lambda t: t | {"values": t["values"].long()}, "values is in torch.int64"),
        (lambda t: t | {"gap": t["gap"][:, None]}, r"gap \[5, 1\]"),
        (lambda t: {name: column[:4] for name, column in t.items()}, "of 5 directions"),
        (
            lambda t: t | {"more": t["gap"].clone()},
            "expected values, vectors, residuals, gap of 5 directions",
        ),
        (lambda t: {"values": t["values"]}, "expected values, vectors, residuals, gap of 5 directions"),
    ],
)
def test_a_part_that_somebody_edited(run, change, message):
    folder = run()
    tensors = {name: column.contiguous() for name, column in change(load_file(part(folder, 1))).items()}
    save_file(tensors, part(folder, 1))
    for call in (lambda: load_decomposition(folder), run):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("axes", [(), (3,), (2, 2), (0,), (2, 0)])
def test_a_decomposition_of_any_axes_comes_back(axes, tmp_path):
    u = draw(*axes, OUT)
    found = eigendecompose(make(), u, 3) if u.numel() else empty(axes)
    save_decomposition(found, tmp_path / "saved")
    back = load_decomposition(tmp_path / "saved")
    for name in ("values", "vectors", "residuals", "gap"):
        assert torch.equal(getattr(back, name), getattr(found, name))
    settings = json.loads((tmp_path / "saved" / "settings.json").read_text())
    assert (settings["k"], settings["d_in"], settings["dtype"]) == (3, D, "float64")


def empty(axes):
    return Eigendecomposition(draw(*axes, 3), draw(*axes, 3, D), draw(*axes, 3), draw(*axes))
