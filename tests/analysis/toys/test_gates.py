"""Gates read from weights: against layers made by hand, the equations, least squares, refusals."""

import itertools

import pytest
import torch

from analysis.toys.gates import gate_coefficients, least_error, name_gate, nearest_gate
from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import NAMES, boolean_inputs, truth_table
from bilinear_lm.networks.toy import ToyModel, ToySettings
from bilinear_lm.tensor import BilinearTensor

EQUATIONS = {"XOR": ([1, 1], -2, 0), "AND": ([0, 0], 1, 0), "XNOR": ([-1, -1], 2, 1), "OR": ([1, 1], -1, 0)}
"""f_ii + b_i, f_01 + f_10, γ."""


def layer_of(table: torch.Tensor, seed: int = 0) -> BilinearTensor:
    """A layer with biases that computes a gate of degree 2: a hidden unit a monomial, f_ii and b_i shared at
    random between the square and the linear part."""
    n = len(table).bit_length() - 1
    draws = torch.Generator().manual_seed(seed)
    x = boolean_inputs(n)
    pairs = list(itertools.combinations(range(n), 2))
    monomials = torch.stack([torch.ones(len(x)).double(), *x.T, *(x[:, i] * x[:, j] for i, j in pairs)], -1)
    solution = torch.linalg.lstsq(monomials, table[:, None]).solution[:, 0]
    gates, ins, outs = [], [], []

    def unit(i: int, j: int, weight: float) -> None:
        gates.append(torch.eye(n + 1).double()[i])
        ins.append(torch.eye(n + 1).double()[j])
        outs.append(weight)

    unit(n, n, float(solution[0]))
    for i in range(n):
        part = float(torch.randn(1, generator=draws))
        unit(i, i, float(solution[1 + i]) - part)
        unit(i, n, part)
    for (i, j), weight in zip(pairs, solution[1 + n :].tolist(), strict=True):
        unit(i, j, weight)
    W_out = torch.tensor(outs, dtype=torch.float64)[:, None]
    return BilinearTensor(torch.stack(gates, 1), torch.stack(ins, 1), W_out, constant=True)


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equations(name):
    linear, pair, constant = EQUATIONS[name]
    found = gate_coefficients(layer_of(truth_table(name)))
    torch.testing.assert_close(found.linear[0], torch.tensor(linear, dtype=torch.float64))
    torch.testing.assert_close(found.pairs[0], pair * torch.tensor([[0.0, 1], [1, 0]], dtype=torch.float64))
    assert abs(float(found.constant[0]) - constant) < 1e-9


def test_coefficients_come_from_the_interaction_matrix():
    tensor = ToyModel(ToySettings(3, n_outputs=2), (4,)).double().folded()[0]
    Q, found = tensor.dense(), gate_coefficients(tensor)
    for i in range(3):
        torch.testing.assert_close(found.linear[..., i], Q[..., i, i] + Q[..., i, 3] + Q[..., 3, i])
        for j in range(3):
            expected = (Q[..., i, j] + Q[..., j, i]) * (i != j)
            torch.testing.assert_close(found.pairs[..., i, j], expected)
    torch.testing.assert_close(found.constant, Q[..., 3, 3])


@pytest.mark.parametrize("number", range(16))
def test_gates_of_two_inputs_are_named(number):
    named = name_gate(layer_of(truth_table(number), seed=number))
    assert named.name == NAMES[2][number]
    assert named.error < 1e-9


@pytest.mark.parametrize("name", ["MAJORITY", "EXACTLY ONE", "A THEN B ELSE C", "ALL EQUAL", "NOT A"])
def test_gates_of_three_inputs_are_named_where_a_layer_can_be_them(name):
    table = truth_table(name, 3) if name != "NOT A" else 1 - truth_table("A", 3)
    of_degree_two = float(least_error(table)) < 1e-20
    assert of_degree_two == (name in ("A THEN B ELSE C", "ALL EQUAL", "NOT A"))
    named = name_gate(layer_of(table))
    assert (named.name is not None) == of_degree_two
    if of_degree_two:
        assert torch.equal(named.table, table)


def test_untrained_layers_have_no_name():
    models = ToyModel(ToySettings(2, d_mlp=8), (100,), torch.Generator().manual_seed(0)).folded()[0]
    layers = zip(models.W_gate, models.W_in, models.W_out, strict=True)
    names = [name_gate(BilinearTensor(*factors, constant=True)).name for factors in layers]
    assert sum(name is not None for name in names) < 10


def test_the_tolerance_decides():
    values = torch.tensor([0.0, 0.92, 1.05, 0.0])
    assert nearest_gate(values, 0.1).name == "XOR"
    assert nearest_gate(values, 0.05).name is None
    assert nearest_gate(values, 0.05).error == pytest.approx(0.08, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "bias", "expected"), [(2, True, 16), (2, False, 8), (3, True, 70), (3, False, 35)]
)
def test_how_many_gates_a_layer_can_be(n, bias, expected):
    tables = torch.stack([truth_table(number, n) for number in range(2**2**n)])
    can = least_error(tables, bias=bias) < 1e-20
    assert int(can.sum()) == expected
    x = boolean_inputs(n)
    if n == 2 and not bias:
        assert torch.equal(can, tables[:, 0] == 0)
    if n == 3:
        sign = 1 - 2 * (x.sum(-1) % 2)
        balanced = tables @ sign == 0
        assert torch.equal(can, balanced if bias else balanced & (tables[:, 0] == 0))


def test_the_least_error_is_that_of_least_squares():
    table, x = truth_table(0b11010010, 3), boolean_inputs(3)
    columns = torch.stack([*x.T, x[:, 0] * x[:, 1], x[:, 0] * x[:, 2], x[:, 1] * x[:, 2]], -1)
    solution = torch.linalg.lstsq(columns, table[:, None]).solution[:, 0]
    torch.testing.assert_close(least_error(table, bias=False), (columns @ solution - table).square().mean())


def test_refusals():
    layer = layer_of(truth_table("OR"))
    with pytest.raises(InputError, match="output 1 does not exist; expected 0 to 0"):
        name_gate(layer, output=1)
    with pytest.raises(InputError, match=r"tolerance 0\.5; expected 0 to below 0\.5"):
        name_gate(layer, tolerance=0.5)
    with pytest.raises(InputError, match="takes single layers"):
        name_gate(ToyModel(batch=(2,)).folded()[0])
