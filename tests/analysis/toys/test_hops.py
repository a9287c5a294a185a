"""Hops: every composition of two gates by two, weights that are trained, what is not identified, refusals."""

import itertools

import pytest
import torch

from analysis.toys.hops import (
    find_hops,
    gate_values,
    hops_of,
    second_layer_signals,
    share_in_span,
)
from analysis.toys.multilinear import coefficients_of
from bilinear_lm.errors import InputError
from bilinear_lm.networks.gates import NAMES, boolean_inputs, truth_table
from bilinear_lm.networks.toy import ToyModel, ToySettings
from bilinear_lm.tensor import BilinearTensor

ZERO_AT_00 = ("AND", "A AND NOT B", "B AND NOT A", "XOR", "OR")
"""The gates that read both inputs and are 0 where both are; the other five are their complements."""


def composed(n, pairs, gates, output) -> torch.Tensor:
    """The truth table of a composition, written out."""
    table = []
    for bits in itertools.product((0, 1), repeat=n):
        values = [truth_table(g)[2 * bits[i] + bits[j]] for g, (i, j) in zip(gates, pairs, strict=True)]
        table.append(float(truth_table(output)[int(2 * values[0] + values[1])]))
    return torch.tensor(table, dtype=torch.float64)


def without_complements(gates, output) -> tuple[list[str], str]:
    """Gates that are 0 at 00, and the output gate that makes up for it."""
    tables, joined = [truth_table(gate) for gate in gates], truth_table(output).reshape(2, 2)
    for axis, table in enumerate(tables):
        if table[0]:
            tables[axis], joined = 1 - table, joined.flip(axis)
    numbers = [int("".join(str(int(v)) for v in t.flatten().tolist()), 2) for t in (*tables, joined)]
    names = [NAMES[2][number] for number in numbers]
    return names[:2], names[2]


@pytest.mark.parametrize(("output", "identified"), [("AND", 16), ("OR", 24), ("XOR", 24)])
def test_hops_are_those_of_the_truth_wherever_they_are_identified(output, identified):
    """Ambiguous are parities, and ANDs of four literals up to complements, which can be grouped in any way.

    Gates that are 1 at 00 are these with another output gate; other outputs are complements of these or these
    with a complement inside.
    """
    counted = 0
    for gates in itertools.product(ZERO_AT_00, repeat=2):
        found = hops_of(coefficients_of(composed(4, ((0, 1), (2, 3)), gates, output)))
        if {*gates, output} == {"XOR"} or not found.identified:
            assert not found.identified
            assert len(found.hops) == 6
            continue
        counted += 1
        assert [hop.inputs for hop in found.hops] == [(0, 1), (2, 3)]
        assert [hop.gate for hop in found.hops] == [*gates]
        assert found.output.name == output
    assert counted == identified


@pytest.mark.parametrize(("gates", "output"), [(("NAND", "XNOR"), "OR"), (("OR", "NOR"), "XNOR")])
def test_gates_that_are_1_at_00_are_found_as_their_complements(gates, output):
    found = hops_of(coefficients_of(composed(4, ((0, 1), (2, 3)), gates, output)))
    names, joined = without_complements(gates, output)
    assert [hop.gate for hop in found.hops] == names
    assert found.output.name == joined


def test_a_literal_of_four_is_ambiguous_and_others_are_not():
    assert not hops_of(coefficients_of(composed(4, ((0, 1), (2, 3)), ("AND", "AND"), "AND"))).identified
    assert hops_of(coefficients_of(composed(4, ((0, 1), (2, 3)), ("AND", "AND"), "OR"))).identified


def test_inputs_that_are_not_read_are_none_of_the_hops():
    found = hops_of(coefficients_of(composed(6, ((4, 1), (0, 5)), ("XOR", "A AND NOT B"), "NOR")))
    assert [hop.inputs for hop in found.hops] == [(0, 5), (1, 4)]
    assert [hop.gate for hop in found.hops] == ["A AND NOT B", "XOR"]
    assert found.output.name == "NOR"
    assert "XOR of 1, 4" in repr(found)


def two_layers(pairs, gates, output) -> tuple[BilinearTensor, BilinearTensor]:
    """Layers with biases whose hidden units are random mixtures of the two gates."""
    mix = torch.randn(2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_gates, x_ins, outs = [], [], []
    for row, ((i, j), gate) in enumerate(zip(pairs, gates, strict=True)):
        g00, g01, g10, g11 = truth_table(gate).tolist()
        for a, b, weight in (
            (4, 4, g00),
            (i, 4, g10 - g00),
            (j, j, g01 - g00),
            (i, j, g11 - g10 - g01 + g00),
        ):
            x_gates.append(torch.eye(5).double()[a])
            x_ins.append(torch.eye(5).double()[b])
            outs.append(weight * torch.eye(2).double()[row])
    first = BilinearTensor(
        torch.stack(x_gates, 1), torch.stack(x_ins, 1), torch.stack(outs) @ mix, constant=True
    )
    G00, G01, G10, G11 = truth_table(output).tolist()
    eye = torch.eye(3).double()
    gate, up = (
        torch.stack([eye[2], eye[0], eye[1], eye[0]], 1),
        torch.stack([eye[2], eye[2], eye[1], eye[1]], 1),
    )
    W_out = torch.tensor([G00, G10 - G00, G01 - G00, G11 - G10 - G01 + G00], dtype=torch.float64)[:, None]
    unmix = torch.block_diag(torch.linalg.inv(mix), torch.eye(1).double())
    return first, BilinearTensor(unmix @ gate, unmix @ up, W_out, constant=True)


def test_mixed_hidden_units_hide_no_hop():
    first, second = two_layers(((0, 2), (1, 3)), ("XOR", "OR"), "AND")
    found = find_hops(first, second)
    assert [(hop.inputs, hop.gate) for hop in found.hops] == [((0, 2), "XOR"), ((1, 3), "OR")]
    assert found.output.name == "AND"
    signals = second_layer_signals(first, second)
    values = torch.stack([gate_values(hop, 4) for hop in found.hops])
    torch.testing.assert_close(share_in_span(values, signals), torch.ones(2, dtype=torch.float64))


def test_signals_squared_are_the_output():
    first, second = ToyModel(ToySettings(4, d_mlp=5, n_layers=2)).double().requires_grad_(False).folded()
    x = boolean_inputs(4)
    signals = second_layer_signals(first, second, threshold=0.0)
    columns = signals.square().T
    weights = torch.linalg.lstsq(columns, second(first(x))).solution
    torch.testing.assert_close(columns @ weights, second(first(x)))
    assert len(signals) <= 6


def test_shares_are_those_of_least_squares():
    draws = torch.Generator().manual_seed(0)
    values, signals = (torch.randn(k, 16, generator=draws, dtype=torch.float64) for k in (3, 4))
    columns = torch.cat([torch.ones(1, 16).double(), signals]).T
    rest = values.T - columns @ torch.linalg.lstsq(columns, values.T).solution
    expected = 1 - rest.square().sum(0) / (values - values.mean(-1, keepdim=True)).square().sum(-1)
    torch.testing.assert_close(share_in_span(values, signals), expected)
    assert share_in_span(torch.ones(1, 16).double(), signals).tolist() == [0.0]


def test_untrained_models_have_no_hops():
    for seed in range(20):
        draws = torch.Generator().manual_seed(seed)
        found = find_hops(*ToyModel(ToySettings(4, n_layers=2), (), draws).double().folded())
        assert not found.hops
        assert not found.identified


@pytest.mark.usefixtures("without_shape_checks")
def test_refusals():
    first, second = two_layers(((0, 1), (2, 3)), ("AND", "OR"), "OR")
    with pytest.raises(InputError, match="output 1 does not exist"):
        find_hops(first, second, output=1)
    with pytest.raises(InputError, match=r"tolerance 0\.5; expected 0 to below 0\.5"):
        find_hops(first, second, tolerance=0.5)
    with pytest.raises(InputError, match="takes single layers"):
        find_hops(*ToyModel(ToySettings(4, n_layers=2), (2,)).folded())
    with pytest.raises(InputError, match="values on 8 inputs and signals on 16; expected the same"):
        share_in_span(torch.zeros(1, 8), torch.zeros(1, 16))
