"""Views and groups of graphs: rules by hand, files and refusals, supernodes for other tools, ends."""

import json

import pytest

from analysis.graphs.elements import Edge, Node, Pruned
from analysis.graphs.export import save_circuit_tracer, to_circuit_tracer
from analysis.graphs.graph import Graph
from analysis.graphs.groups import supernodes
from analysis.graphs.nodes import (
    error_node,
    feature_node,
    head_node,
    interaction_node,
    logit_node,
    token_node,
)
from analysis.graphs.shares import ends, variance_carried
from analysis.graphs.view import GraphView, Supernode, load_view, save_view
from bilinear_lm import InputError
from bilinear_lm.sites import Site

IN, OUT = Site(0, "mlp-in"), Site(0, "mlp-out")


def on_prompt():
    """A logit of two features at two positions and of errors; the tokens below are the same."""
    logit = logit_node([7], position=2, value=8.0)
    fives = [feature_node(IN, 5, position, 2.0) for position in (1, 2)]
    errors = [error_node(OUT, position) for position in (0, 2)]
    tokens = [token_node(4, position) for position in (1, 2)]
    edges = [
        Edge(node.id, logit.id, weight)
        for node, weight in zip([*fives, *errors], (4.0, 2.0, 1.0, -1.0), strict=True)
    ]
    edges += [Edge(token.id, five.id, 1.0) for token, five in zip(tokens, fives, strict=True)]
    pruned = {
        logit.id: Pruned(2.0, 2.0, 3),
        fives[0].id: Pruned(1.0, 1.0, 1),
        fives[1].id: Pruned(1.0, 3.0, 2),
    }
    nodes = (logit, *fives, *errors, *tokens)
    return Graph(nodes, tuple(edges), logit.id, tokens=(3, 4, 4), texts=("<s>", " a", " b"), pruned=pruned)


def by_weights():
    """A feature of two pairs; two heads read by one input, one head by another."""
    target = feature_node(Site(1, "mlp-out"), 17)
    inputs = [feature_node(Site(1, "mlp-in"), number) for number in (1, 2, 3)]
    pairs = [interaction_node(target, ("1", str(number))) for number in (2, 3)]
    heads = [head_node(1, 0, inputs[0]), head_node(1, 1, inputs[0]), head_node(1, 0, inputs[1])]
    edges = [Edge(pair.id, target.id, 1.0) for pair in pairs]
    for pair, other in zip(pairs, inputs[1:], strict=True):
        edges += [Edge(end.id, pair.id, 1.0) for end in (inputs[0], other)]
    edges += [Edge(head.id, inputs[at].id, 1.0) for head, at in zip(heads, (0, 0, 1), strict=True)]
    settings = {"variance": {target.id: 0.25}}
    return Graph((target, *inputs, *pairs, *heads), tuple(edges), target.id, settings=settings)


def test_one_thing_at_several_positions_is_a_group():
    graph = on_prompt()
    groups = supernodes(graph)
    assert [group.nodes for group in groups] == [
        ("feature 0-mlp-in 5 @1", "feature 0-mlp-in 5 @2"),
        ("token 4 @1", "token 4 @2"),
        ("error 0-mlp-out @0", "error 0-mlp-out @2"),
    ]
    assert [group.name for group in groups] == ["#5 at 0-mlp-in", "token 4", "error at 0-mlp-out"]
    # By readers nothing is together: places differ.
    assert supernodes(graph, "readers") == ()


def test_nodes_of_one_role_are_a_group():
    graph = by_weights()
    groups = supernodes(graph)
    assert {group.name: group.nodes for group in groups} == {
        "2 interactions of layer 1 for feature 1-mlp-out 17": tuple(node.id for node in graph.nodes[4:6]),
        "2 heads of layer 1 for feature 1-mlp-in 1": tuple(node.id for node in graph.nodes[6:8]),
    }
    assert supernodes(graph, "positions") == ()


def test_names_of_groups_differ():
    logit = logit_node([7], position=1, value=2.0)
    nodes = [
        Node(**vars(feature_node(site, number, position, 1.0)) | {"label": "#1 a"})
        for site, number in ((IN, 1), (Site(0, "resid-mid"), 1))
        for position in (0, 1)
    ]
    edges = tuple(Edge(node.id, logit.id, 1.0) for node in nodes)
    groups = supernodes(Graph((logit, *nodes), edges, logit.id))
    assert [group.name for group in groups] == ["#1 a, layer 0", "#1 a, layer 0 (2)"]


def test_ends_add_up_to_what_is_followed():
    graph = on_prompt()
    # Of the target 2/10 is not shown; of the features 1/2 and 3/4 of their own are not.
    by_kind = ends(graph)
    assert by_kind == {"error": pytest.approx(0.2), "token": pytest.approx(0.4 * 0.5 + 0.2 * 0.25)}
    assert sum(by_kind.values()) == pytest.approx(graph.followed("weight"))


def test_variance_is_by_layer():
    assert variance_carried(by_weights()) == {1: 0.25}
    assert variance_carried(on_prompt()) == {}


def view_of(graph):
    groups = supernodes(graph)[:2]
    return GraphView.of(
        graph,
        chosen=groups[0].id,
        pinned=("error 0-mlp-out @2",),
        hidden=("error 0-mlp-out @0",),
        least=0.01,
        supernodes=(groups[0], Supernode("words", groups[1].nodes, is_open=True)),
        notes={groups[0].id: "both", "token 4 @1": "one\nline"},
    )


def test_what_is_saved_is_loaded(tmp_path):
    graph = on_prompt()
    view = view_of(graph)
    save_view(view, tmp_path / "view.json")
    assert load_view(tmp_path / "view.json", graph) == view
    assert view.supernode_of("token 4 @2").name == "words"
    assert view.supernode_of(graph.target) is None
    static = GraphView.of(by_weights(), supernodes=supernodes(by_weights()))
    save_view(static, tmp_path / "static.json")
    assert load_view(tmp_path / "static.json", by_weights()) == static
    with pytest.raises(
        InputError, match=r"static\.json: a view of 'feature 1-mlp-out 17' by weights alone for"
    ):
        load_view(tmp_path / "static.json", graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "logit 8 @2"}, "a view of 'logit 8 @2' on “<s> a b” for the graph of 'logit 7 @2' on"),
        ({"texts": ["<s>", " a", " c"]}, "expected one of the same target and prompt"),
        ({"texts": 3}, "texts of a view is 3; expected a list of texts"),
        ({"format": "bilinear-lm graph"}, "expected 'bilinear-lm graph view', version 1"),
        ({"version": 2}, "version 2; expected"),
        ({"more": 1}, "keys more are unknown or missing"),
        ({"chosen": "feature 9"}, "a view names 'feature 9', which the graph does not have"),
        ({"pinned": [1]}, "pinned of a view has 1; expected a text"),
        ({"least": 2}, "least=2"),
        ({"least": True}, "least of a view is True; expected a number"),
        ({"notes": {"token 4 @1": 3}}, "notes of a view; expected an object of texts"),
        ({"supernodes": {}}, "supernodes of a view; expected a list"),
        ({"supernodes": [{"name": "a", "nodes": []}]}, "expected an object of name, nodes and open"),
        ({"supernodes": [{"name": "a", "nodes": ["x"], "open": False}]}, "a view names 'x'"),
        ({"supernodes": [{"name": " ", "nodes": ["token 4 @1"], "open": False}]}, "has no nodes or no name"),
        (
            {"supernodes": [{"name": name, "nodes": ["token 4 @1"], "open": False} for name in "ab"]},
            "is in two supernodes; expected one at most",
        ),
        (
            {"supernodes": [{"name": "a", "nodes": [f"token 4 @{at}"], "open": False} for at in (1, 2)]},
            "two supernodes are called 'a'",
        ),
        ({"supernodes": [{"name": "a", "nodes": ["logit 7 @2"], "open": False}]}, "expected it on its own"),
    ],
)
def test_files_that_are_no_view_of_the_graph(change, message, tmp_path):
    graph, path = on_prompt(), tmp_path / "view.json"
    save_view(GraphView.of(graph), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as refused:
        load_view(path, graph)
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def test_other_tools_get_the_supernodes(tmp_path):
    graph = on_prompt()
    save_circuit_tracer(graph, tmp_path / "hug.json", view=view_of(graph))
    written = json.loads((tmp_path / "hug.json").read_text())
    assert written["qParams"] == {
        "linkType": "both",
        "sg_pos": "",
        "pinnedIds": ["0_-1_2", "0_5_1", "0_5_2", "E_4_1", "E_4_2"],
        "clickedId": "0_5_1",
        "supernodes": [["#5 at 0-mlp-in", "0_5_1", "0_5_2"], ["words", "E_4_1", "E_4_2"]],
    }
    assert written["metadata"]["bilinear_lm"]["notes"] == {"0_5_1": "both", "E_4_1": "one\nline"}
    assert {node["node_id"] for node in written["nodes"]} >= set(written["qParams"]["pinnedIds"])
    with pytest.raises(InputError, match="expected one of the same target and prompt"):
        to_circuit_tracer(by_weights(), "hug", view=view_of(graph))
