"""Edits of interactions: what they change, what they leave, and that nothing exceeds the bounds."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilinear_lm import InputError, mlp_tensor
from finetune import Edit, edit, interaction
from finetune.editing.units import Units

from ..bilinear_lm.tiny_families import tiny_family

D = 16


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coefficient(model, layer, u, left, right):
    """∂²/∂a∂b of u · MLP(a left + b right) by autograd of the module itself; of a² where left is right."""
    mlp = copy.deepcopy(model.model.layers[layer].mlp).double()

    def value(c):
        x = c[0] * left.double() + (0 if left is right else c[1] * right.double())
        return mlp(x) @ u.double()

    hessian = torch.autograd.functional.hessian(value, torch.zeros(2, dtype=torch.float64))
    return float(hessian[0, 0] / 2 if left is right else hessian[0, 1])


@pytest.fixture
def model(make_model):
    return make_model(mlp_bias=True)


def test_interactions_get_what_was_asked_for(model):
    """Of several in one layer, whatever their units do to each other; by autograd."""
    u, w, a, b, c = drawn(5, D)
    pairs = [(u, (a, b)), (u, (a, a)), (w, (b, c))]
    before = [interaction(model, 1, out, inputs) for out, inputs in pairs]
    for found, (out, inputs) in zip(before, pairs, strict=True):
        assert found == pytest.approx(coefficient(model, 1, out, *inputs), abs=1e-6)
    old = copy.deepcopy(model)
    changes = [-before[0], 0.5, -2 * before[2]]
    edits = [Edit(1, *pair, change) for pair, change in zip(pairs, changes, strict=True)]
    report = edit(model, edits)
    wanted = [0.0, before[1] + 0.5, -before[2]]
    for done, (out, inputs), value in zip(report.interactions, pairs, wanted, strict=True):
        assert done.after == pytest.approx(value, abs=1e-6)
        assert coefficient(model, 1, out, *inputs) == pytest.approx(value, abs=1e-6)
    assert (report.n_units, report.d_mlp, model.config.intermediate_size) == (3, 27, 27)
    x = drawn(50, D, dtype=torch.float32)
    with torch.inference_mode():
        assert torch.equal(model.model.layers[0].mlp(x), old.model.layers[0].mlp(x))


def test_what_is_orthogonal_stays(model):
    """Directions without a part along what is written, and inputs that the readers do not see."""
    u, written, a, b, kept = drawn(5, D, dtype=torch.float32)
    old = copy.deepcopy(model)
    edit(model, [Edit(1, u, (a, b), 0.7, written=written, keep=kept.unsqueeze(0))])
    x = drawn(200, D, seed=1, dtype=torch.float32)
    with torch.inference_mode():
        change = model.model.layers[1].mlp(x) - old.model.layers[1].mlp(x)
        across = change - (change @ written).unsqueeze(1) * written / (written @ written)
        assert across.abs().max() < 1e-5 < change.abs().max() / 100
        along_kept = model.model.layers[1].mlp(3 * kept) - old.model.layers[1].mlp(3 * kept)
        assert along_kept.abs().max() < 1e-5


@pytest.mark.parametrize("family", ["Qwen2", "Phi3"])
def test_other_families(family):
    model = tiny_family(family)
    width = model.config.hidden_size
    u, a, b = drawn(3, width)
    old = copy.deepcopy(model)
    report = edit(model, [Edit(0, u, (a, b), 0.3)])
    assert report.interactions[0].after - report.interactions[0].before == pytest.approx(0.3, abs=1e-6)
    again = type(model)(model.config)
    again.load_state_dict(model.state_dict())
    ids = torch.arange(10).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)
        assert not torch.allclose(model(ids).logits, old.eval()(ids).logits, atol=1e-4)


def test_bounds_hold_in_the_model(model):
    """At inputs of the norm's ball, by the weights before and after; attained where the bound is."""
    u, a, b, c, w = drawn(5, D)
    old = copy.deepcopy(model)
    report = edit(model, [Edit(1, u, (a, b), 0.8), Edit(1, w, (c, c), -0.4)])
    new, tensor = (mlp_tensor(each, 1).to(torch.float64) for each in (model, old))
    z = math.sqrt(D) * torch.nn.functional.normalize(drawn(20_000, D, seed=2), dim=1)
    change = new(z) - tensor(z)
    for done, direction in zip(report.interactions, (u, w), strict=True):
        reached = change @ direction
        assert done.low - 1e-6 <= reached.min() < 0 < reached.max() <= done.high + 1e-6
        Q = (new.interaction_matrix(direction) - tensor.interaction_matrix(direction))[:D, :D]
        values = np.linalg.eigvalsh(Q.numpy())
        assert (done.low, done.high) == pytest.approx((D * values[0], D * values[-1]), rel=1e-4)
    (layer,) = report.layers
    assert float(change.norm(dim=1).max()) <= layer.high * (1 + 1e-6)
    assert layer.low <= layer.high


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_bounds_of_units(seed, n):
    """Along a direction by dense eigenvalues; over all directions nothing found by ascent exceeds them."""
    d, out = 7, 5
    units = Units(drawn(d, n, seed=seed), drawn(d, n, seed=seed + 1), drawn(n, out, seed=seed + 2))
    w = drawn(out, seed=seed + 3)
    products = np.einsum(
        "ik,jk,ko,o->ij", *(part.numpy() for part in (units.W_gate, units.W_in, units.W_out, w))
    )
    values = np.linalg.eigvalsh((products + products.T) / 2)
    assert units.range(w, 2.0) == pytest.approx((4 * min(values[0], 0), 4 * max(values[-1], 0)), abs=1e-9)
    if n == 1:
        g, v, o = units.W_gate[:, 0], units.W_in[:, 0], units.W_out[0]
        ends = [2 * float((w @ o) * (g @ v + sign * g.norm() * v.norm())) for sign in (-1, 1)]
        assert units.range(w, 2.0) == pytest.approx((min(ends), max(ends)))
    low, high = units.largest(2.0)
    z = torch.nn.functional.normalize(drawn(300, d, seed=seed + 4), dim=1)
    for _ in range(60):
        direction = torch.nn.functional.normalize(units(z), dim=1)
        scale = direction @ units.W_out.T
        step = ((z @ units.W_in) * scale) @ units.W_gate.T + ((z @ units.W_gate) * scale) @ units.W_in.T
        z = torch.nn.functional.normalize(z + 0.3 * step / step.norm(dim=1, keepdim=True), dim=1)
    best = float(4 * units(z).norm(dim=1).max())
    assert best <= high * (1 + 1e-9)
    assert low <= high
    if n == 1:
        assert best == pytest.approx(high, rel=1e-2)
    balanced = units.balanced()
    assert torch.allclose(balanced(z), units(z))


def refused(model, edits, said):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=said):
        edit(model, edits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_refusals(make_model, model):
    u, a, b, c = drawn(4, D)
    nan = a * math.nan
    for edits, said in (
        ([], "no edits"),
        ([Edit(2, u, (a, b), 1.0)], "layer 2 does not exist"),
        ([Edit(0, u[:3], (a[:3], b[:3]), 1.0)], r"output of shape \[3\]"),
        ([Edit(0, u, (a, nan), 1.0)], "NaN or infinity"),
        ([Edit(0, u, (a, b), math.nan)], "a finite number"),
        ([Edit(0, 0 * u, (a, b), 1.0)], "output direction is 0"),
        ([Edit(0, u, (a, 0 * b), 1.0)], "input direction is 0"),
        ([Edit(0, u, (a, 2 * a), 1.0)], "singular dual"),
        ([Edit(0, u, (a, b), 1.0, keep=torch.stack([c, a + b]))], "singular dual"),
        ([Edit(0, u, (a, b), 1.0, keep=drawn(D, D, seed=5))], "singular dual"),
        ([Edit(0, u, (a, b), 1.0), Edit(0, u, (b, a), 2.0)], "edited twice"),
        ([Edit(0, u, (a, b), 1.0), Edit(0, 2 * u, (a, b), 2.0)], "depend on each other"),
        ([Edit(0, u, (a, b), 1.0, written=b - (b @ u) / (u @ u) * u)], "no part along the output"),
    ):
        refused(model, edits, said)
    refused(make_model(gate="silu"), [Edit(0, u, (a, b), 1.0)], "expected a bilinear model")
    refused(tiny_family("Gemma2"), [Edit(0, u, (a, b), 1.0)], "normalises or scales")
    broken = make_model()
    broken.lm_head.weight.data[0, 0] = math.nan
    with pytest.raises(InputError, match="NaN or infinity in lm_head"):
        edit(broken, [Edit(0, u, (a, b), 1.0)])


def test_without_a_norm_the_bounds_say_so(make_model):
    u, a, b = drawn(3, D)
    assert not edit(make_model(norms=False), [Edit(0, u, (a, b), 0.1)]).bounded
    assert edit(make_model(), [Edit(-1, u, (a, b), 0.1)]).bounded
