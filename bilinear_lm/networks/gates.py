"""Boolean gates by their truth tables: the inputs in order, names, numbers.

The inputs of a gate of n inputs are counted as binary numbers, the first input the highest digit: 00, 01, 10,
11 for two. A truth table lists the outputs in that order, and its number reads the list as binary digits, so
AND is 0001, number 1, and XOR is 0110, number 6.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.checks import require_choice, require_count, require_index
from bilinear_lm.errors import InputError

MOST_INPUTS = 10
"""A gate of more inputs has a table of over a thousand entries."""

NAMES = {
    2: (
        *("FALSE", "AND", "A AND NOT B", "A", "B AND NOT A", "B", "XOR", "OR"),
        *("NOR", "XNOR", "NOT B", "A OR NOT B", "NOT A", "B OR NOT A", "NAND", "TRUE"),
    ),
    1: ("FALSE", "A", "NOT A", "TRUE"),
}
"""All gates of one and two inputs A, B, by number."""

NAMED_OF_THREE = {
    "FALSE": 0b00000000,
    "AND": 0b00000001,
    "A AND (B XOR C)": 0b00000110,
    "A AND (B OR C)": 0b00000111,
    "A": 0b00001111,
    "EXACTLY ONE": 0b01101000,
    "MAJORITY": 0b00010111,
    "EXACTLY TWO": 0b00010110,
    "A THEN B ELSE C": 0b01010011,
    "B": 0b00110011,
    "C": 0b01010101,
    "NOT ALL EQUAL": 0b01111110,
    "ALL EQUAL": 0b10000001,
    "XOR": 0b01101001,
    "XNOR": 0b10010110,
    "OR": 0b01111111,
    "NOR": 0b10000000,
    "MINORITY": 0b11101000,
    "NAND": 0b11111110,
    "TRUE": 0b11111111,
}
"""Gates of three inputs A, B, C that have names; XOR is the parity of all three."""


def boolean_inputs(n: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "corners n"]:
    """All inputs of a gate of n inputs, [2ⁿ, n], in the order of truth tables.

    >>> boolean_inputs(2)
    tensor([[0., 0.],
            [0., 1.],
            [1., 0.],
            [1., 1.]], dtype=torch.float64)
    """
    require_count(n, f"gates of {n} inputs", f"1 to {MOST_INPUTS}", most=MOST_INPUTS)
    numbers = torch.arange(2**n)
    return torch.stack([(numbers >> (n - 1 - i)) & 1 for i in range(n)], dim=-1).to(dtype)


def truth_table(gate: int | str, n: int = 2, dtype: torch.dtype = torch.float64) -> Float[Tensor, " corners"]:
    """The truth table [2ⁿ] of a gate, by its number or its name. InputError for a gate that does not exist.

    >>> truth_table("XOR")
    tensor([0., 1., 1., 0.], dtype=torch.float64)
    """
    corners = len(boolean_inputs(n))
    if isinstance(gate, str):
        numbers = gate_numbers(n)
        require_choice(gate, numbers, f"gate of {n} inputs")
        gate = numbers[gate]
    require_index(gate, 2**corners, f"gate of {n} inputs, number")
    return torch.tensor([(int(gate) >> (corners - 1 - i)) & 1 for i in range(corners)], dtype=dtype)


def gate_numbers(n: int) -> dict[str, int]:
    """The number of every gate of n inputs that has a name."""
    if n == 3:
        return NAMED_OF_THREE
    return {name: number for number, name in enumerate(NAMES.get(n, ()))}


def gate_name(table: Float[Tensor, " corners"]) -> str:
    """The name of the gate with this truth table; its table in digits where it has no name.

    >>> gate_name(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    'AND'
    """
    n = len(table).bit_length() - 1
    if len(table) != 2**n or not n or not ((table == 0) | (table == 1)).all():
        raise InputError(f"a truth table {table.tolist()}; expected 2, 4, 8, … entries, each 0 or 1")
    digits = "".join(str(int(entry)) for entry in table.tolist())
    names = {number: name for name, number in gate_numbers(n).items()}
    return names.get(int(digits, 2), digits)
