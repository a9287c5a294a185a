"""The graph part of the page in a browser: by mouse and keyboard, in both themes, with hostile tokens."""

import json
import random
import shutil

import pytest
import torch

from analysis.graph import Edge, Graph, Node, Pruned
from analysis.graph_parts import strengths
from analysis.page_circuits import circuits_page
from analysis.page_circuits_data import circuit_name, circuits_json
from analysis.report import FeatureSource, ReportOptions, report
from analysis.report_features_source import LayerDictionaries
from analysis.report_options import STORY
from analysis.tracing import trace
from bilinear_lm import Dictionary, Site
from bilinear_lm.presets import Preset, new_model
from finetune.data import train_tokenizer

HOSTILE = ["<script>alert(1)</script>", "</script><!--", "<img src=x onerror=alert(2)>"]
N_FEAT = 40
LIMIT = 200
"""Milliseconds within which a graph of 1,000 nodes is drawn, or one of its nodes chosen; on a quiet core."""


def dictionary(point, seed):
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(*shape, generator=generator) for shape in ((12, N_FEAT), (N_FEAT, 12)))
    return Dictionary(encoder, decoder, activation="topk", k=4, site=Site(1, point))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page with features and two graphs, about a tiny model whose tokens would be scripts."""
    tokenizer = train_tokenizer([STORY], 320)
    tokenizer.add_tokens(HOSTILE)
    torch.manual_seed(0)
    preset = Preset(d_model=12, d_mlp=20, n_layers=2, n_heads=2, n_ctx=96, d_vocab=0)
    model = new_model(preset, d_vocab=len(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5).add_(0.1 * torch.randn_like(parameter))
    pair = LayerDictionaries(1, dictionary("mlp-in", 1), dictionary("mlp-out", 2))
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


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the program chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a page in a new tab; afterwards, that nothing was said, asked for or run."""
    said, opened = [], []

    def visit(path, width=1100, scheme="light"):
        requested = []
        tab = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
        tab.set_default_timeout(60_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: requested.append(request.url))
        tab.goto(path.as_uri())
        opened.append((tab, path, requested))
        return tab

    yield visit
    assert said == []
    for tab, path, requested in opened:
        assert {url.split("#")[0] for url in requested} == {path.as_uri()}
        tab.context.close()


@pytest.fixture
def tab(open_page, made):
    return open_page(made[0])


@pytest.fixture
def graph(made):
    return made[1][0]


def drawn(tab):
    """The places of the nodes that are drawn."""
    nodes = tab.locator("#circuit-canvas .node")
    return {int(place) for place in nodes.evaluate_all("all => all.map((node) => node.dataset.place)")}


def node(tab, place):
    return tab.locator(f"#circuit-canvas .node[data-place='{place}']")


def title(tab):
    return tab.locator("#circuit-node-title").inner_text()


def chosen(tab):
    return int(tab.locator("#circuit-canvas .chosen").get_attribute("data-place"))


def of_kind(graph, kind):
    return [place for place, found in enumerate(graph.nodes) if found.kind == kind]


# What is on the page.


def test_the_data_are_the_graph(graph):
    (data,) = json.loads(circuits_json([graph]))
    assert data["id"] == [found.id for found in graph.nodes]
    assert data["target"] == 0
    strength = strengths(graph)
    assert data["strength"] == pytest.approx([strength[found.id] for found in graph.nodes], rel=1e-3)
    edges = list(zip(*[iter(data["edges"])] * 4, strict=True))
    assert [(graph.nodes[source].id, graph.nodes[target].id) for source, target, *_ in edges] == [
        (edge.source, edge.target) for edge in graph.edges
    ]
    assert [weight for *_, weight, _ in edges] == pytest.approx(
        [edge.weight for edge in graph.edges], rel=1e-3
    )
    for found, left in zip(graph.nodes, data["left"], strict=True):
        pruned = graph.pruned.get(found.id, Pruned())
        assert (left[2] if left else 0) == pruned.count
    assert "<" not in circuits_json([graph])


def test_names_of_graphs(made):
    on_prompt, static = map(circuit_name, made[1])
    assert on_prompt.endswith(f"{HOSTILE[1]} a{HOSTILE[2]}”")
    assert static == "feature 1-mlp-out 7, from weights alone"


@pytest.mark.parametrize(("position", "words"), [(0, "a"), (3, "a b c d"), (7, "c d e f g h")])
def test_a_name_has_the_words_up_to_the_target(position, words):
    texts = tuple(f"{'' if letter == 'a' else ' '}{letter}" for letter in "abcdefgh")
    target = Node("t", "logit", position=position, value=1.0)
    graph = Graph((target,), (), "t", tokens=tuple(range(8)), texts=texts)
    assert circuit_name(graph) == f"t on “…{words}”"


def test_nodes_stand_by_layer_and_position(tab, graph):
    assert drawn(tab) == set(range(len(graph)))
    at = {
        int(place): (x, y)
        for place, x, y in tab.locator("#circuit-canvas .node").evaluate_all(
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
    assert tab.locator("#circuit-canvas .interaction polygon").count() == len(of_kind(graph, "interaction"))


def test_a_node_is_chosen_and_tells_what_it_is_made_of(tab, graph):
    assert title(tab) == graph.nodes[0].label
    place = of_kind(graph, "interaction")[0]
    node(tab, place).click()
    assert chosen(tab) == place
    into = graph.into(graph.nodes[place].id)
    rows = tab.locator("#circuit-node .columns > section:first-child tbody tr")
    assert rows.count() == len(into)
    weight = float(rows.first.locator(".bar span").inner_text().replace("−", "-"))
    assert weight == pytest.approx(into[0].weight, rel=6e-3)
    assert "is what the product adds" in tab.locator("#circuit-node caption").first.inner_text()
    assert tab.locator("#circuit-canvas .own path").count() == len(into) + 1
    rows.first.locator("button").click()
    assert graph.nodes[chosen(tab)].id == into[0].source
    assert tab.evaluate("document.activeElement.id") == "circuit-node-title"


def test_the_chosen_node_leads_to_its_feature(tab, graph):
    place = next(
        place
        for place in of_kind(graph, "feature")
        if graph.nodes[place].site == "1-mlp-in" and graph.nodes[place].index is not None
    )
    node(tab, place).click()
    number = graph.nodes[place].index
    tab.locator("#circuit-node .more").click()
    tab.locator("#feature-title", has_text=f"Input feature #{number}").wait_for()
    assert tab.evaluate("location.hash") == f"#layer-1-in-{number}"
    tab.go_back()
    assert chosen(tab) == place


def test_nodes_are_pinned_hidden_and_left_out(tab, graph):
    feature, other = of_kind(graph, "feature")[:2]
    node(tab, feature).click()
    tab.locator("#circuit-pin").click()
    assert "pinned" in node(tab, feature).get_attribute("class").split()
    assert tab.evaluate("document.activeElement.id") == "circuit-pin"
    assert tab.locator("#circuit-pin").inner_text().startswith("Unpin")
    node(tab, other).click()
    tab.locator("#circuit-hide").click()
    assert drawn(tab) == set(range(len(graph))) - {other}
    assert chosen(tab) == 0
    assert tab.locator("#circuit-show-all").inner_text() == "Show all (1 hidden)"
    slider = tab.locator("#circuit-filter")
    slider.evaluate("(input) => { input.value = input.max; input.dispatchEvent(new Event('input')); }")
    strength = strengths(graph)
    least = 10 ** float(slider.input_value())
    strong = {place for place, found in enumerate(graph.nodes) if strength[found.id] >= least}
    assert drawn(tab) == (strong | {0, feature}) - {other}
    assert len(drawn(tab)) < 20
    assert f"{len(drawn(tab))} of {len(graph)} nodes" in tab.locator("#circuit-filter-text").inner_text()
    tab.reload()
    assert drawn(tab) == (strong | {0, feature}) - {other}
    tab.locator("#circuit-show-all").click()
    assert drawn(tab) == set(range(len(graph)))
    assert tab.locator("#circuit-show-all").is_disabled()


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
    assert tab.locator("#circuit-canvas [tabindex='0']").count() == 1
    tab.keyboard.press("p")
    assert "pinned" in node(tab, right).get_attribute("class").split()
    assert focused() == right
    assert tab.locator("#circuit-status").inner_text().endswith(" pinned")
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
    tokens = tab.locator("#circuit-prompt button")
    assert tokens.count() == len(graph.tokens)
    assert tokens.all_inner_texts() == [text.replace(" ", "␣") for text in graph.texts]
    last = len(graph.tokens) - 1
    assert tab.locator("#circuit-prompt :is(.p, .n)").count() > 0
    tokens.nth(last).click()
    assert tokens.nth(last).get_attribute("aria-pressed") == "true"
    far = tab.locator("#circuit-canvas .far").evaluate_all("all => all.map((node) => node.dataset.place)")
    assert {int(place) for place in far} == {
        place for place, found in enumerate(graph.nodes) if found.position != last
    }
    tokens.nth(last).click()
    assert tab.locator("#circuit-canvas .far").count() == 0
    token = of_kind(graph, "token")[0]
    node(tab, token).click()
    (coloured,) = tab.locator("#circuit-prompt :is(.p, .n)").all()
    assert coloured.get_attribute("data-position") == str(graph.nodes[token].position)


def test_positions_have_signed_parts(open_page, tmp_path):
    """4 from the pair a·b, 3 from a token, −2 from an error and 1 that is not shown, by hand."""
    nodes = (
        Node("t", "logit", position=2, value=6.0),
        Node("pair", "interaction", layer=0, position=1, value=4.0),
        Node("a", "feature", layer=0, position=1, index=1, site="0-mlp-in", value=-2.0),
        Node("b", "feature", layer=0, position=1, index=2, site="0-mlp-in", value=2.0),
        Node("one", "token", position=0, index=5),
        Node("error", "error", layer=0, position=2, site="0-mlp-out"),
    )
    edges = (
        *(Edge("pair", "t", 4.0), Edge("one", "t", 3.0), Edge("error", "t", -2.0)),
        *(Edge("a", "pair", 4.0), Edge("b", "pair", 4.0), Edge("one", "a", -2.0), Edge("one", "b", -1.0)),
    )
    pruned = {"t": Pruned(1.0, 1.0, 2), "b": Pruned(3.0, 3.0, 1)}
    graph = Graph(nodes, edges, "t", tokens=(5, 6, 7), texts=("x", "y", "z"), pruned=pruned)
    path = tmp_path / "page.html"
    path.write_text(circuits_page([graph], "model"), encoding="utf-8")
    tab = open_page(path)
    titles = tab.locator("#circuit-prompt button").evaluate_all("all => all.map((token) => token.title)")
    # 0: 0.3 + 0.2 (a is −2, of which −2) − 0.2 · 1/4; 1: 0.2 · 3/4; 2: 0.1 not shown − 0.2.
    assert titles == ["x: +45.0%", "y: +15.0%", "z: −10.0%"]
    node(tab, 2).click()
    first = tab.locator("#circuit-prompt button").first
    assert first.get_attribute("title") == "x: −100%"
    assert first.get_attribute("class") == "n"


def test_the_circuit_of_weights(tab, made):
    static = made[1][1]
    tab.locator("#circuit-pick").select_option("1")
    assert drawn(tab) == set(range(len(static)))
    assert tab.locator("#circuit-prompt").is_hidden()
    assert tab.locator("#circuit-prompt-note").is_hidden()
    assert title(tab).startswith("#7")
    tab.locator("#circuit-pick").select_option("0")
    assert tab.locator("#circuit-prompt").is_visible()


def test_a_table_has_the_same_nodes(tab, graph):
    assert tab.locator("#circuit-all table").count() == 0
    tab.locator("#circuit-all summary").click()
    rows = tab.locator("#circuit-all tbody tr")
    tab.locator("#circuit-all table").wait_for()
    assert rows.count() == len(graph)
    assert tab.locator("#circuit-all caption").count() == 1
    rows.nth(4).locator("button").click()
    strength = sorted(strengths(graph).values(), reverse=True)
    assert strengths(graph)[graph.nodes[chosen(tab)].id] == pytest.approx(strength[4], rel=1e-3)
    picture = tab.locator("#circuit-canvas svg")
    assert f"{len(graph)} nodes" in picture.get_attribute("aria-label")
    assert picture.get_attribute("role") == "graphics-document group"
    labels = tab.locator("#circuit-canvas .node").evaluate_all("all => all.map((node) => node.ariaLabel)")
    assert all(labels)


def test_hostile_tokens_are_text(tab, graph, made):
    text = made[0].read_text(encoding="utf-8")
    data = text.split('id="circuit-data">')[1].split("</script>")[0]
    assert "<" not in data
    assert HOSTILE[0] in " ".join(tab.locator("#circuit-prompt button").all_inner_texts())
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
        return tab.locator("#circuit-canvas .logit circle:not(.hit)").evaluate(
            "n => getComputedStyle(n).fill"
        )

    before = ink()
    tab.locator("#theme").click()
    assert ink() != before
    tab.set_viewport_size({"width": 1100, "height": 900})
    tab.wait_for_function("document.querySelector('#circuit-canvas svg').clientWidth > 500")


# Large graphs.


def large(n_nodes=1000, n_positions=20):
    """A target, and layers of nodes each of which is part of twelve of those above."""
    generator = random.Random(0)
    nodes = [Node("target", "logit", position=n_positions - 1, value=1.0)]
    edges, above = [], [0]
    for layer in reversed(range(4)):
        for site in (f"{layer}-mlp-out", f"{layer}-mlp-in"):
            first = len(nodes)
            for i in range((n_nodes - 1) // 8 + 1):
                position = generator.randrange(n_positions)
                nodes.append(
                    Node(f"{site} {i}", "feature", layer, position, i, site, label=f"#{i} a", value=1.0)
                )
                for consumer in generator.sample(above, min(12, len(above))):
                    weight = generator.gauss(0, 1)
                    edges.append(Edge(nodes[-1].id, nodes[consumer].id, weight))
            above = list(range(first, len(nodes)))
    texts = tuple(f" word{i}" for i in range(n_positions))
    return Graph(tuple(nodes), tuple(edges), "target", tokens=tuple(range(n_positions)), texts=texts)


def test_a_thousand_nodes_are_drawn_and_chosen_at_once(open_page, tmp_path):
    graph = large()
    path = tmp_path / "large.html"
    path.write_text(circuits_page([graph], "model"), encoding="utf-8")
    tab = open_page(path)
    assert len(drawn(tab)) < 300
    timed = """(act) => {
        const start = performance.now();
        act();
        document.getElementById("circuits").getBoundingClientRect();
        return performance.now() - start;
    }"""
    show = f"() => ({timed})(() => document.getElementById('circuit-show-all').click())"
    choose = f"""(i) => ({timed})(() => document.querySelectorAll('#circuit-canvas .node')[i]
        .dispatchEvent(new MouseEvent('click', {{ bubbles: true }})))"""
    draw = f"""() => ({timed})(() => document.getElementById('circuit-filter')
        .dispatchEvent(new Event('input')))"""
    tab.evaluate(show)
    assert len(drawn(tab)) == len(graph) == 1001
    # The quickest of several: the machine may be doing other things.
    assert min(tab.evaluate(draw) for _ in range(5)) < LIMIT
    assert min(tab.evaluate(choose, 100 * i) for i in range(1, 6)) < LIMIT
    width = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
