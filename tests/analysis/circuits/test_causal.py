"""Interventions: a graph that leaves nothing out predicts the held model exactly; controls; refusals."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from analysis.circuits.agreement import Intervention, patch_node, scale_nodes, steer_node
from analysis.circuits.attribution import attribute
from analysis.circuits.causal import causal_check
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.targets import (
    DirectionTarget,
    EigenvectorTarget,
    FeatureTarget,
    LogitTarget,
    ScoreTarget,
)
from analysis.interventions.frozen import frozen
from analysis.paths.measured import measure
from analysis.plots import causal_plot, save_figure
from bilinear_lm import InputError
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.sites import Site

from .random_dictionaries import ALL, SMALL

IDS = [3, 1, 4, 1]
U = torch.linspace(-1, 1, 8, dtype=torch.float64)


def lossless(points=("mlp-in", "mlp-out"), layers=(0, 1)):
    """Dictionaries that code everything, linearly: a change of basis with an origin."""
    torch.manual_seed(3)
    made = {}
    for layer in layers:
        for point in points:
            basis, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
            made[Site(layer, point)] = Dictionary(
                basis,
                basis.T.contiguous(),
                b_dec=torch.randn(8, dtype=torch.float64),
                b_dec_to_input=True,
                activation="topk",
                k=8,
                signed=True,
            )
    return made


@pytest.fixture
def model(family_model):
    return family_model(attention_bias=True, mlp_bias=True, **SMALL).double()


def test_a_model_that_is_held_computes_the_same(model):
    measured = measure(model, IDS)
    with frozen(model, measured), torch.no_grad():
        logits = model(torch.tensor([IDS, IDS])).logits
    assert (logits - measured.logits).abs().max() < 1e-9
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_that_is_held_is_linear_past_its_mlps(model):
    """Without MLPs, logits are linear in the embeddings."""
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.zero_()
    measured = measure(model, IDS)
    embedded = model.model.embed_tokens(torch.tensor([IDS]))
    with frozen(model, measured), torch.no_grad():
        zero, one, two = (model(inputs_embeds=embedded * factor).logits for factor in (0, 1, 2))
    assert (two - 2 * one + zero).abs().max() < 1e-9


@pytest.mark.parametrize("heads", ["paths", "nodes"])
@pytest.mark.parametrize("points", [("mlp-in", "mlp-out"), ("resid-mid", "mlp-out")])
def test_what_is_left_whole_is_predicted_exactly(model, points, heads):
    """Codes are linear and there is no error, so that the graph is the held model itself."""
    # By slope a head is read along the derivative, which is no part of the held model.
    by = "weight" if heads == "nodes" else "slope"
    prompt = open_prompt(model, IDS[:2], lossless(points))
    found = attribute(prompt, LogitTarget(7), heads=heads, by=by, **ALL)
    features = [node.id for node in found.graph.of_kind("feature", "token")][::7]
    trials = [[Intervention(node, factor)] for node in features for factor in (0.0, 1.7)]
    trials += [[Intervention(features[0]), Intervention(features[-1], -2.0)]]
    check = causal_check(model, found, trials, controls=1)
    assert (check.predicted_held - check.held).abs().max() < 1e-8
    assert check.held.abs().max() > 1e-2
    assert check.correlation_held == pytest.approx(1)


def test_interactions_are_predicted_exactly(model):
    found = attribute(open_prompt(model, IDS[:2], lossless()), LogitTarget(7), **ALL)
    nodes = [node.id for node in found.graph.of_kind("interaction")][::20]
    check = causal_check(model, found, [[Intervention(node)] for node in nodes], controls=0)
    assert (check.predicted_held - check.held).abs().max() < 1e-8
    assert check.control_free.shape == (0, len(nodes))


def test_tokens_are_predicted_exactly_without_dictionaries(model):
    for target in (
        LogitTarget(7),
        DirectionTarget(Site(1, "mlp-out"), U),
        DirectionTarget(Site(1, "mlp-in"), U),
        EigenvectorTarget(1, U, 1),
    ):
        found = attribute(open_prompt(model, IDS[:2]), target, by="weight", **ALL)
        trials = [[Intervention(node.id, 0.5)] for node in found.graph.of_kind("token")]
        check = causal_check(model, found, trials, controls=0)
        assert (check.predicted_held - check.held).abs().max() < 1e-8, target
        assert check.held.abs().min() > 1e-4, target


def test_a_score_is_predicted_exactly(model):
    found = attribute(open_prompt(model, IDS, lossless(("mlp-out",), (0,))), ScoreTarget(1, 1, 3, 1), **ALL)
    # Heads are not split in it, so that what feeds them is left as it is.
    nodes = [*found.graph.of_kind("head", "feature")][:6]
    check = causal_check(model, found, [[Intervention(node.id)] for node in nodes], controls=1)
    assert (check.predicted_held - check.held).abs().max() < 1e-6
    against = attribute(open_prompt(model, IDS), ScoreTarget(1, 1, 3, 1, against=0), **ALL)
    assert causal_check(model, against, n=3).held.isfinite().all()


def test_a_feature_as_a_target(model):
    given = lossless()
    found = attribute(open_prompt(model, IDS[:2], given), FeatureTarget(Site(1, "mlp-out"), 3), **ALL)
    nodes = [node.id for node in found.graph.of_kind("feature") if node.layer == 0][:5]
    check = causal_check(model, found, [[Intervention(node)] for node in nodes])
    assert (check.predicted_held - check.held).abs().max() < 1e-8


def test_a_graph_that_was_pruned_is_put_to_the_test(family_model):
    torch.manual_seed(1)
    given = {
        Site(layer, point): Dictionary(
            torch.randn(16, 40) / 4, torch.randn(40, 16) / 4, activation="topk", k=5
        )
        for layer in (0, 1)
        for point in ("mlp-in", "mlp-out")
    }
    model = family_model()
    found = attribute(open_prompt(model, IDS, given), LogitTarget(7), max_nodes=60)
    check = causal_check(model, found, n=10, controls=2, seed=4)
    assert len(check.trials) == len(check.predicted) == len(check.first_order) == 10
    assert check.control_held.shape == check.control_free.shape == (2, 10)
    assert check.first_order.abs()[0] == check.first_order.abs().max()
    again = causal_check(model, found, n=10, controls=2, seed=4)
    assert torch.equal(check.control_free, again.control_free)
    assert not torch.equal(check.control_free, causal_check(model, found, n=10, controls=2).control_free)
    assert check.strength > 0
    assert -1 <= check.correlation_free <= 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_small_changes_are_predicted_by_slopes(model):
    """At first order exactly, with everything free."""
    found = attribute(open_prompt(model, IDS, lossless()), LogitTarget(7), max_nodes=200)
    nodes = [node.id for kind in ("feature", "interaction") for node in found.graph.of_kind(kind)][::9]
    steps = [[Intervention(node, factor) for factor in (1 + 1e-4, 1 - 1e-4)] for node in nodes]
    check = causal_check(model, found, [[one] for pair in steps for one in pair], controls=0)
    differences, predicted = check.free[::2] - check.free[1::2], 2 * check.predicted[::2]
    # The model itself rounds norms and softmax to float32.
    assert (differences - predicted).abs().max() < 1e-2 * predicted.abs().max()
    assert torch.equal(check.predicted, check.first_order)


def test_large_changes_are_predicted_in_the_restricted_model(model):
    """Codes are linear and there is no error, so that with all features it is the model itself."""
    found = attribute(open_prompt(model, IDS[:2], lossless()), LogitTarget(7), **ALL)
    tokens = [node.id for node in found.graph.of_kind("token")]
    check = causal_check(model, found, [[Intervention(node)] for node in tokens], controls=0)
    assert (check.predicted - check.free).abs().max() < 1e-5
    assert (check.first_order - check.free).abs().max() > 1e-2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_agreement_by_kind(model):
    found = attribute(open_prompt(model, IDS, lossless()), LogitTarget(7), max_nodes=100)
    check = causal_check(model, found, n=4, each_kind=True, controls=2)
    assert {"feature", "interaction", "token"} <= set(check.kinds)
    assert max(Counter(check.kinds).values()) == 4
    for kind in set(check.kinds):
        rows = [row for row, own in enumerate(check.kinds) if own == kind]
        p, m = check.predicted[rows].numpy(), check.free[rows].numpy()
        agreement = check.agreement(kind)
        assert agreement.n == len(rows)
        assert agreement.slope == pytest.approx((p @ m) / (p @ p))
        assert agreement.size == pytest.approx(np.sqrt((m @ m) / (p @ p)))
        if len(rows) > 2:
            assert agreement.correlation == pytest.approx(np.corrcoef(p, m)[0, 1])
    numbers = check.summary()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["feature"]["n"] == 4
    by_node = check.by_node()
    assert json.loads(json.dumps(by_node)) == by_node
    assert list(by_node) == [trial[0].node for trial in check.trials]
    last = by_node[check.trials[-1][0].node]
    pairs = (("predicted", "free"), ("predicted_held", "held"))
    assert [last[name] for pair in pairs for name in pair] == [
        float(getattr(check, name)[-1]) for pair in pairs for name in pair
    ]
    assert last["random_free"] == check.control_free[:, -1].tolist()
    assert last["random_held"] == check.control_held[:, -1].tolist()
    with pytest.raises(InputError, match="kind 'head'; expected one of "):
        check.agreement("head")
    with pytest.raises(InputError, match=r"a check of 1000 nodes; expected at most the \d+ .* of one kind"):
        causal_check(model, found, n=1000, each_kind=True)
    assert len(causal_check(model, found, controls=0).trials) == 20


def test_sets_of_nodes_are_scaled_and_steered(model):
    found = attribute(open_prompt(model, IDS[:2], lossless()), LogitTarget(7), **ALL)
    nodes = [node.id for node in found.graph.of_kind("feature")][:3]
    trial = scale_nodes(found.graph, nodes, 0.5)
    assert trial == tuple(Intervention(node, 0.5) for node in nodes)
    value = found.graph.node(nodes[0]).value
    steered = steer_node(found.graph, nodes[0], 2.0)
    assert steered.factor * value == pytest.approx(value + 2)
    check = causal_check(model, found, [trial, [steered, *trial[1:]]], controls=1)
    assert check.kinds == ("feature", "feature")
    assert (check.predicted_held - check.held).abs().max() < 1e-8


def test_random_nodes_have_equal_weight(model):
    """A direction at the end reads all that is written there, so that lengths can be told."""
    found = attribute(open_prompt(model, IDS, lossless()), DirectionTarget(Site(1, "resid-post"), U), **ALL)
    node = next(node for node in found.graph.of_kind("feature") if node.site == "1-mlp-out")
    write = found.writes[node.id]
    length = float(write.vector.norm())
    check = causal_check(model, found, [[Intervention(node.id)]], controls=20)
    basis = found.prompt.layers[1].outputs.dictionary.decoder
    assert write.site == Site(1, "mlp-out")
    possible = -length * (basis @ U)
    assert all(bool((possible - change).abs().min() < 1e-8) for change in check.control_held[:, 0])
    assert len(check.control_held.unique()) > 3


def test_patching_gives_a_node_another_value(model):
    found = attribute(open_prompt(model, IDS[:2], lossless()), LogitTarget(7), **ALL)
    node = found.graph.of_kind("feature")[3]
    assert patch_node(found.graph, node.id, 2 * node.value) == Intervention(node.id, 2.0)
    with pytest.raises(InputError, match="'token 1 @1' has the value None"):
        patch_node(found.graph, "token 1 @1", 1.0)


def test_interventions_that_cannot_be(model):
    found = attribute(open_prompt(model, IDS[:2], lossless()), LogitTarget(7), max_nodes=60)
    bias = found.graph.of_kind("bias")[0].id
    for trials, message in (
        ([], "no interventions"),
        ([[]], "no interventions"),
        ([[Intervention(bias)]], "cannot be intervened on"),
        ([[Intervention(found.graph.target)]], "cannot be intervened on"),
        ([[Intervention("x")]], "node 'x' is not in the graph"),
    ):
        with pytest.raises(InputError, match=message):
            causal_check(model, found, trials)
    with pytest.raises(InputError, match="controls=-1; expected 0 or more"):
        causal_check(model, found, controls=-1)


def test_a_figure_of_it(model, tmp_path):
    found = attribute(open_prompt(model, IDS[:2], lossless()), LogitTarget(7), max_nodes=60)
    figure = causal_plot(causal_check(model, found, n=5))
    left, right = figure.axes
    assert left.get_xlabel() == "predicted change"
    assert right.get_ylabel() == "|change|, all free"
    save_figure(figure, tmp_path / "causal.svg")
    text = (tmp_path / "causal.svg").read_text()
    assert "patterns and scales held (r = " in text
    assert "5 interventions on nodes" in text
