"""The graph part of the page in a browser: by mouse and keyboard, in both themes, with hostile tokens."""

import json

import pytest

from analysis.circuits.trace import trace
from analysis.graphs.elements import Node, Pruned
from analysis.graphs.graph import Graph
from analysis.report.graphs_section import graph_name, graphs_json
from analysis.report.options import STORY, FeatureSource, ReportOptions
from analysis.report.write import report

from .pages import drawn, hostile_model, node

HOSTILE = ["<script>alert(1)</script>", "</script><!--", "<img src=x onerror=alert(2)>"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page with features and two graphs, about a tiny model whose tokens would be scripts."""
    model, tokenizer, pair = hostile_model(HOSTILE)
    by_site = {pair.read: pair.inputs, pair.written: pair.outputs}
    text = "\n<|endoftext|>\n".join(f"{hostile} {STORY}" for hostile in HOSTILE)
    prompt = f"Lily saw {HOSTILE[0]}{HOSTILE[1]} a{HOSTILE[2]}"
    graphs = [
        trace(model, tokenizer, prompt, dictionaries=by_site, text=text, max_nodes=90),
        trace(model, tokenizer, feature="1-mlp-out-7", dictionaries=by_site, max_nodes=60),
    ]
    options = ReportOptions(n_directions=1, layers=(1,), sample_tokens=0)
    source = FeatureSource((pair,), text, first=(1, 7))
    path = tmp_path_factory.mktemp("page") / "report.html"
    page = report(model, tokenizer, "a model", options, source, graphs, progress=False)
    path.write_text(page, encoding="utf-8")
    return path, graphs


@pytest.fixture
def tab(open_page, made):
    return open_page(made[0])


@pytest.fixture
def graph(made):
    return made[1][0]


def title(tab):
    return tab.locator("#graph-node-title").inner_text()


def chosen(tab):
    return int(tab.locator("#graph-canvas .chosen").get_attribute("data-place"))


def of_kind(graph, kind):
    return [place for place, found in enumerate(graph.nodes) if found.kind == kind]


# What is on the page.


def test_the_data_are_the_graph(graph):
    (data,) = json.loads(graphs_json([graph]))
    assert data["id"] == [found.id for found in graph.nodes]
    assert data["target"] == 0
    strength = graph.shares()
    assert data["strength"] == pytest.approx([strength[found.id] for found in graph.nodes], rel=1e-3)
    edges = list(zip(*[iter(data["edges"])] * 6, strict=True))
    assert [(graph.nodes[source].id, graph.nodes[target].id) for source, target, *_ in edges] == [
        (edge.source, edge.target) for edge in graph.edges
    ]
    for at, name in ((2, "weight"), (4, "slope"), (5, "grouped")):
        numbers = [getattr(edge, name) for edge in graph.edges]
        assert [edge[at] for edge in edges] == pytest.approx(numbers, rel=1e-3)
    slopes = [found.slope for found in graph.nodes]
    assert [slope is None for slope in data["slope"]] == [slope is None for slope in slopes]
    for found, left in zip(graph.nodes, data["left"], strict=True):
        pruned = graph.pruned.get(found.id, Pruned())
        assert (left[2] if left else 0) == pruned.count
    assert "<" not in graphs_json([graph])


def test_names_of_graphs(made):
    on_prompt, static = map(graph_name, made[1])
    assert on_prompt.endswith(f"{HOSTILE[1]} a{HOSTILE[2]}”")
    assert static == "feature 1-mlp-out 7, from weights alone"


@pytest.mark.parametrize(("position", "words"), [(0, "a"), (3, "a b c d"), (7, "c d e f g h")])
def test_a_name_has_the_words_up_to_the_target(position, words):
    texts = tuple(f"{'' if letter == 'a' else ' '}{letter}" for letter in "abcdefgh")
    target = Node("t", "logit", position=position, value=1.0)
    graph = Graph((target,), (), "t", tokens=tuple(range(8)), texts=texts)
    assert graph_name(graph) == f"t on “…{words}”"


def test_nodes_stand_by_layer_and_position(tab, graph):
    assert drawn(tab) == set(range(len(graph)))
    at = {
        int(place): (x, y)
        for place, x, y in tab.locator("#graph-canvas .node").evaluate_all(
            """all => all.map((node) => {
                const { x, y, width, height } = node.querySelector(".hit").getBoundingClientRect();
                return [node.dataset.place, x + width / 2, y + height / 2];
            })"""
        )
    }
    places = {found.id: place for place, found in enumerate(graph.nodes)}
    for edge in graph.edges:
        source, target = places[edge.source], places[edge.target]
        if graph.nodes[source].kind != "bias":
            assert at[source][1] > at[target][1]
    for one, first in enumerate(graph.nodes):
        for other, second in enumerate(graph.nodes):
            if None not in (first.position, second.position) and first.position < second.position:
                assert at[one][0] < at[other][0]
    assert len({(round(x), round(y)) for x, y in at.values()}) == len(at)
    assert tab.locator("#graph-canvas .interaction polygon").count() == len(of_kind(graph, "interaction"))


def test_a_node_is_chosen_and_tells_what_it_is_made_of(tab, graph):
    last = len(graph.tokens) - 1
    assert title(tab) == f"{graph.nodes[0].label}, at {graph.texts[last].replace(' ', '␣')} ({last})"
    place = of_kind(graph, "interaction")[0]
    node(tab, place).click()
    assert chosen(tab) == place
    into = graph.into(graph.nodes[place].id)
    rows = tab.locator("#graph-node .columns > section:first-child tbody tr")
    assert rows.count() == len(into)
    slope, weight = (
        float(rows.first.locator(cell).inner_text().replace("−", "-"))
        for cell in (".bar span", "td:last-child")
    )
    assert (slope, weight) == pytest.approx((into[0].slope, into[0].weight), rel=6e-3)
    assert "is what the product adds" in tab.locator("#graph-node caption").first.inner_text()
    assert tab.locator("#graph-canvas .own path").count() == len(into) + 1
    rows.first.locator("button").click()
    assert graph.nodes[chosen(tab)].id == into[0].source
    assert tab.evaluate("document.activeElement.id") == "graph-node-title"


def test_the_chosen_node_leads_to_its_feature(tab, graph):
    place = next(
        place
        for place in of_kind(graph, "feature")
        if graph.nodes[place].site == "1-mlp-in" and graph.nodes[place].index is not None
    )
    node(tab, place).click()
    number = graph.nodes[place].index
    tab.locator("#graph-node .more").click()
    tab.locator("#feature-title", has_text=f"Input feature #{number}").wait_for()
    assert tab.evaluate("location.hash") == f"#layer-1-in-{number}"
    tab.go_back()
    assert chosen(tab) == place


def test_nodes_are_pinned_hidden_and_left_out(tab, graph):
    feature, other = of_kind(graph, "feature")[:2]
    node(tab, feature).click()
    tab.locator("#graph-pin").click()
    assert "pinned" in node(tab, feature).get_attribute("class").split()
    assert tab.evaluate("document.activeElement.id") == "graph-pin"
    assert tab.locator("#graph-pin").inner_text().startswith("Unpin")
    node(tab, other).click()
    tab.locator("#graph-hide").click()
    assert drawn(tab) == set(range(len(graph))) - {other}
    assert chosen(tab) == 0
    assert tab.locator("#graph-show-all").inner_text() == "Show all (1 hidden)"
    slider = tab.locator("#graph-filter")
    slider.evaluate("(input) => { input.value = input.max; input.dispatchEvent(new Event('input')); }")
    strength = graph.shares()
    least = 10 ** float(slider.input_value())
    strong = {place for place, found in enumerate(graph.nodes) if strength[found.id] >= least}
    assert drawn(tab) == (strong | {0, feature}) - {other}
    assert len(drawn(tab)) < 20
    assert f"{len(drawn(tab))} of {len(graph)} nodes" in tab.locator("#graph-filter-text").inner_text()
    tab.reload()
    assert drawn(tab) == (strong | {0, feature}) - {other}
    tab.locator("#graph-show-all").click()
    assert drawn(tab) == set(range(len(graph)))
    assert tab.locator("#graph-show-all").is_disabled()


def test_by_keyboard(tab, graph):
    def focused():
        return int(tab.evaluate("document.activeElement.dataset.place"))

    node(tab, 0).focus()
    tab.keyboard.press("ArrowDown")
    below = focused()
    assert below != 0
    tab.keyboard.press("ArrowUp")
    assert focused() == 0
    tab.keyboard.press("ArrowDown")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    right = focused()
    tab.keyboard.press("Enter")
    assert (chosen(tab), focused()) == (right, right)
    assert tab.locator("#graph-canvas [tabindex='0']").count() == 1
    tab.keyboard.press("p")
    assert "pinned" in node(tab, right).get_attribute("class").split()
    assert focused() == right
    assert tab.locator("#graph-status").inner_text().endswith(" pinned")
    tab.keyboard.press("h")
    assert right not in drawn(tab)
    assert focused() in drawn(tab)
    tab.keyboard.press("Escape")
    assert chosen(tab) == 0
    tab.keyboard.press("h")
    node(tab, 0).focus()
    tab.keyboard.press("h")
    assert 0 in drawn(tab)


def test_the_prompt_is_coloured_and_shows_a_position_alone(tab, graph):
    tokens = tab.locator("#graph-prompt button")
    assert tokens.count() == len(graph.tokens)
    assert tokens.all_inner_texts() == [text.replace(" ", "␣") for text in graph.texts]
    last = len(graph.tokens) - 1
    assert tab.locator("#graph-prompt :is(.p, .n)").count() > 0
    tokens.nth(last).click()
    assert tokens.nth(last).get_attribute("aria-pressed") == "true"
    far = tab.locator("#graph-canvas .far").evaluate_all("all => all.map((node) => node.dataset.place)")
    assert {int(place) for place in far} == {
        place for place, found in enumerate(graph.nodes) if found.position != last
    }
    tokens.nth(last).click()
    assert tab.locator("#graph-canvas .far").count() == 0
    token = of_kind(graph, "token")[0]
    node(tab, token).click()
    (coloured,) = tab.locator("#graph-prompt :is(.p, .n)").all()
    assert coloured.get_attribute("data-position") == str(graph.nodes[token].position)


def test_the_circuit_of_weights(tab, made):
    static = made[1][1]
    tab.locator("#graph-pick").select_option("1")
    assert drawn(tab) == set(range(len(static)))
    assert tab.locator("#graph-prompt").is_hidden()
    assert tab.locator("#graph-prompt-note").is_hidden()
    assert title(tab).startswith("#7")
    tab.locator("#graph-pick").select_option("0")
    assert tab.locator("#graph-prompt").is_visible()


def test_a_table_has_the_same_nodes(tab, graph):
    assert tab.locator("#graph-all table").count() == 0
    tab.locator("#graph-all summary").click()
    rows = tab.locator("#graph-all tbody tr")
    tab.locator("#graph-all table").wait_for()
    assert rows.count() == len(graph)
    assert tab.locator("#graph-all caption").count() == 1
    rows.nth(4).locator("button").click()
    strength = sorted(graph.shares().values(), reverse=True)
    assert graph.shares()[graph.nodes[chosen(tab)].id] == pytest.approx(strength[4], rel=1e-3)
    picture = tab.locator("#graph-canvas svg")
    assert f"{len(graph)} nodes" in picture.get_attribute("aria-label")
    assert picture.get_attribute("role") == "graphics-document group"
    labels = tab.locator("#graph-canvas .node").evaluate_all("all => all.map((node) => node.ariaLabel)")
    assert all(labels)


def test_hostile_tokens_are_text(tab, graph, made):
    text = made[0].read_text(encoding="utf-8")
    data = text.split('id="graph-data">')[1].split("</script>")[0]
    assert "<" not in data
    assert HOSTILE[0] in " ".join(tab.locator("#graph-prompt button").all_inner_texts())
    for place in sorted(drawn(tab)):
        node(tab, place).hover(force=True)
        node(tab, place).click(force=True)
    assert tab.locator("#circuits script:not([type='application/json']), #circuits img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows_and_themes(open_page, made, scheme):
    tab = open_page(made[0], width=420, scheme=scheme)
    width = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]

    def ink():
        return tab.locator("#graph-canvas .logit circle:not(.hit)").evaluate("n => getComputedStyle(n).fill")

    before = ink()
    tab.locator("#theme").click()
    assert ink() != before
    tab.set_viewport_size({"width": 1100, "height": 900})
    tab.wait_for_function("() => document.querySelector('#graph-canvas svg').clientWidth > 450")
