"""Views of a graph in a browser: details in view, supernodes, notes, links and files, the check."""

import json

import pytest

from analysis.graphs.elements import Edge, Node
from analysis.graphs.graph import Graph
from analysis.graphs.groups import supernodes
from analysis.graphs.nodes import error_node, feature_node, interaction_node, logit_node, token_node
from analysis.graphs.view import GraphView, Supernode, load_view, save_view
from analysis.report import document
from analysis.report.graphs_section import graphs_page, packed
from bilinear_lm.sites import Site

from .pages import drawn, node

IN, OUT = Site(0, "mlp-in"), Site(0, "mlp-out")


def made(texts=(" a", " big", " hug")):
    """A logit of two features at two positions, their product, an error and the tokens below."""
    logit = logit_node([7], [8], 2, 6.0)
    logit = Node(**vars(logit) | {"label": "␣dog - ␣cat", "slope": 6.0})
    out = feature_node(OUT, 3, 2, 3.0)
    at = [feature_node(IN, 5, position, 1.0 + position) for position in (1, 2)]
    pair = interaction_node(out, ("5", "5"), "both", 2.0)
    error, tokens = error_node(OUT, 2), [token_node(4, 1), token_node(6, 2)]
    nodes = [logit, out, *at, pair, error, *tokens]
    nodes = [
        Node(**vars(each) | {"slope": 0.5}) if each.kind in ("feature", "interaction") else each
        for each in nodes
    ]
    edges = (
        *(
            Edge(out.id, logit.id, 3.0, 2.0),
            Edge(at[0].id, logit.id, 1.0, 0.75),
            Edge(at[1].id, logit.id, 1.0, 0.5),
        ),
        *(Edge(error.id, logit.id, 1.0, 0.25), Edge(pair.id, out.id, 2.0, 4.0)),
        *(Edge(at[0].id, pair.id, 2.0, 2.0), Edge(at[1].id, pair.id, 2.0, 2.0)),
        *(Edge(tokens[0].id, at[0].id, 2.0, 2.0), Edge(tokens[1].id, at[1].id, 3.0, 3.0)),
        Edge(tokens[0].id, at[1].id, 0.5, 1.0),
    )
    numbers = {"predicted": -0.5, "free": -0.4, "predicted_held": -0.3, "held": -0.2}
    numbers |= {"random_free": [0.01, 0.02], "random_held": [0.03, 0.04]}
    checked = {each.id: numbers for each in at}
    kinds = dict.fromkeys(("free_correlation", "free_size", "held_correlation", "held_size"), 0.5)
    check = {"feature": {"n": 2, **kinds, "random_correlation": None, "strength": 2.0}}
    settings = {"by": "slope", "probability": 0.46, "check": check, "checked": checked}
    return Graph(tuple(nodes), edges, logit.id, tokens=(1, 2, 3), texts=texts, settings=settings)


def circuit():
    """A feature that is the square of another, by weights alone."""
    out, read = feature_node(OUT, 3), feature_node(IN, 5)
    square = interaction_node(out, ("5", "5"), "both", None)
    edges = (Edge(square.id, out.id, 2.0, 4.0), Edge(read.id, square.id, 2.0, 2.0))
    return Graph((out, square, read), edges, out.id, settings={"by": "weight"})


@pytest.fixture(scope="module")
def graph():
    return made()


@pytest.fixture(scope="module")
def path(tmp_path_factory, graph):
    path = tmp_path_factory.mktemp("views") / "page.html"
    other = made((" the", " big", " cat"))
    path.write_text(graphs_page([graph, other, circuit()], "model"), encoding="utf-8")
    return path


def select(tab, *places):
    for place in places:
        node(tab, place).click(modifiers=["Shift"])


def supernode(tab):
    return tab.locator("#graph-canvas .supernode")


def edges_of(tab, side):
    """Slope and weight of the edges that the details list, by the name of the other node."""
    rows = tab.locator(f"#graph-node .columns > section:{side}-child tbody tr").all()
    return {
        row.locator(".node-link").inner_text().split(",")[0].strip(): [
            float(text.replace("−", "-")) for text in row.locator("td:not(:first-child)").all_inner_texts()
        ]
        for row in rows
    }


def test_the_details_stand_beside_the_graph(open_page, path):
    tab = open_page(path, width=1440)
    tab.evaluate("document.getElementById('graph-stage').scrollIntoView({ behavior: 'instant' })")
    node(tab, 2).click()
    frame, article = (tab.locator(at).bounding_box() for at in ("#graph-canvas", "#graph-node"))
    assert article["x"] > frame["x"] + frame["width"]
    assert article["y"] >= 0
    assert article["y"] + article["height"] <= 900
    assert tab.locator("#graph-node-title").inner_text() == "#5, layer 0 at ␣big (1)"
    assert tab.locator("#graph-answer").inner_text() == "→ ␣dog, 46% rather than ␣cat"
    changes = tab.locator("#graph-changes tbody tr").all_inner_texts()
    assert [row.split("\t") for row in changes] == [
        ["free", "−0.500", "−0.400", "0.01, 0.02"],
        ["held", "−0.300", "−0.200", "0.03, 0.04"],
    ]
    assert tab.locator(".scatter").count() == 2
    assert tab.locator(".scatter").first.locator(".node").count() == 2
    assert tab.locator(".scatter").first.locator(".random").count() == 4
    assert "25%" not in tab.locator("#graph-faith-line").inner_text()
    assert "errors, which dictionaries miss" in tab.locator("#graph-faith").inner_text()


def test_links_to_graphs(open_page, path):
    """To one by its place, to a feature's circuit; the same link leads there again."""
    tab = open_page(path)
    for hash_, says in (
        ("#graph-1", "␣cat"),
        ("#circuit-0-mlp-out-3", ""),
        ("#graph-0", "␣hug"),
        ("#circuit-0-mlp-out-3", ""),
    ):
        tab.evaluate("hash => { location.hash = hash }", hash_)
        tab.wait_for_function("location.hash.startsWith('#graph=')")
        assert tab.locator("#graph-prompt").is_hidden() == (not says)
        assert says in tab.locator("#graph-prompt").inner_text()
    assert tab.locator("#graph-answer").inner_text() == "#3, layer 0, from weights alone"
    tab.evaluate("location.hash = '#circuit-0-mlp-out-4'")
    assert tab.locator("#graph-answer").inner_text() == "#3, layer 0, from weights alone"


def test_a_sheet_in_a_narrow_window(open_page, path):
    tab = open_page(path, width=400, height=800)
    article = tab.locator("#graph-node")
    assert article.is_hidden()
    node(tab, 2).click()
    box = article.bounding_box()
    assert box["y"] + box["height"] == pytest.approx(800, abs=1)
    assert box["y"] > 300
    own = node(tab, 2).bounding_box()
    assert own["y"] + own["height"] <= box["y"]
    tab.locator("#graph-close").click()
    assert article.is_hidden()
    assert tab.evaluate("document.activeElement.dataset.place") == "2"
    tab.keyboard.press("Enter")
    assert article.is_visible()
    # Not a trap: from the last thing in it the focus goes on.
    tab.locator("#graph-node :is(button, textarea)").last.focus()
    tab.keyboard.press("Tab")
    assert not tab.evaluate("document.activeElement.closest('#graph-node')")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_from_the_target_to_details_and_back_by_keyboard(open_page, path):
    tab = open_page(path)
    place = "document.activeElement.dataset.place"
    node(tab, 0).focus()
    tab.keyboard.press("ArrowDown")
    reached = tab.evaluate(place)
    tab.keyboard.press("Enter")
    assert tab.evaluate(place) == reached
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "graph-node-title"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.closest('#graph-node') !== null")
    tab.keyboard.press("Escape")
    assert tab.evaluate(place) == reached
    tab.keyboard.press("Escape")
    assert tab.evaluate(place) == "0"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("s")
    assert tab.locator("#graph-selection-text").inner_text() == "1 selected"


def test_nodes_are_grouped(open_page, path, graph):
    tab = open_page(path)
    select(tab, 2, 3)
    tab.locator("#graph-group-name").fill("fives")
    tab.locator("#graph-group").click()
    assert drawn(tab) == {0, 1, 4, 5, 6, 7, 8}
    assert supernode(tab).locator("text").text_content() == "2"
    assert "fives, layer 0 at ␣big (1), ␣hug (2), 2 nodes" in supernode(tab).get_attribute("aria-label")
    # Sums over the members; a product has its weight once, however many of its inputs are inside.
    assert edges_of(tab, "last") == {"␣dog - ␣cat": [1.25, 2.0], "#5 × #5": [4.0, 2.0]}
    assert edges_of(tab, "first") == {"token 4 @1": [3.0, 2.5], "token 6 @2": [3.0, 3.0]}
    shares, parts = graph.shares(), graph.parts
    leaving = sum(
        parts[edge] * shares[edge.target] for place in (2, 3) for edge in graph.out_of(graph.nodes[place].id)
    )
    facts = tab.locator("#graph-node .numbers").inner_text()
    assert f"{100 * leaving:.2g}%" in facts
    assert "+1.00" in facts
    tab.locator("#graph-rename").fill("two fives")
    tab.keyboard.press("Enter")
    tab.locator("#graph-node .members .node-link").first.click()
    assert tab.locator("#graph-node-title").inner_text().startswith("#5, layer 0 at ")
    assert "chosen" in supernode(tab).get_attribute("class")
    tab.locator("#graph-close-group").click()
    tab.locator("#graph-open-group").click()
    assert drawn(tab) == set(range(8))
    tab.locator("#graph-close-group").click()
    tab.locator("#graph-dissolve").click()
    assert drawn(tab) == set(range(8))
    assert supernode(tab).count() == 0
    # By a rule, and back.
    groups = supernodes(graph, "positions")
    assert [len(group.nodes) for group in groups] == [2]
    tab.locator("#graph-rule").select_option("positions")
    tab.locator("#graph-group-by").click()
    assert supernode(tab).count() == 1
    assert tab.evaluate("location.hash").endswith("&s=0_positions_0")
    tab.reload()
    assert supernode(tab).count() == 1
    tab.locator("#graph-ungroup").click()
    assert drawn(tab) == set(range(8))


def test_nodes_are_grouped_by_keyboard(open_page, path, graph):
    tab = open_page(path)
    for place in (2, 3):
        node(tab, place).focus()
        tab.keyboard.press("s")
    name = tab.get_by_label("as one node called")
    name.fill("both")
    name.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "graph-rename"
    assert tab.locator("#graph-rename").input_value() == "both"


def test_a_link_and_a_file_hold_the_view(open_page, path, graph, tmp_path):
    tab = open_page(path)
    select(tab, 2, 3)
    tab.locator("#graph-group-name").fill("a_b & <c>")
    tab.locator("#graph-group").click()
    tab.locator("#graph-note").fill("fives; see “hug” = 5_6")
    node(tab, 1).click()
    tab.locator("#graph-pin").click()
    node(tab, 5).click()
    tab.locator("#graph-hide").click()
    node(tab, 7).click()
    link = tab.evaluate("location.hash")
    assert len(link) < 200
    with tab.expect_download() as download:
        tab.locator("#graph-save").click()
    download.value.save_as(tmp_path / "view.json")
    (group,) = [Supernode("a_b & <c>", (graph.nodes[2].id, graph.nodes[3].id))]
    view = load_view(tmp_path / "view.json", graph)
    assert view == GraphView.of(
        graph,
        chosen=graph.nodes[7].id,
        pinned=(graph.nodes[1].id,),
        hidden=(graph.nodes[5].id,),
        supernodes=(group,),
        notes={group.id: "fives; see “hug” = 5_6"},
    )
    tab.reload()
    assert drawn(tab) == {0, 1, 4, 6, 7, 8}
    # A link to the same page, in a browser that has not seen it.
    fresh = tab.context.browser.new_context().new_page()
    fresh.goto(path.as_uri() + link)
    assert drawn(fresh) == {0, 1, 4, 6, 7, 8}
    assert fresh.locator("#graph-canvas .chosen").get_attribute("data-place") == "7"
    node(fresh, 8).click()
    assert fresh.locator("#graph-note").input_value() == "fives; see “hug” = 5_6"
    fresh.context.close()
    other = tab.context.new_page()
    save_view(GraphView.of(graph, hidden=(graph.nodes[6].id,)), tmp_path / "ours.json")
    other.goto(path.as_uri())
    other.locator("#graph-pick").select_option("0")
    other.locator("#graph-open").set_input_files(tmp_path / "ours.json")
    other.locator("#graph-status", has_text="ours.json is opened.").wait_for()
    assert drawn(other) == set(range(8)) - {6}


def test_files_of_other_graphs_are_refused(open_page, path, graph, tmp_path):
    tab = open_page(path)
    save_view(GraphView.of(made((" the", " big", " cat"))), tmp_path / "other.json")
    save_view(GraphView.of(graph), tmp_path / "ours.json")
    value = json.loads((tmp_path / "ours.json").read_text())
    (tmp_path / "odd.json").write_text(json.dumps(value | {"pinned": ["no such node"]}))
    (tmp_path / "bad.json").write_text(json.dumps(value | {"supernodes": 3}))
    (tmp_path / "no.json").write_text("<script>")
    for name, said in (
        ("other", "This view belongs to another graph: that of logit 7 - 8 @2 on “the big cat”."),
        ("odd", "This view names a node that is not in the graph: no such node."),
        ("bad", "This view is damaged: parts of it are missing or of another kind."),
        ("no", "This is not a JSON file."),
    ):
        tab.locator("#graph-open").set_input_files(tmp_path / f"{name}.json")
        tab.locator("#graph-status", has_text=f"{name}.json: {said}").wait_for()
        assert drawn(tab) == set(range(8))
    tab.goto(path.as_uri() + "#graph=other&c=1")
    tab.locator("#graph-status", has_text="The address is of a graph that is not on this page.").wait_for()


def test_graphs_are_added_and_details_get_more_actions(open_page, tmp_path, graph, monkeypatch):
    """As scripts of a page that is served do it, behind those of graphs."""
    more = f"""
        nodeExtras.push((graph, node) => element("button", {{ id: "more" }}, graph.name(node)));
        const given = {json.dumps(packed(graph))};
        document.getElementById("theme").addEventListener("click", () => graphs.add(given));
    """
    read = document.page_file
    monkeypatch.setattr(document, "page_file", lambda name: read(name) + more * (name == "graphs/main.js"))
    path = tmp_path / "page.html"
    path.write_text(graphs_page([], "model"), encoding="utf-8")
    tab = open_page(path)
    assert tab.locator("#graph-stage").is_hidden()
    tab.locator("#theme").click()
    assert drawn(tab) == set(range(8))
    node(tab, 2).click()
    assert tab.locator("#more").inner_text() == "#5"
