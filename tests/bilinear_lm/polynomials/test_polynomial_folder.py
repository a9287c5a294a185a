"""Polynomials that were saved against those that are loaded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilinear_lm.errors import InputError
from bilinear_lm.polynomials.approximate import approximate_layer
from bilinear_lm.polynomials.polynomial_folder import load_polynomial, save_polynomial

from .layers import draw, gaussian, weights_of


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 5])
def test_what_is_saved_is_loaded(tmp_path, gated, degree):
    found, x = approximate_layer(weights_of(gated), "silu", degree=degree, **gaussian()), draw(5, 2)
    save_polynomial(found, tmp_path / "one")
    loaded = load_polynomial(tmp_path / "one")
    assert torch.equal(loaded(x), found(x))
    assert loaded.degree == degree
    assert json.loads((tmp_path / "one" / "polynomial.json").read_text())["degree"] == degree


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("linear"), "expected the tensors of a polynomial of degree 3"),
        (lambda tensors: tensors.update(more=draw(2)), "expected the tensors of a polynomial"),
        (lambda tensors: tensors.update(constant=draw(7)), "expected the tensors of a polynomial"),
        (lambda tensors: tensors.update({"units.powers": draw(3, 5)}), "expected the tensors"),
        (lambda tensors: tensors.update(constant=draw(3).float()), "expected one precision"),
        (lambda tensors: tensors.update(constant=torch.ones(3, dtype=torch.int64)), "int64 numbers"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, change, message):
    folder = tmp_path / "one"
    save_polynomial(approximate_layer(weights_of(True), "silu", degree=3), folder)
    tensors = load_file(folder / "polynomial.safetensors")
    change(tensors)
    save_file(tensors, folder / "polynomial.safetensors")
    with pytest.raises(InputError, match=message):
        load_polynomial(folder)


def test_a_degree_that_is_none(tmp_path):
    folder = tmp_path / "one"
    save_polynomial(approximate_layer(weights_of(True), "silu", degree=3), folder)
    (folder / "polynomial.json").write_text('{"degree": "3"}')
    with pytest.raises(InputError, match="degree '3'; expected 0 to 16"):
        load_polynomial(folder)
    with pytest.raises(InputError, match="exists already"):
        save_polynomial(approximate_layer(weights_of(True), "silu"), folder)
