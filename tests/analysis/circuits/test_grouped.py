"""Interactions that are grouped by their inputs: nothing is lost, and each can be opened again."""

import json
from collections import defaultdict

import pytest

from analysis import load_graph, save_graph
from analysis.circuits.attribution import attribute
from analysis.circuits.opened import open_interactions
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.targets import LogitTarget
from analysis.graphs.effects import completeness, effects
from bilinear_lm.errors import InputError

from .random_dictionaries import ALL, IDS, MODELS, SMALL, dictionaries
from .test_causal import lossless
from .test_slopes import gap

GROUPED = ALL | {"interactions": "grouped"}


@pytest.fixture(scope="module")
def prompt(family_model):
    model = family_model(**SMALL | MODELS["biases"]).double()
    return open_prompt(model, IDS[:4], dictionaries(("mlp-in", "mlp-out")))


@pytest.fixture(scope="module", params=["slope", "weight"])
def both(prompt, request):
    """The graph with each interaction as a node, and with the weak ones grouped; nothing pruned."""
    return [attribute(prompt, LogitTarget(7), by=request.param, **each) for each in (ALL, GROUPED)]


@pytest.mark.parametrize("norms", ["followed", "held"])
@pytest.mark.parametrize("name", ["biases", "norms behind and soft caps"])
@pytest.mark.parametrize("points", [("mlp-in", "mlp-out"), ("resid-mid", "mlp-out")])
def test_edges_carry_the_derivative_of_the_model(family_model, name, points, norms):
    model = family_model(**SMALL | MODELS[name]).double()
    found = attribute(open_prompt(model, IDS[:2], lossless(points)), LogitTarget(7), norms=norms, **GROUPED)
    assert any(edge.grouped for edge in found.graph.edges)
    assert gap(found, "token", "feature") < 1e-9
    assert completeness(found.graph).largest < 1e-8


def test_the_same_derivative_in_fewer_nodes(both):
    pairs, grouped = (one.graph for one in both)
    for by in ("slope", "weight"):
        before, after = effects(pairs, by), effects(grouped, by)
        assert all(after[node.id] == pytest.approx(before[node.id], abs=1e-10) for node in grouped.nodes)
    assert 0 < len(grouped.of_kind("interaction")) < len(pairs.of_kind("interaction")) / 2
    assert completeness(grouped).largest < 1e-9


def test_opened_interactions_are_those_of_the_whole_graph(both):
    pairs, grouped = (one.graph for one in both)
    output = next(node.id for node in grouped.nodes if node.id in both[1].readers)
    opened = open_interactions(both[1], output, k=10**6)
    sizes = [abs(one.slope if grouped.by == "slope" else one.weight) for one in opened]
    assert sizes == sorted(sizes, reverse=True)
    halves = defaultdict(float)
    for one in opened:
        ends = {one.left.id, one.right.id}
        (edge,) = (
            edge
            for edge in pairs.into(output)
            if pairs.node(edge.source).kind == "interaction"
            and {inner.source for inner in pairs.into(edge.source)} == ends
        )
        assert (one.weight, one.slope) == pytest.approx((edge.weight, edge.slope), abs=1e-12)
        assert one.in_graph == (edge.source in grouped)
        for end in ends if not one.in_graph else ():
            halves[end] += one.weight / len(ends)
    for edge in grouped.into(output):
        assert edge.grouped == pytest.approx(halves[edge.source], abs=1e-12)
    source = next(edge.source for edge in grouped.into(output) if edge.grouped)
    assert {one for one in opened if source in (one.left.id, one.right.id)} == set(
        open_interactions(both[1], output, source, k=10**6)
    )


@pytest.mark.parametrize("max_nodes", [5, 30, 80])
def test_what_has_no_room_is_grouped_and_adds_up(prompt, max_nodes):
    graph = attribute(prompt, LogitTarget(7), max_nodes=max_nodes, interactions="grouped").graph
    assert len(graph) <= max_nodes
    assert completeness(graph).node_gap < 1e-9
    pairs = attribute(prompt, LogitTarget(7), max_nodes=max_nodes, interactions="pairs").graph
    assert graph.followed("slope") > pairs.followed("slope") - (max_nodes == 5)


def test_pruned_interactions_join_the_edges_of_their_inputs(both):
    graph = both[1].graph
    kept = {node.id for node in graph.nodes if node.kind != "interaction"}
    smaller = graph.subgraph(kept).graph
    assert smaller.of_kind("interaction") == ()
    assert completeness(smaller).largest < 1e-9
    assert smaller.pruned == graph.pruned
    before, after = effects(graph, "weight"), effects(smaller, "weight")
    assert all(after[node] == pytest.approx(before[node], abs=1e-10) for node in kept)
    gone = next(node.id for node in graph.nodes if node.site == "1-mlp-in")
    assert completeness(graph.subgraph({*graph._by_id} - {gone}).graph).node_gap < 1e-9


def test_files_keep_what_is_grouped_and_older_ones_load(both, tmp_path):
    graph = both[1].graph
    save_graph(graph, tmp_path / "graph.json")
    assert load_graph(tmp_path / "graph.json") == graph
    older = json.loads((tmp_path / "graph.json").read_text()) | {"version": 2}
    older["edges"] = [edge[:4] for edge in older["edges"]]
    (tmp_path / "older.json").write_text(json.dumps(older))
    assert not any(edge.grouped for edge in load_graph(tmp_path / "older.json").edges)


def test_no_such_interactions(both):
    with pytest.raises(InputError, match="does not read the output of an MLP"):
        open_interactions(both[1], both[1].graph.target)
    output = next(iter(both[1].readers))
    with pytest.raises(InputError, match="not in the graph"):
        open_interactions(both[1], output, "0-mlp-in 999 @0")
    with pytest.raises(InputError, match="k=0"):
        open_interactions(both[1], output, k=0)
