"""Gates: tables against Python's operators, names there and back, refusals."""

import itertools

import pytest
import torch

from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import NAMED_OF_THREE, NAMES, boolean_inputs, gate_name, truth_table

TWO = {
    "AND": lambda a, b: a and b,
    "OR": lambda a, b: a or b,
    "XOR": lambda a, b: a != b,
    "NAND": lambda a, b: not (a and b),
    "NOR": lambda a, b: not (a or b),
    "XNOR": lambda a, b: a == b,
    "A": lambda a, b: a,
    "B": lambda a, b: b,
    "NOT A": lambda a, b: not a,
    "NOT B": lambda a, b: not b,
    "A AND NOT B": lambda a, b: a and not b,
    "B AND NOT A": lambda a, b: b and not a,
    "A OR NOT B": lambda a, b: a or not b,
    "B OR NOT A": lambda a, b: b or not a,
    "FALSE": lambda a, b: False,
    "TRUE": lambda a, b: True,
}
THREE = {
    "A AND (B XOR C)": lambda a, b, c: a and b != c,
    "A AND (B OR C)": lambda a, b, c: a and (b or c),
    "A THEN B ELSE C": lambda a, b, c: b if a else c,
    "MAJORITY": lambda a, b, c: a + b + c >= 2,
    "MINORITY": lambda a, b, c: a + b + c < 2,
    "EXACTLY ONE": lambda a, b, c: a + b + c == 1,
    "EXACTLY TWO": lambda a, b, c: a + b + c == 2,
    "ALL EQUAL": lambda a, b, c: a == b == c,
    "NOT ALL EQUAL": lambda a, b, c: not a == b == c,
    "XOR": lambda a, b, c: (a + b + c) % 2,
    "XNOR": lambda a, b, c: not (a + b + c) % 2,
    "AND": lambda a, b, c: a and b and c,
    "OR": lambda a, b, c: a or b or c,
    "NAND": lambda a, b, c: not (a and b and c),
    "NOR": lambda a, b, c: not (a or b or c),
    "A": lambda a, b, c: a,
    "B": lambda a, b, c: b,
    "C": lambda a, b, c: c,
    "FALSE": lambda a, b, c: False,
    "TRUE": lambda a, b, c: True,
}


@pytest.mark.parametrize(("n", "functions"), [(2, TWO), (3, THREE)])
def test_tables_are_those_of_the_operators(n, functions):
    assert set(functions) == set(NAMES[2] if n == 2 else NAMED_OF_THREE)
    for name, function in functions.items():
        expected = [float(function(*bits)) for bits in itertools.product((0, 1), repeat=n)]
        assert truth_table(name, n).tolist() == expected, name


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_number_has_one_name(n):
    names = [gate_name(truth_table(number, n)) for number in range(2**2**n)]
    assert len(set(names)) == len(names)
    for number, name in enumerate(names):
        if set(name) <= {"0", "1"}:
            assert int(name, 2) == number
        else:
            assert torch.equal(truth_table(name, n), truth_table(number, n))


def test_inputs_are_counted_with_the_first_as_highest_digit():
    assert boolean_inputs(3)[5].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: truth_table("NOPE"), "gate of 2 inputs 'NOPE'; expected one of"),
        (lambda: truth_table(16), "number 16 does not exist; expected 0 to 15"),
        (lambda: boolean_inputs(11), "gates of 11 inputs; expected 1 to 10"),
        (lambda: gate_name(torch.tensor([0.0, 0.5])), "expected 2, 4, 8"),
        (lambda: gate_name(torch.zeros(3)), "expected 2, 4, 8"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
