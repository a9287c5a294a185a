"""HOSVD from factors against the dense SVD of the unfolding in float64, truncation, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorly.decomposition import tucker

import analysis.spectra.gram
import bilinear_lm.numerics.memory
from analysis import hosvd, singular_eigenvectors, truncate
from analysis.commands.hosvd import hosvd as command
from analysis.spectra import cross_gram, fix_signs, unfolding_gram
from bilinear_lm import BilinearTensor, InputError
from bilinear_lm.checkpoints import save_folder

D, H, OUT = 9, 20, 7


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def biased():
    factors = draw(D, H), draw(D, H, seed=1), draw(H, OUT, seed=2)
    return BilinearTensor.from_layer(*factors, draw(H, seed=3), draw(H, seed=4), draw(OUT, seed=5))


@pytest.fixture(params=[False, True], ids=["plain", "constant"])
def tensor(request):
    return biased() if request.param else BilinearTensor(draw(D, H), draw(D, H, seed=1), draw(H, OUT, seed=2))


def unfolded(tensor, leg):
    dense = tensor.dense().numpy()
    return (
        dense.reshape(len(dense), -1)
        if leg == "output"
        else dense.transpose(1, 0, 2).reshape(tensor.d_in, -1)
    )


@pytest.mark.parametrize("part", [512, 3], ids=["whole", "in parts"])
@pytest.mark.parametrize("leg", ["output", "input"])
@pytest.mark.parametrize("k", [None, 3])
def test_against_the_dense_svd(tensor, leg, k, part, monkeypatch):
    monkeypatch.setattr(analysis.spectra.gram, "PART", part)
    left, values, _ = np.linalg.svd(unfolded(tensor, leg), full_matrices=False)
    found = hosvd(tensor, k, leg)
    k = k or len(values)
    assert np.abs(found.spectrum.numpy() / values - 1).max() <= 1e-8
    assert torch.equal(found.singular_values, found.spectrum[:k])
    directions = found.output_directions if leg == "output" else found.input_directions
    assert directions.shape == (k, len(values))
    for ours, theirs in zip(directions.numpy(), left.T[:k], strict=True):
        assert np.abs(np.outer(ours, ours) - np.outer(theirs, theirs)).max() <= 1e-8
    assert torch.equal(fix_signs(directions), directions)


def test_against_tensorly():
    tensor = biased()
    _, (outputs, *_) = tucker(tensor.dense().numpy(), [3, tensor.d_in, tensor.d_in], n_iter_max=1)
    ours = hosvd(tensor, 3).output_directions
    assert np.abs(ours.T.numpy() @ ours.numpy() - outputs @ outputs.T).max() <= 1e-8


def test_degenerate_singular_values_are_right_as_projectors():
    # Outputs that compute three different squares with weights 2, 2, 1, in a rotated basis: σ = 2, 2, 1, 0.
    weights, rotation = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64), torch.linalg.qr(draw(4, 4)).Q
    square = torch.eye(5, dtype=torch.float64)[:, :3]
    tensor = BilinearTensor(square, square, weights.unsqueeze(1) * rotation[:3])
    found = hosvd(tensor)
    assert torch.allclose(found.spectrum, torch.tensor([2.0, 2, 1, 0], dtype=torch.float64), atol=1e-7)
    assert found.rank == 3
    for rows in (slice(0, 2), slice(2, 3), slice(3, 4)):
        ours, theirs = found.output_directions[rows], rotation[rows]
        assert torch.allclose(ours.mT @ ours, theirs.mT @ theirs, atol=1e-8)


def test_float32_resolves_small_singular_values():
    # Weights 1 and 1e-5: their squares differ by more than float32 holds.
    square, weights = torch.eye(3), torch.tensor([1.0, 1e-2, 1e-5])
    found = hosvd(BilinearTensor(square, square, weights.diag()))
    assert found.spectrum.dtype == torch.float32
    assert torch.allclose(found.spectrum, weights, rtol=1e-5)


@pytest.mark.parametrize("leg", ["output", "input"])
def test_hidden_units_may_be_permuted_scaled_and_swapped(tensor, leg):
    order, scale = torch.randperm(tensor.d_mlp), draw(tensor.d_mlp, seed=9).exp()
    W_gate, W_in, W_out = tensor.W_gate[:, order], tensor.W_in[:, order], tensor.W_out[order]
    twin = replace(tensor, W_gate=W_in / scale, W_in=W_gate * scale, W_out=W_out)
    ours, theirs = hosvd(tensor, 3, leg), hosvd(twin, 3, leg)
    assert torch.allclose(ours.spectrum, theirs.spectrum)
    assert torch.allclose(ours.directions, theirs.directions, atol=1e-8)


def test_the_terms_sum_to_the_tensor(tensor):
    found = hosvd(tensor)
    eigen = singular_eigenvectors(tensor, found)
    matrices = torch.einsum("ik,ika,ikb->iab", eigen.values, eigen.vectors, eigen.vectors)
    assert torch.allclose(matrices.flatten(1) @ matrices.flatten(1).T, torch.eye(OUT).double(), atol=1e-8)
    sum_of_terms = torch.einsum("i,io,iab->oab", found.singular_values, found.output_directions, matrices)
    assert torch.allclose(sum_of_terms, tensor.dense(), atol=1e-8)
    assert singular_eigenvectors(tensor, found, 2).vectors.shape == (OUT, 2, tensor.d_in)


@pytest.mark.parametrize("k", [0, 1, 4, OUT])
def test_output_truncation_loses_what_was_foretold(tensor, k):
    found = hosvd(tensor)
    kept = truncate(tensor, found, k)
    lost = (tensor.dense() - kept.dense()).norm() / tensor.dense().norm()
    assert found.truncation_error(k) == pytest.approx(float(lost), abs=1e-10)
    left, values, right = np.linalg.svd(unfolded(tensor, "output"), full_matrices=False)
    best = (left[:, :k] * values[:k]) @ right[:k]
    assert np.abs(kept.dense().numpy().reshape(OUT, -1) - best).max() <= 1e-8


@pytest.mark.parametrize("k", [0, 1, 4, D])
def test_input_truncation_loses_no_more_than_was_foretold(tensor, k):
    found = hosvd(tensor, leg="input")
    kept, projector = truncate(tensor, found, k), found.directions[:k].mT @ found.directions[:k]
    assert torch.allclose(kept.dense(), projector @ tensor.dense() @ projector, atol=1e-10)
    assert kept.constant == tensor.constant
    lost = float((tensor.dense() - kept.dense()).norm() / tensor.dense().norm())
    bound = found.truncation_error(k)
    assert 0.7 * bound <= lost + 1e-12
    assert lost <= bound + 1e-12


def test_all_directions_lose_nothing(tensor):
    for leg in ("output", "input"):
        found = hosvd(tensor, leg=leg)
        assert found.truncation_error(len(found.directions)) == 0
        assert truncate(tensor, found, len(found.directions)).cosine(tensor) > 1 - 1e-12


def test_a_tensor_that_is_zero():
    found = hosvd(BilinearTensor(draw(D, H), draw(D, H), torch.zeros(H, OUT).double()))
    assert (found.spectrum == 0).all()
    assert found.rank == 0
    assert found.truncation_error(1) == 0


@pytest.mark.parametrize("chunk", [2**28, 1], ids=["whole", "chunked"])
@pytest.mark.parametrize("leg", ["output", "input"])
def test_products_of_the_slices_of_two_layers(tensor, leg, chunk, monkeypatch):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
    other = replace(tensor, W_gate=tensor.W_gate.flip(0), W_out=tensor.W_out.flip(1))
    ours, theirs = unfolded(tensor, leg), unfolded(other, leg)
    assert np.abs(cross_gram(tensor, other, leg).numpy() - ours @ theirs.T).max() <= 1e-10
    single = replace(tensor, **{name: getattr(tensor, name).float() for name in ("W_gate", "W_in", "W_out")})
    assert unfolding_gram(single, leg).dtype == torch.float64
    assert np.abs(unfolding_gram(single, leg).numpy() - ours @ ours.T).max() <= 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: hosvd(t, OUT + 1), "k=8 directions of the output leg; expected 1 to 7"),
        (lambda t: hosvd(t, 0, "input"), "k=0 directions of the input leg; expected 1 to 9"),
        (lambda t: hosvd(replace(t, W_in=t.W_in * torch.nan)), "NaN or infinity"),
        (lambda t: hosvd(BilinearTensor(draw(2, D, H), draw(2, D, H), draw(2, H, OUT))), "one layer"),
        (lambda t: hosvd(t).input_directions, "ask hosvd for leg='input'"),
        (lambda t: hosvd(t).truncation_error(OUT + 1), "k=8 directions; expected 0 to 7"),
        (lambda t: truncate(t, hosvd(t, 2), 3), "k=3 directions; expected 0 to the 2"),
        (lambda t: truncate(t.change_basis(outputs=draw(3, OUT)), hosvd(t), 2), "output width 3"),
        (lambda t: singular_eigenvectors(t, hosvd(t, leg="input")), "ask hosvd for leg='output'"),
        (lambda t: singular_eigenvectors(t, hosvd(t), D + 1), "k=10 eigenvectors; expected 1 to d_in=9"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call(BilinearTensor(draw(D, H), draw(D, H, seed=1), draw(H, OUT, seed=2)))


def test_directions_without_a_matrix():
    tensor = BilinearTensor(draw(D, H), draw(D, H, seed=1), draw(H, 2) @ draw(2, OUT))
    found = hosvd(tensor)
    assert found.rank == 2
    with pytest.raises(InputError, match="ask hosvd for k=2 or fewer"):
        singular_eigenvectors(tensor, found)


@pytest.fixture
def folder(tmp_path, make_model, tiny_tokenizer):
    save_folder(make_model(d_vocab=len(tiny_tokenizer), mlp_bias=True), tiny_tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("leg", ["output", "input"])
def test_the_command(folder, tmp_path, leg, capsys):
    command(str(folder), layer=1, output=tmp_path / "out", k=4, leg=leg, listed=3, device="cpu")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("direction")
    assert last == str(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "hosvd.json").read_text())
    tensors = load_file(tmp_path / "out" / "hosvd.safetensors")
    assert written["singular_values"] == tensors["spectrum"][:4].tolist()
    assert sorted(written["truncation_errors"], reverse=True) == written["truncation_errors"]
    assert written["settings"]["leg"] == leg
    assert [len(direction["top"]) for direction in written["directions"]] == [3] * 4
    assert tensors[f"{leg}_directions"].shape == (4, 16 if leg == "output" else 17)
    if leg == "output":
        assert tensors["eigenvectors"].shape == (4, 2, 17)
        assert [len(direction["eigenvectors"]) for direction in written["directions"]] == [2] * 4


def test_the_command_refuses(folder, tmp_path):
    for settings, message in (({"k": 17}, "k=17 directions"), ({"layer": 5}, "layer 5 does not exist")):
        with pytest.raises(InputError, match=message):
            command(str(folder), **{"layer": 0, "output": tmp_path / "out", "device": "cpu"} | settings)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="exists already"):
        command(str(folder), layer=0, output=folder)
