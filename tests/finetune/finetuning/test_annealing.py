"""Schedules, gates on their way to a line, and their folding into the weights."""

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import gelu, silu
from transformers import AutoModelForCausalLM

from bilinear_lm import InputError, mlp_tensor
from bilinear_lm.glus import bilinear_glus, find_glus
from finetune.choices import Schedule
from finetune.finetuning.annealing import AnnealedGate, anneal_gates, annealed_gates, fold_gates, linearity

from ...bilinear_lm.tiny_families import ACTIVATION, gated

in_each = pytest.mark.parametrize("family", ACTIVATION)
IDS = torch.randint(1, 64, (3, 10), generator=torch.Generator().manual_seed(0))


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("k", [0.5, 1.0, 1.4])
def test_schedules_rise_from_0_to_1_and_stay(schedule, k):
    steps = [linearity(schedule, step / 200, k) for step in range(301)]
    assert steps[0] == 0.0
    assert steps[200:] == [1.0] * 101
    assert all(before <= after for before, after in pairwise(steps))
    assert linearity(schedule, -0.5, k) == 0.0


def test_schedules_by_hand():
    assert linearity("linear", 0.3) == 0.3
    assert linearity("exponential", 0.5, 1.0) == pytest.approx(0.5 * math.exp(0.5))
    assert linearity("exponential", 0.5, 0.5) == pytest.approx(0.5 * math.exp(0.25))
    assert linearity("exponential", 0.9, 1.4) == 1.0
    assert linearity("logistic", 0.5) == pytest.approx(0.5)
    assert linearity("smootherstep", 0.5) == pytest.approx(0.5)
    assert linearity("smootherstep", 0.25) == pytest.approx(6 / 4**5 - 15 / 4**4 + 10 / 4**3)


def at(activation, far, **options):
    gate = AnnealedGate(activation, **options)
    gate.linearity = far
    return gate


GRID = torch.linspace(-20, 20, 801, dtype=torch.float64)


def test_silu_at_both_ends():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(at(silu, 0.0)(x), silu(x))
    assert torch.equal(at(silu, 1.0)(x), x / 2)


@settings(max_examples=30, deadline=None)
@given(far=st.one_of(st.floats(0.0, 1.0), st.sampled_from([1 - 1e-3, 1 - 1e-6, 1 - 1e-12])))
def test_silu_is_swish_and_so_is_its_gradient(far):
    gate, beta = at(silu, far), 1 - far
    x, y = (GRID.clone().requires_grad_() for _ in range(2))
    out, swish = gate(x), y * torch.sigmoid(beta * y)
    torch.testing.assert_close(out, swish, rtol=1e-12, atol=1e-14)
    weights = torch.randn(len(GRID), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (out * weights).sum().backward()
    (swish * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("far", [0.3, 1 - 1e-3, 1 - 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silu_in_working_precision(far, dtype):
    x = GRID.to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    out = at(silu, far)(x)
    (exact * torch.sigmoid((1 - far) * exact)).sum().backward()
    out.sum().backward()
    tolerance = 4 * torch.finfo(dtype).eps
    assert out.dtype == dtype
    expected = exact * torch.sigmoid((1 - far) * exact)
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("activation", "slope"), [(gelu, 0.5), (torch.relu, 0.5), (torch.tanh, 1.0)])
def test_other_activations_move_to_their_line(activation, slope):
    for far in (0.0, 0.25, 1.0):
        expected = (1 - far) * activation(GRID) + far * slope * GRID
        torch.testing.assert_close(at(activation, far)(GRID), expected, rtol=1e-12, atol=1e-12)


def test_a_factor_of_each_unit_is_trained():
    scale = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
    gate = at(silu, 0.5, scale=scale)
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    torch.testing.assert_close(gate(x), x * torch.sigmoid(x / 2) * torch.tensor([1.0, 3.0]))
    gate(x).sum().backward()
    torch.testing.assert_close(scale.grad, (x * torch.sigmoid(x / 2)).sum(dim=0))


@in_each
@pytest.mark.parametrize("learnable", [False, True])
def test_nothing_changes_at_first_nor_by_folding(family, learnable, tmp_path):
    model = gated(family)
    before = logits(model)
    gates = anneal_gates(model, learnable=learnable)
    assert len(gates) == 2
    assert annealed_gates(model) == gates
    torch.testing.assert_close(logits(model), before, rtol=1e-6, atol=1e-6)
    generator = torch.Generator().manual_seed(4)
    for gate in gates:
        gate.linearity = 1.0
        if learnable:
            gate.scale.data.uniform_(0.5, 2, generator=generator)
    annealed = logits(model)
    assert not torch.allclose(annealed, before, rtol=1e-3)
    fold_gates(model)
    assert annealed_gates(model) == ()
    assert bilinear_glus(find_glus(model)) == find_glus(model)
    bound = 1e-5 * float(annealed.abs().max())
    torch.testing.assert_close(logits(model), annealed, rtol=1e-5, atol=bound)
    model.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert getattr(again.config, "hidden_activation" if family == "Gemma2" else "hidden_act") == "linear"
    torch.testing.assert_close(logits(again), annealed, rtol=1e-5, atol=bound)
    mlp_tensor(again, 0)


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_pytorch_tanh"])
def test_other_activations_fold(activation):
    model = gated("Llama", activation=activation)
    for gate in anneal_gates(model):
        gate.linearity = 1.0
    annealed = logits(model)
    fold_gates(model)
    torch.testing.assert_close(logits(model), annealed, rtol=1e-5, atol=1e-5)


def test_gates_that_are_not_there_yet_are_not_folded():
    model = gated("Llama")
    gates = anneal_gates(model)
    gates[1].linearity = 1.0
    gates[0].linearity = 0.25
    with pytest.raises(InputError, match="1 of 2 gates have come 25% of the way to linear; train on"):
        fold_gates(model)
    assert model.config.hidden_act == "silu"
