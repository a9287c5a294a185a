"""Graphs by hand: meaning of edges, shares, pruning, files, and what other tools get."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.graphs.effects import carried, completeness, effects, predict_target
from analysis.graphs.elements import Edge, Node, Pruned
from analysis.graphs.export import to_networkx
from analysis.graphs.files import load_graph, save_graph
from analysis.graphs.graph import Graph
from analysis.graphs.nodes import (
    bias_node,
    direction_node,
    eigenvector_node,
    error_node,
    feature_node,
    head_node,
    interaction_node,
    logit_node,
    token_node,
)
from analysis.graphs.summary import summary
from bilinear_lm import InputError
from bilinear_lm.sites import Site

OUT, IN = Site(2, "mlp-out"), Site(2, "mlp-in")


def by_hand() -> Graph:
    """A logit 5 = 4 + 1.5 - 0.5 of a feature, a token and what is pruned. The feature 2 = -3 + 4.5 + 0.5 of
    an interaction of two inputs, the square of one, and a bias."""
    out = feature_node(OUT, 17, 1, value=2.0)
    left, right = feature_node(IN, 3, 1, value=3.0), feature_node(IN, 9, 1, value=-1.0)
    cross = interaction_node(out, ("3", "9"), value=-3.0)
    square = interaction_node(out, ("3", "3"), value=4.5)
    logit, token, bias = logit_node([7], position=1, value=5.0), token_node(4, 1), bias_node("2-mlp", 2)
    edges = (
        Edge(out.id, logit.id, 4.0),
        Edge(token.id, logit.id, 1.5),
        Edge(cross.id, out.id, -3.0),
        Edge(left.id, cross.id, -3.0),
        Edge(right.id, cross.id, -3.0),
        Edge(square.id, out.id, 4.5),
        Edge(left.id, square.id, 4.5),
        Edge(bias.id, out.id, 0.5),
        Edge(token.id, left.id, 3.0),
        Edge(token.id, right.id, -1.0),
    )
    return Graph(
        (logit, out, token, cross, square, left, right, bias),
        edges,
        logit.id,
        model="tiny",
        tokens=(2, 4),
        texts=("a", " b"),
        settings={"probability": 0.25},
        pruned={logit.id: Pruned(-0.5, 1.0, 3)},
    )


LOGIT, FEATURE, CROSS, SQUARE = (
    "logit 7 @1",
    "feature 2-mlp-out 17 @1",
    "interaction 2-mlp-out 17 (3, 9) @1",
    "interaction 2-mlp-out 17 (3, 3) @1",
)
LEFT, RIGHT, TOKEN, BIAS = "feature 2-mlp-in 3 @1", "feature 2-mlp-in 9 @1", "token 4 @1", "bias 2-mlp"


def test_ids_are_those_documented():
    reader = logit_node([31], position=9)
    assert reader.id == "logit 31 @9"
    assert logit_node([31], [40, 41], 9).id == "logit 31 - mean(40, 41) @9"
    assert feature_node(OUT, 17).id == "feature 2-mlp-out 17"
    assert interaction_node(feature_node(OUT, 17), ("3", "9")).id == "interaction 2-mlp-out 17 (3, 9)"
    assert error_node(IN, 5).id == "error 2-mlp-in @5"
    assert head_node(1, 3, reader, 5, 2).id == "head 1.3 @5<-2 > logit 31 @9"
    assert head_node(1, 3, query=5).id == "head 1.3 @5"
    assert direction_node(OUT, reader, 5).id == "direction 2-mlp-out @5 > logit 31 @9"
    eigenvector = eigenvector_node(feature_node(OUT, 17, 5), 0)
    assert eigenvector.id == "eigenvector 0 of feature 2-mlp-out 17 @5"
    assert [node.id for node in by_hand().nodes] == [
        LOGIT,
        FEATURE,
        TOKEN,
        CROSS,
        SQUARE,
        LEFT,
        RIGHT,
        BIAS,
    ]


def test_edges_of_a_node():
    graph = by_hand()
    assert [edge.source for edge in graph.into(FEATURE)] == [SQUARE, CROSS, BIAS]
    assert [edge.target for edge in graph.out_of(LEFT)] == [SQUARE, CROSS]
    assert graph.into(BIAS) == ()
    assert len(graph) == 8
    assert LEFT in graph
    assert "x" not in graph
    place = {node: number for number, node in enumerate(graph.order)}
    assert all(place[edge.source] < place[edge.target] for edge in graph.edges)
    with pytest.raises(InputError, match="node 'x' is not in the graph"):
        graph.into("x")


def test_shares_by_hand():
    shares = by_hand().shares()
    assert shares[LOGIT] == 1
    # Absolute contributions to the logit: 4, 1.5 and 1 pruned; to the feature 3, 4.5 and 0.5.
    assert shares[FEATURE] == pytest.approx(4 / 6.5)
    assert shares[CROSS] == pytest.approx(4 / 6.5 * 3 / 8)
    assert shares[LEFT] == pytest.approx(4 / 6.5 * (1.5 + 4.5) / 8)
    assert shares[TOKEN] == pytest.approx(1.5 / 6.5 + 4 / 6.5 * 7.5 / 8)
    assert by_hand().shown == pytest.approx(5.5 / 6.5)


def test_effects_and_predictions_by_hand():
    graph = by_hand()
    found = effects(graph, "weight")
    # ∂ logit / ∂ feature = 2. Feature = -3 r_3 r_9 + 4.5 r_3² + 0.5, r relative values.
    assert found[LOGIT] == 5
    assert found[FEATURE] == 4
    assert found[CROSS] == -6
    assert found[LEFT] == pytest.approx(2 * (-3 + 9))
    assert found[RIGHT] == pytest.approx(-6)
    assert found[TOKEN] == pytest.approx(1.5 + 2 * (-3 - 3 + 9))
    assert predict_target(graph, {}, "weight") == 5
    assert predict_target(graph, {FEATURE: 0.0}, "weight") == pytest.approx(1)
    assert predict_target(graph, {LEFT: 2.0}, "weight") == pytest.approx(2 * (-6 + 18 + 0.5) + 1)
    # Without the token both inputs are 0, and what the interaction was is taken away on top of that.
    assert predict_target(graph, {CROSS: 0.0, TOKEN: 0.0}, "weight") == pytest.approx(2 * (0 + 3 + 0.5) - 0.5)
    assert predict_target(graph, {LOGIT: 0.0}, "weight") == 0
    assert predict_target(graph, {TOKEN: -1.0}, "weight") == pytest.approx(2 * (-3 + 4.5 + 0.5) - 1.5 - 0.5)
    with pytest.raises(InputError, match="'x' is not in the graph"):
        predict_target(graph, {"x": 0.0}, "weight")


def test_completeness_by_hand():
    found = completeness(by_hand())
    assert found.value == found.total == 5
    assert found.by_layer == {2: 5}
    assert found.largest == found.node_gap == 0
    nodes = (logit_node([1], value=2.0), token_node(3), token_node(4))
    edges = (Edge("token 3", "logit 1", 1.0), Edge("token 4", "logit 1", 0.5))
    found = completeness(Graph(nodes, edges, "logit 1"))
    assert (found.total, found.node, found.largest) == (1.5, "logit 1", 0.25)
    assert found.node_gap == pytest.approx(0.5 / 1.5)


def test_a_graph_without_values_predicts_nothing():
    graph = Graph((feature_node(OUT, 1), feature_node(IN, 2)), (), "feature 2-mlp-out 1")
    with pytest.raises(InputError, match="has no value; expected a graph of a prompt"):
        effects(graph)


def test_pruning_says_what_it_pruned():
    graph = by_hand()
    found = graph.subgraph([LOGIT, FEATURE, CROSS, LEFT, RIGHT, BIAS])
    assert found.removed == (TOKEN, SQUARE)
    assert found.removed_edges == 5
    assert str(found) == "2 of 8 nodes and 5 of 10 edges were pruned"
    assert found.graph.pruned[LOGIT] == Pruned(1.0, 2.5, 4)
    assert found.graph.pruned[FEATURE] == Pruned(4.5, 4.5, 1)
    assert found.graph.pruned[LEFT] == Pruned(3.0, 3.0, 1)
    assert completeness(found.graph).largest == 0


def test_an_interaction_goes_with_its_inputs_and_they_with_it():
    graph = by_hand()
    assert set(graph.subgraph([LOGIT, FEATURE, CROSS, LEFT, TOKEN]).removed) == {
        CROSS,
        SQUARE,
        LEFT,
        RIGHT,
        BIAS,
    }
    assert graph.prune(max_nodes=8).removed == ()
    small = graph.prune(max_nodes=5).graph
    assert {node.id for node in small.nodes} == {LOGIT, TOKEN, FEATURE, LEFT, SQUARE}
    assert [node.id for node in graph.prune(max_nodes=1).graph.nodes] == [LOGIT]
    assert {node.id for node in graph.prune(min_share=0.5).graph.nodes} == {LOGIT, TOKEN, FEATURE}


def test_prunings_that_cannot_be():
    graph = by_hand()
    with pytest.raises(InputError, match="max_nodes=0; expected at least 1"):
        graph.prune(max_nodes=0)
    with pytest.raises(InputError, match=r"min_share=2\.0; expected 0 to 1"):
        graph.prune(min_share=2.0)
    with pytest.raises(InputError, match="without the target 'logit 7 @1'"):
        graph.subgraph([TOKEN])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": (token_node(1), token_node(1))}, "two nodes of a graph are 'token 1'"),
        ({"target": "token 9"}, "the target of a graph names 'token 9'"),
        ({"edges": (Edge("token 1", "token 9", 1.0),)}, "an edge of a graph names 'token 9'"),
        ({"pruned": {"token 9": Pruned()}}, "an entry of pruned of a graph names 'token 9'"),
        ({"edges": (Edge("token 1", "token 2", 1.0),) * 2}, "join the same nodes"),
        (
            {"edges": (Edge("token 1", "token 2", 1.0), Edge("token 2", "token 1", 1.0))},
            "a cycle of edges leads to 'token 1'",
        ),
        ({"texts": ("a",), "tokens": (1, 2)}, "1 texts for 2 tokens"),
    ],
)
def test_what_is_no_graph(change, message):
    given = {"nodes": (token_node(1), token_node(2)), "edges": (), "target": "token 1"}
    with pytest.raises(InputError, match=message):
        Graph(**(given | change))


@st.composite
def parts_of_graphs(draw):
    """What a random graph without cycles is made of; of some there is no prompt."""
    n = draw(st.integers(1, 8))
    kinds = st.sampled_from(["feature", "interaction", "token", "error", "target"])
    numbers, weights = st.none() | st.integers(0, 9), st.floats(-9, 9)
    sites, labels = st.none() | st.just("2-mlp-in"), st.text(max_size=5)
    nodes = draw(
        st.lists(st.tuples(kinds, numbers, sites, labels, st.none() | weights), min_size=n, max_size=n)
    )
    ends = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] < pair[1])
    edges = draw(st.dictionaries(ends, weights, max_size=12)) if n > 1 else {}
    tokens = draw(st.none() | st.lists(st.integers(0, 99), max_size=4).map(tuple))
    return nodes, edges, draw(st.none() | weights), tokens


def built(parts) -> Graph:
    nodes, edges, pruned, tokens = parts
    return Graph(
        tuple(
            Node(f"node {i}", kind, layer=number, position=number, site=site, label=label, value=value)
            for i, (kind, number, site, label, value) in enumerate(nodes)
        ),
        tuple(Edge(f"node {b}", f"node {a}", weight) for (a, b), weight in edges.items()),
        "node 0",
        tokens=tokens,
        pruned={} if pruned is None else {"node 0": Pruned(pruned, 9.5, 3)},
    )


@given(parts=parts_of_graphs())
@settings(max_examples=50, deadline=None)
def test_what_is_saved_is_loaded(parts, tmp_path_factory):
    graph, path = built(parts), tmp_path_factory.mktemp("graph") / "graph.json"
    save_graph(graph, path)
    assert load_graph(path) == graph


@given(parts=parts_of_graphs(), max_nodes=st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_a_pruned_graph_keeps_the_sums(parts, max_nodes):
    graph = built(parts)
    found = graph.prune(max_nodes)
    assert len(found.graph) <= max_nodes
    assert len(found.graph) + len(found.removed) == len(graph)
    for node in found.graph.nodes:
        sums = [
            sum(edge.weight for edge in one.into(node.id)) + one.pruned.get(node.id, Pruned()).signed
            for one in (graph, found.graph)
        ]
        assert sums[0] == pytest.approx(sums[1], abs=1e-9)


def with_slopes() -> Graph:
    """The graph by hand with norms free: edges change the logit by half of what they add to it."""
    graph = by_hand()
    edges = tuple(
        replace(edge, slope=edge.weight / 2 if edge.target == LOGIT else edge.weight) for edge in graph.edges
    )
    slopes = {LOGIT: 5.0, FEATURE: 3.0, CROSS: -4.0, LEFT: 7.0, TOKEN: 1.0}
    nodes = tuple(replace(node, slope=slopes.get(node.id)) for node in graph.nodes)
    pruned = {LOGIT: Pruned(-0.5, 1.0, 3, 0.25, 0.75)}
    return replace(graph, nodes=nodes, edges=edges, pruned=pruned, settings={"by": "slope"})


def test_slopes_by_hand():
    graph = with_slopes()
    assert (graph.by, by_hand().by) == ("slope", "weight")
    edges = carried(graph)
    # Half of the weights into the logit; the feature changes it by 3, and each of its parts by 3 / 2.
    assert edges[FEATURE] == pytest.approx(2.0)
    assert edges[CROSS] == pytest.approx(-3 * 3 / 2)
    assert edges[LEFT] == pytest.approx(3 / 2 * (-3 + 2 * 4.5))
    assert edges[TOKEN] == pytest.approx(1.5 / 2 + 7 / 3 * 3 + edges[RIGHT] / -1 * -1)
    sizes = effects(graph)
    assert (sizes[FEATURE], sizes[CROSS], sizes[LEFT]) == (3, -4, 7)
    assert sizes["bias 2-mlp"] == pytest.approx(3 / 2 * 0.5)
    assert predict_target(graph, {FEATURE: 0.0, LEFT: 1.5}) == pytest.approx(5 - 3 + 7 / 2)
    # Slopes of 2 and 0.75 into the logit, and 0.75 that are left out.
    assert graph.shares()[FEATURE] == pytest.approx(2 / 3.5)
    assert graph.shown == graph.followed("slope") != graph.followed("weight")
    whole = completeness(graph)
    assert whole.followed == {"slope": graph.followed("slope"), "weight": pytest.approx(5.5 / 6.5)}
    assert 0 < whole.carried < 2
    assert completeness(by_hand()).carried is None
    rest = graph.prune(4).graph
    gone = [edge for edge in graph.into(LOGIT) if edge not in rest.into(LOGIT)]
    assert rest.pruned[LOGIT].slope == pytest.approx(0.25 + sum(edge.slope for edge in gone))


def test_graphs_without_slopes(tmp_path):
    """Those of version 1 are read; what needs slopes says so."""
    save_graph(by_hand(), tmp_path / "graph.json")
    value = json.loads((tmp_path / "graph.json").read_text())
    value["version"], value["pruned"] = 1, {LOGIT: [-0.5, 1.0, 3]}
    (tmp_path / "graph.json").write_text(json.dumps(value))
    graph = load_graph(tmp_path / "graph.json")
    assert graph == by_hand()
    assert effects(graph, "weight") == effects(by_hand(), "weight")
    for call in (effects, carried, lambda graph: predict_target(graph, {FEATURE: 0.0})):
        with pytest.raises(InputError, match=r'a graph without slopes .* or by="weight"'):
            call(graph)
    assert "strongest nodes, by effect" in summary(graph)


def test_slopes_are_in_files(tmp_path):
    save_graph(with_slopes(), tmp_path / "graph.json")
    assert load_graph(tmp_path / "graph.json") == with_slopes()


def test_files_that_are_no_graphs(tmp_path):
    path = tmp_path / "graph.json"
    save_graph(by_hand(), path)
    good = json.loads(path.read_text())
    for change, message in (
        ({"version": 4}, "version 4; expected 'bilinear-lm graph', version 1 to 3"),
        ({"extra": 1}, "keys extra are unknown or missing"),
        ({"nodes": [{"id": "a", "kind": "thing"}]}, "expected an id and a kind of target, logit"),
        ({"nodes": [{"id": "a", "kind": "token", "odd": 1}]}, "unknown keys odd"),
        ({"nodes": [{"id": "a", "kind": "token", "layer": True}]}, "layer of node 'a' of a graph is True"),
        ({"edges": [["a", "b"]]}, r"expected \[source, target, weight\]"),
        ({"edges": [[LEFT, LOGIT, "1"]]}, "a weight of a graph is '1'; expected a finite number"),
        ({"edges": [[LEFT, "b", 1]]}, "an edge of a graph names 'b'"),
        ({"pruned": {LOGIT: [1.0]}}, r"expected \[signed, absolute, count\]"),
        ({"tokens": ["a"]}, "tokens of a graph is 'a'"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=message):
            load_graph(path)
    path.write_text(json.dumps(good).replace("4.5", "NaN"))
    with pytest.raises(InputError, match="a graph is nan; expected a finite number"):
        load_graph(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="expected an object"):
        load_graph(path)
    infinite = Graph((token_node(1), token_node(2)), (Edge("token 1", "token 2", float("inf")),), "token 2")
    with pytest.raises(InputError, match="a graph that JSON cannot hold"):
        save_graph(infinite, path)


def test_networkx_has_everything():
    import networkx

    graph = by_hand()
    found = to_networkx(graph)
    assert networkx.is_directed_acyclic_graph(found)
    assert found.number_of_nodes() == 8
    assert found.edges[LEFT, CROSS]["weight"] == -3
    assert found.nodes[FEATURE]["value"] == 2
    assert found.graph["target"] == LOGIT


def test_thousands_of_nodes_are_cheap():
    n = 5000
    nodes = tuple(token_node(i) for i in range(n))
    edges = tuple(Edge(f"token {i + step}", f"token {i}", 1.0) for step in (1, 7) for i in range(n - step))
    graph = Graph(nodes, edges, "token 0")
    # One node wide, so that all of the target's share goes through the last one.
    assert graph.shares()[f"token {n - 1}"] == pytest.approx(1, abs=1e-6)
    assert len(graph.prune(max_nodes=100).graph) <= 100
