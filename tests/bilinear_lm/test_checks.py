"""The checks of single arguments: what passes, and the one line for what does not."""

import numpy as np
import pytest
import torch

from bilinear_lm.checks import (
    require_choice,
    require_count,
    require_finite_numbers,
    require_floating,
    require_index,
    require_labels,
    require_number,
    require_seed,
)
from bilinear_lm.errors import InputError


@pytest.mark.parametrize("index", [0, 2, np.int64(1), torch.tensor(2)])
def test_indices_that_are_there(index):
    require_index(index, 3, "feature")


@pytest.mark.parametrize("index", [-1, 3, 1.0, True, "1", None, torch.tensor(1.0), torch.tensor(True)])
def test_indices_that_are_not_there(index):
    with pytest.raises(InputError, match=r"does not exist; expected 0 to 2"):
        require_index(index, 3, "feature")


def test_an_index_into_nothing():
    with pytest.raises(InputError, match="feature 0 does not exist; there are none"):
        require_index(0, 0, "feature")


@pytest.mark.parametrize("count", [1, 5, np.int32(3)])
def test_counts(count):
    require_count(count, f"k={count}", "1 to 5", most=5)


@pytest.mark.parametrize("count", [0, 6, -1])
def test_counts_out_of_range(count):
    with pytest.raises(InputError, match=f"^k={count}; expected 1 to 5$"):
        require_count(count, f"k={count}", "1 to 5", most=5)


@pytest.mark.parametrize("count", [1.0, True, "3", None, torch.tensor(2), float("nan")])
def test_counts_that_are_no_whole_numbers(count):
    with pytest.raises(InputError, match=r"expected a whole number, 1 to 5"):
        require_count(count, f"k={count}", "1 to 5", most=5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.5, "1", None, True])
def test_numbers_out_of_range(value):
    with pytest.raises(InputError, match="expected 0 to 1"):
        require_number(value, f"share={value}", "0 to 1", least=0, most=1)


def test_choices():
    require_choice("dense", ("auto", "dense"), "method")
    for choice in ("evil", "", None, 3, ["dense"], "Dense"):
        with pytest.raises(InputError, match=r"method .*; expected one of auto, dense"):
            require_choice(choice, ("auto", "dense"), "method")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 1.5, True, "0"])
def test_seeds(seed):
    require_seed(0)
    require_seed(2**32 - 1)
    with pytest.raises(InputError, match=r"expected .*0 to 4294967295"):
        require_seed(seed)


def test_floating_point():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        require_floating(torch.ones(2, dtype=dtype), "x")
    for dtype in (torch.int64, torch.uint8, torch.bool):
        with pytest.raises(InputError, match=r"x is in torch.*convert with \.to\(torch.float32\)"):
            require_floating(torch.ones(2, dtype=dtype), "x")
    with pytest.raises(InputError, match=r"x is in torch.complex64; expected real numbers"):
        require_floating(torch.ones(2, dtype=torch.complex64), "x")
    with pytest.raises(InputError, match="x is a ndarray; expected a torch tensor"):
        require_floating(np.ones(2), "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_finite_numbers(value):
    with pytest.raises(InputError, match="x holds NaN or infinity"):
        require_finite_numbers(torch.tensor([1.0, value]), "x")


def test_an_error_is_one_line_whatever_a_name_in_it_holds():
    assert (
        str(InputError("a/b\nbilinear-lm: all is well\x1b[31m\u202e"))
        == r"a/b bilinear-lm: all is well\x1b[31m\u202e"
    )


def test_labels_of_all_inputs():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        require_labels(torch.tensor([0, 2, 1], dtype=dtype), 3, 3)
    require_labels(torch.zeros(0, dtype=torch.long), 0, 2)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 1]),
        torch.tensor([0, 1, 3]),
        torch.tensor([0, -1, 2]),
        torch.tensor([[0, 1, 2]]),
        torch.zeros(3),
        torch.tensor([True, False, True]),
        torch.zeros(3, dtype=torch.complex64),
    ],
    ids=str,
)
def test_labels_that_do_not_fit(labels):
    with pytest.raises(InputError, match=r"for 3 images; expected whole numbers \[3\], 0 to 2"):
        require_labels(labels, 3, 3, "images")


def test_labels_in_a_list():
    with pytest.raises(InputError, match="labels in a list; expected a torch tensor"):
        require_labels([0, 1], 2, 2)
