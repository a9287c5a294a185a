"""The features part of the page in a browser: by keyboard, by links, in both themes, with hostile tokens."""

import json
import re

import pytest

from analysis.report.options import STORY, FeatureSource, ReportOptions
from analysis.report.write import report
from bilinear_lm.dictionaries.names import load_feature_names

from .pages import hostile_model, unpacked

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><!--",
    "<img src=x onerror=alert(2)>",
    "<!--<script>",
    "&lt;b>",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page about a tiny model whose tokens would be scripts if they were read as HTML."""
    model, tokenizer, pair = hostile_model(HOSTILE)
    text = "\n<|endoftext|>\n".join(
        f"{hostile} {sentence}{hostile}" for hostile in HOSTILE for sentence in STORY.split(".")
    )
    source = FeatureSource((pair,), text, first=(1, 7))
    options = ReportOptions(n_directions=1, layers=(1,), sample_tokens=0)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report(model, tokenizer, "a model", options, source, progress=False), encoding="utf-8")
    return path


@pytest.fixture
def tab(open_page, page):
    """The page in a new tab."""
    return open_page(page, width=420, height=800)


def draw(tab):
    """Looks at every picture of the feature, until it is drawn."""
    for canvas in tab.locator("#feature .canvas").all():
        canvas.scroll_into_view_if_needed()
    tab.locator("#feature:not(:has(.canvas:empty))").wait_for(state="attached")


def heading(tab):
    return tab.locator("#feature-title").inner_text()


def wait_for(tab, title):
    """Until a feature that the address leads to is shown."""
    tab.locator("#feature-title", has_text=re.compile(rf"{re.escape(title)}\b")).wait_for()


def address(tab):
    return tab.evaluate("location.hash")


def test_the_page_keeps_the_script_and_tells_no_tags(page):
    text = page.read_text(encoding="utf-8")
    (index,) = re.findall(r'<script type="application/json" [^>]*>(.*?)</script>', text, re.DOTALL)
    shards = re.findall(r'<script type="text/plain" data-shard="[^"]*">(.*?)</script>', text, re.DOTALL)
    assert len(shards) == 4  # a list and details of each side
    for data in (index, *shards):
        assert "<" not in data
    for data in (index, unpacked(shards[2])):
        assert "\\u003cscript>alert(1)\\u003c/script>" in data
    assert "default-src 'none'" in text


def test_a_feature_is_picked_by_keyboard(tab):
    assert heading(tab).startswith("Output feature #7")
    assert address(tab) == ""
    tab.locator("#pick-list").focus()
    tab.keyboard.press("Home")
    first = address(tab)
    assert re.fullmatch(r"#layer-1-out-\d+", first)
    tab.keyboard.press("ArrowDown")
    second = address(tab)
    assert second != first
    number = second.rsplit("-", 1)[1]
    assert heading(tab).startswith(f"Output feature #{number}")
    assert tab.locator("#feature-status").inner_text().startswith(f"Output feature #{number} of layer 1")
    marked = tab.locator("#pick-list [aria-selected=true]")
    assert marked.inner_text().startswith(f"#{number}")
    assert tab.locator("#pick-list").get_attribute("aria-activedescendant") == marked.get_attribute("id")
    tab.keyboard.press("k")
    assert address(tab) == first
    tab.keyboard.press("j")
    assert address(tab) == second
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "feature-title"
    tab.keyboard.press("j")
    assert address(tab) != second


def test_the_chosen_feature_is_marked_among_all(tab):
    marks = tab.locator("#perspective .mark[visibility=visible]")
    assert marks.count() == tab.locator("#perspective svg").count() > 3
    told = tab.locator("#perspective-shown")
    assert "#7" in told.inner_text()
    before = marks.first.get_attribute("x1")
    tab.locator("#pick-list").focus()
    tab.keyboard.press("Home")
    number = address(tab).rsplit("-", 1)[1]
    tab.locator("#perspective-shown a", has_text=f"#{number}").wait_for()
    rank = tab.locator("#feature dl.numbers div", has_text="effective rank").locator("dd").inner_text()
    rank_told = tab.locator("[data-measure=rank] .this").inner_text()
    assert rank_told == f"; this one {rank}"
    assert marks.first.get_attribute("x1") != before
    tab.locator("#feature .interactions a.feature").first.click()
    told.get_by_text("Choose an output feature").wait_for()
    assert marks.count() == 0


def test_search_finds_tokens_and_numbers(tab):
    search = tab.locator("#pick-search")
    search.fill("#12")
    options = tab.locator("#pick-list [role=option]")
    assert options.count() == 1
    search.press("Enter")
    assert address(tab) == "#layer-1-out-12"
    search.fill("nothing is called this")
    assert options.count() == 0
    assert tab.locator("#pick-count").inner_text() == "0 of 40 features"
    search.fill("")
    assert options.first.get_attribute("aria-setsize") == "40"


def test_links_lead_to_input_features_and_back(tab):
    start = heading(tab)
    link = tab.locator("#feature .interactions a.feature").first
    name = link.inner_text()
    link.click()
    wait_for(tab, f"Input feature {name.split()[0]}")
    assert address(tab) == f"#layer-1-in-{name.split()[0][1:]}"
    assert tab.evaluate("document.activeElement.id") == "feature-title"
    assert tab.locator("#pick-side").input_value() == "in"
    outward = tab.locator("#feature .interactions td:first-child a.feature").first
    outward_name = outward.inner_text()
    outward.click()
    wait_for(tab, f"Output feature {outward_name.split()[0]}")
    tab.go_back()
    wait_for(tab, f"Input feature {name.split()[0]}")
    tab.go_back()
    wait_for(tab, start.split("\n")[0])
    draw(tab)


def test_layer_side_and_order_can_be_chosen(tab):
    tab.locator("#pick-order").select_option("explained")
    tab.locator("#pick-side").select_option("in")
    assert heading(tab).startswith("Input feature")
    assert tab.locator("#pick-order").input_value() == "active"
    tab.locator("#pick-order").select_option("number")
    first = tab.locator("#pick-list [role=option]").first
    assert first.inner_text().startswith("#0")
    first.click()
    assert address(tab) == "#layer-1-in-0"


def test_an_address_that_is_not_there(tab, page):
    tab.goto(f"{page.as_uri()}#layer-1-out-400")
    tab.locator("#feature", has_text="There is no such feature on this page.").wait_for()
    tab.goto(f"{page.as_uri()}#layer-1-out-3")
    wait_for(tab, "Output feature #3")


def test_figures_and_passages(tab):
    assert tab.evaluate("window.Plotly === undefined")  # the library runs where the first figure is
    draw(tab)
    tab.locator("#feature .heatmaplayer image, #feature .heatmaplayer path").first.wait_for(state="attached")
    tab.locator("#feature .barlayer path").first.wait_for(state="attached")
    assert tab.locator("#feature .canvas[role=img][aria-label]").count() == 2
    assert tab.locator("#feature table").count() == tab.locator("#feature table caption").count() == 4
    assert (
        tab.locator("#feature .contexts li").count() == tab.locator("#feature .contexts strong").count() > 0
    )
    width = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


def test_hostile_tokens_are_text(tab):
    names = set()
    tab.locator("#pick-list").focus()
    tab.keyboard.press("Home")
    for at in range(40):
        marked = tab.locator("#pick-list [aria-selected=true]")
        assert marked.get_attribute("aria-posinset") == str(at + 1)
        names.add(marked.inner_text())
        tab.keyboard.press("ArrowDown")
    assert len(names) == 40
    assert "<script>alert(1)</script>" in " ".join(names)
    draw(tab)
    assert (
        tab.locator(
            "#features script:not([type='application/json'], [type='text/plain']), #features img"
        ).count()
        == 0
    )


def test_the_theme_is_switched_and_kept(tab):
    def colors():
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    light = colors()
    button = tab.locator("#theme")
    assert button.inner_text() == "Dark theme"
    button.click()
    assert colors() != light
    assert button.inner_text() == "Light theme"
    tab.reload()
    assert colors() != light
    button.click()
    assert colors() == light


def test_nothing_can_be_fetched(browser, page):
    """The policy of the page stops requests, also those that a script of its own would make."""
    tab = browser.new_context().new_page()
    stopped = []
    tab.on("requestfailed", lambda request: stopped.append(request.url))
    tab.goto(page.as_uri())
    refused = tab.evaluate("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'refused')")
    assert refused == "refused"
    violated = tab.evaluate(
        """new Promise((tell) => {
            addEventListener('securitypolicyviolation', (event) => tell(event.violatedDirective));
            document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/a.png' }));
        })"""
    )
    assert violated == "img-src"
    tab.context.close()


def test_a_feature_is_renamed_by_keyboard_and_the_name_saved_and_opened(tab, page, open_page, tmp_path):
    tab.locator("#rename").focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "rename-text"
    tab.keyboard.type("  <b>sea</b> ")
    tab.keyboard.press("Enter")
    assert heading(tab) == "Output feature #7 <b>sea</b>"
    assert tab.evaluate("document.activeElement.id") == "rename"
    assert tab.locator("#pick-list [aria-selected=true]").inner_text() == "#7 <b>sea</b>"
    with tab.expect_download() as download:
        tab.locator("#names-save").click()
    content = json.loads(download.value.path().read_text(encoding="utf-8"))
    dictionary = hostile_model(HOSTILE)[2].outputs
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert load_feature_names(path, {dictionary.site: dictionary}) == {dictionary.site: {7: "<b>sea</b>"}}

    # One name is for one feature; an empty one takes the made one back.
    tab.goto(f"file://{page}#layer-1-out-8")
    wait_for(tab, "Output feature #8")
    tab.locator("#rename").click()
    tab.locator("#rename-text").fill("<b>sea</b>")
    tab.locator("#rename-text").press("Enter")
    assert "#7 has this name" in tab.locator("#rename-says").inner_text()
    tab.locator("#rename-text").press("Escape")
    assert heading(tab).startswith("Output feature #8")

    other = open_page(page, width=420, height=800)
    other.locator("#names-open").set_input_files(path)
    other.locator("#names-status", has_text="1 features named").wait_for()
    assert heading(other) == "Output feature #7 <b>sea</b>"
    content["dictionaries"]["1-mlp-out"]["fingerprint"] = "0" * 16
    path.write_text(json.dumps(content), encoding="utf-8")
    other.locator("#names-open").set_input_files(path)
    other.locator("#names-status", has_text="for another dictionary").wait_for()
    other.locator("#rename").click()
    other.locator(".rename .made").click()
    assert "sea" not in heading(other)
    assert other.locator("#names-save").is_disabled()
