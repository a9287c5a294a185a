"""A page's Content-Security-Policy: its own scripts run, and nothing that got in besides."""

import base64
import hashlib
import re

import pytest

from analysis.graphs.elements import Edge
from analysis.graphs.graph import Graph
from analysis.graphs.nodes import feature_node, logit_node, token_node
from analysis.report.graphs_section import graphs_page
from analysis.report.options import STORY, FeatureSource, ReportOptions
from analysis.report.write import report
from bilinear_lm.sites import Site

from .pages import hostile_model, unpacked, watched


@pytest.fixture(scope="module")
def page():
    """A report with figures that plotly draws, about a tiny model."""
    model, tokenizer, pair = hostile_model(["<script>alert(1)</script>"])
    options = ReportOptions(n_directions=1, layers=(1,), sample_tokens=0, text=STORY)
    return report(model, tokenizer, "a model", options, FeatureSource((pair,), STORY), progress=False)


@pytest.fixture(scope="module")
def graph_page():
    logit, feature = logit_node([7], position=1, value=2.0), feature_node(Site(0, "mlp-out"), 3, 1, 1.0)
    token = token_node(4, 1)
    edges = (Edge(feature.id, logit.id, 1.5), Edge(token.id, feature.id, 1.0))
    graph = Graph((logit, feature, token), edges, logit.id, tokens=(2, 4), texts=("a", " b"))
    return graphs_page((graph,), "a graph")


def policy(page):
    (content,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', page)
    return {part.split()[0]: part.split()[1:] for part in content.split("; ")}


def hashed(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("name", ["page", "graph_page"])
def test_scripts_by_hash(request, name):
    page = request.getfixturevalue(name)
    rules = policy(page)
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    # The library of figures is a packed text first, which becomes a script.
    scripts += map(unpacked, re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', page))
    assert len(scripts) == (3 if name == "page" else 2)
    assert sorted(rules["script-src"]) == sorted(map(hashed, scripts))
    assert rules["style-src"] == ["'unsafe-inline'"]
    assert page.index("Content-Security-Policy") < page.index("<script")
    # All others hold data.
    data = page.count('<script type="application/json"') + page.count('<script type="text/plain" data-shard')
    assert page.count("<script") == len(scripts) + data


@pytest.fixture
def said_by(browser, tmp_path):
    """A function that opens a page in a browser: all that it says, and its tab."""
    tabs = []

    def visit(page):
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        tab = browser.new_context().new_page()
        tabs.append(tab)
        said, _ = watched(tab)
        tab.goto(path.as_uri())
        return said, tab

    yield visit
    for tab in tabs:
        tab.context.close()


INJECTED = {
    "a script": "<script>document.title = 'run'</script>",
    "a script of another page": "<script src='data:text/javascript,document.title=\"run\"'></script>",
    "a module": "<script type='module'>document.title = 'run'</script>",
    "a handler": "<img src='data:,' onerror=\"document.title = 'run'\">",
    "a style that loads": "<style>body { background: url(https://example.org/x.png) }</style>",
    "a link": "<link rel='stylesheet' href='https://example.org/x.css'>",
    "a frame": "<iframe srcdoc=\"<script>parent.document.title = 'run'</script>\"></iframe>",
    "a base": "<base href='https://example.org/'>",
}


@pytest.mark.parametrize("what", INJECTED)
@pytest.mark.parametrize("name", ["page", "graph_page"])
def test_what_got_in_does_not_run(request, said_by, name, what):
    page = request.getfixturevalue(name)
    said, tab = said_by(page.replace('<main id="content">', f'<main id="content">{INJECTED[what]}'))
    tab.wait_for_timeout(200)
    assert tab.title() != "run"
    assert tab.evaluate("document.baseURI").startswith("file:")
    assert any("Content Security Policy" in line for line in said)
    # The page's own scripts go on.
    assert tab.locator("#theme").is_visible()


def test_the_page_itself_says_nothing_and_draws(said_by, page):
    said, tab = said_by(page)
    figures = tab.locator("#feature figure.plot")
    figures.first.wait_for(state="attached")
    for index in range(figures.count()):
        figures.nth(index).scroll_into_view_if_needed()
        figures.nth(index).locator("svg.main-svg").first.wait_for(timeout=60_000)
    assert figures.count() == 2
    tab.locator("#theme").click()
    assert tab.evaluate("document.documentElement.dataset.theme") in ("dark", "light")
    assert said == []


def test_a_graph_says_nothing_and_is_drawn(said_by, graph_page):
    said, tab = said_by(graph_page)
    tab.locator("#graph-canvas .node").first.wait_for(timeout=60_000)
    assert tab.locator("#graph-canvas .node").count() == 3
    assert said == []
