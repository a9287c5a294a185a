"""Slopes: exact derivatives of the model by edges and nodes, with norms and attention held or followed."""

from dataclasses import replace

import pytest
import torch

from analysis.circuits.attribution import attribute
from analysis.circuits.causal import changed_values
from analysis.circuits.prompt.gradients import slopes, target_gradients
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.targets import (
    DirectionTarget,
    EigenvectorTarget,
    FeatureTarget,
    LogitTarget,
    ScoreTarget,
)
from analysis.graphs.effects import carried, completeness, effects
from analysis.interventions.frozen import exact_in_float64
from bilinear_lm.sites import Site

from .random_dictionaries import ALL, IDS, MODELS, SMALL, dictionaries
from .test_causal import lossless

FROZEN = [("followed", "held"), ("held", "followed"), ("held", "held")]
U = torch.linspace(-1, 1, 8, dtype=torch.float64)
TARGETS = {
    "logit": LogitTarget(7, (2, 3)),
    "mlp-out": DirectionTarget(Site(1, "mlp-out"), U),
    "mlp-in": DirectionTarget(Site(1, "mlp-in"), U, 1),
    "stream": DirectionTarget(Site(1, "resid-mid"), U),
    "eigenvector": EigenvectorTarget(1, U, 1),
}


@pytest.fixture(params=["biases", "queries and keys normalised", "norms behind and soft caps"])
def varied(family_model, request):
    return family_model(**SMALL | MODELS[request.param])


def gap(found, *kinds):
    """The largest difference of what edges carry, from the target down, and the derivative of the model with
    norms and attention free or held as the edges hold them."""
    graph, settings = found.graph, found.graph.settings
    prompt = found.prompt.holding_norms() if settings["norms"] == "held" else found.prompt
    gradients = target_gradients(prompt, found.target, attention_held=settings["attention"] == "held")
    expected = slopes(prompt, gradients, found.writes, graph.of_kind("score"))
    by_edges = [replace(node, slope=node.value if node.id == graph.target else None) for node in graph.nodes]
    edges = carried(replace(graph, nodes=tuple(by_edges)))
    nodes = graph.of_kind(*kinds)
    assert nodes
    return max(abs(edges[node.id] - expected[node.id]) for node in nodes)


def test_edges_carry_the_derivative_of_the_model(model):
    found = attribute(open_prompt(model.double(), IDS[:3]), TARGETS["logit"], attention="followed", **ALL)
    assert gap(found, "token", "score") < 1e-9
    assert completeness(found.graph).largest < 1e-9


@pytest.mark.parametrize("name", ["biases", "norms behind and soft caps", "norms behind alone"])
@pytest.mark.parametrize(("norms", "attention"), FROZEN)
def test_edges_carry_the_derivative_of_the_model_held(family_model, name, norms, attention):
    prompt = open_prompt(family_model(**SMALL | MODELS[name]).double(), IDS[:2])
    found = attribute(prompt, TARGETS["logit"], norms=norms, attention=attention, **ALL)
    assert gap(found, "token", *(["score"] if attention == "followed" else [])) < 1e-9
    assert completeness(found.graph).largest < 1e-9


@pytest.mark.parametrize("target", [LogitTarget(7), FeatureTarget(Site(0, "mlp-out"), 3)])
def test_slopes_of_nodes_are_the_model_s_own(varied, target):
    """Whatever the edges hold."""
    prompt = open_prompt(varied.double(), IDS[:2], lossless())
    free = attribute(prompt, target, attention="followed", **ALL)
    assert gap(free, "token", "feature") < 1e-9
    held = attribute(prompt, target, norms="held", **ALL)
    for node in held.graph.of_kind("token", "feature"):
        assert node.slope == pytest.approx(free.graph.node(node.id).slope, abs=1e-12)
    assert effects(held.graph)[held.graph.target] == held.graph.node(held.graph.target).value


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_all_kinds(varied, name):
    prompt = open_prompt(varied.double(), IDS[:2])
    assert gap(attribute(prompt, TARGETS[name], attention="followed", **ALL), "token", "score") < 1e-9


@pytest.mark.parametrize("against", [None, 0])
def test_a_score_as_a_target(varied, against):
    """What is below it is not split, so that what writes to its streams from the layer before is compared."""
    given = lossless(("mlp-out",), (0,))
    target = ScoreTarget(1, 1, 2, 1, against)
    found = attribute(open_prompt(varied.double(), IDS[:3], given), target, **ALL)
    assert gap(found, "feature", "error") < 1e-9
    assert completeness(found.graph).largest < 1e-9


@pytest.mark.parametrize(("norms", "attention"), [("followed", "followed"), ("held", "held")])
@pytest.mark.parametrize("points", [("mlp-in", "mlp-out"), ("resid-mid", "mlp-out")])
def test_features_without_errors(varied, points, norms, attention):
    """Codes are linear and there is no error, so that the graph is the model at first order."""
    prompt = open_prompt(varied.double(), IDS[:2], lossless(points))
    found = attribute(prompt, LogitTarget(7), norms=norms, attention=attention, **ALL)
    assert gap(found, "token", "feature", "interaction") < 1e-9
    assert completeness(found.graph).largest < 1e-8


@pytest.mark.parametrize("site", ["0-mlp-out", "1-mlp-in"])
def test_a_feature_as_a_target(varied, site):
    prompt = open_prompt(varied.double(), IDS[:2], lossless())
    found = attribute(prompt, FeatureTarget(Site.parse(site), 3), attention="followed", **ALL)
    assert gap(found, "token", "feature") < 1e-9


@pytest.mark.parametrize("norms", ["followed", "held"])
def test_heads_as_nodes(varied, norms):
    prompt = open_prompt(varied.double(), IDS[:2], lossless())
    found = attribute(prompt, LogitTarget(7), norms=norms, attention="followed", heads="nodes", **ALL)
    assert gap(found, "token", "feature", "score") < 1e-9


def test_slopes_of_features_that_leave_errors(varied):
    """By finite differences of the model, active sets and all."""
    prompt = open_prompt(varied.double(), IDS[:3], dictionaries(("mlp-in", "mlp-out")))
    found = attribute(prompt, LogitTarget(7, (2, 3)), **ALL)
    nodes = [*found.graph.of_kind("feature")][::5] + [*found.graph.of_kind("interaction")][::60]
    slopes = effects(found.graph)
    for node in nodes:
        assert slopes[node.id] == pytest.approx(by_differences(found, node.id), rel=1e-4, abs=1e-7)


def by_differences(found, node, step=1e-3):
    write, prompt = found.writes[node], found.prompt
    values = []
    for sign in (1, -1):
        change = [replace(write, vector=sign * step * write.slope)]
        with torch.no_grad(), exact_in_float64(prompt.module):
            values.append(float(changed_values(prompt.module, found, [change], held=False)))
    return (values[0] - values[1]) / (2 * step)


def test_what_is_chosen_by_weight_is_what_was(varied):
    """The same contributions, whatever they are chosen by, where all are there."""
    prompt = open_prompt(varied.double(), IDS[:2], lossless())
    by_weight, by_slope = (
        attribute(prompt, LogitTarget(7), by=by, **ALL).graph for by in ("weight", "slope")
    )
    ours, theirs = effects(by_weight, "weight"), effects(by_slope, "weight")
    # What adds nothing but rounding is in one of them alone.
    assert max(abs(ours[node] - theirs.get(node, 0.0)) for node in ours) < 1e-9
    assert (by_weight.by, by_slope.by) == ("weight", "slope")


def test_what_is_left_out_is_counted_in_both(varied):
    prompt = open_prompt(varied.double(), IDS, dictionaries(("mlp-in", "mlp-out")))
    for by in ("slope", "weight"):
        found = attribute(prompt, LogitTarget(7), share=0.7, max_nodes=60, by=by, interactions="pairs").graph
        assert completeness(found).node_gap < 1e-9
        whole = attribute(prompt, LogitTarget(7), by=by, **ALL).graph
        for node in found.nodes:
            if node.id in found.pruned and node.kind != "interaction":
                sums = [
                    sum(edge.slope for edge in graph.into(node.id)) + graph.pruned[node.id].slope
                    for graph in (found, whole)
                ]
                assert sums[0] == pytest.approx(sums[1], abs=1e-9)
                size = sum(abs(edge.slope) for edge in found.into(node.id))
                assert size + found.pruned[node.id].absolute_slope >= abs(sums[0]) - 1e-9
