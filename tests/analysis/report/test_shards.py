"""The features part in pieces: equal to the whole, by layers into a folder, killed and gone on, browsed."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
import torch

from analysis.features.dictionaries import LayerDictionaries
from analysis.report.collect import collect
from analysis.report.document import page_file, shard_script
from analysis.report.features import collect_features
from analysis.report.features_section import features_section
from analysis.report.findings.cards import findings
from analysis.report.options import STORY, FeatureSource, ReportOptions
from analysis.report.shards import content
from analysis.report.shards.content import Tokens, feature_index, layer_shards
from analysis.report.shards.folder import MANIFEST, ReportFolder
from analysis.report.shards.kept import load_reading, save_reading, slimmed
from analysis.report.write import report, report_folder
from analysis.text.vocabulary import Vocabulary
from bilinear_lm import Dictionary, InputError, Site

from .pages import data_in, data_of, hostile_model, unescaped, watched, whole

HOSTILE = ["<script>alert(1)</script>", "</script><!--", "it's \\ 'x'); alert(2); ('", "a\u2028b\u2029c"]
OPTIONS = ReportOptions(n_directions=1, sample_tokens=0)


@pytest.fixture(scope="module")
def made():
    """A tiny model with dictionaries around both MLPs, and tokens that would be scripts."""
    model, tokenizer, pair = hostile_model(HOSTILE)
    below = LayerDictionaries(0, _at(pair.inputs, 0), _at(pair.outputs, 0))
    text = "\n<|endoftext|>\n".join(f"{hostile} {STORY} {hostile}" for hostile in HOSTILE)
    source = FeatureSource((below, pair), text, n_contexts=3, width=4, n_corner=4, n_values=6)
    return model, tokenizer, replace(source, given={Site(1, "mlp-out"): {3: "it's </script>\u2028"}})


def _at(dictionary: Dictionary, layer: int) -> Dictionary:
    return replace(dictionary, site=Site(layer, dictionary.site.point))


@pytest.fixture(scope="module")
def data(made):
    model, tokenizer, source = made
    return collect(model, tokenizer, "a model", OPTIONS, source, progress=False)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    model, tokenizer, source = made
    path = tmp_path_factory.mktemp("report") / "in a folder"
    assert report_folder(path, model, tokenizer, "a model", OPTIONS, source, progress=False) == (
        path / "index.html"
    )
    return path


# What shards hold.


@pytest.mark.parametrize("per_shard", [1, 7, 40, 256])
def test_pieces_of_any_size_are_the_whole(data, per_shard):
    features, tokens = data.features, Tokens(data.features.windows)
    shards = {}
    for reading in features.layers:
        shards |= dict(layer_shards(reading, tokens, features.source.n_interactions, per_shard))
    assert len(shards) == 2 * 2 * (1 + -(-40 // per_shard))
    joined = whole(feature_index(features, data.vocabulary, per_shard), shards)
    expected = data_of(features_section(features, data.vocabulary))
    assert joined.pop("perShard") == per_shard
    assert expected.pop("perShard") == content.PER_SHARD
    assert joined == expected


def test_the_list_has_what_it_is_sorted_by(data):
    for layer in data_of(features_section(data.features, data.vocabulary))["layers"]:
        assert set(layer["in"]["listed"]) == {"name", "active"}
        listed, out = layer["out"]["listed"], layer["out"]
        assert listed["strength"] == out["strength"]
        assert listed["explained"] == [correlations[1] for correlations in out["activeOnly"]]


def test_a_page_of_some_features_numbers_them(made):
    model, tokenizer, source = made
    some = collect_features(model, tokenizer, replace(source, n_features=9), [1], progress=False)
    vocabulary = Vocabulary.of(tokenizer, model.config.vocab_size)
    (layer,) = feature_index(some, vocabulary)["layers"]
    assert layer["out"]["id"] == some.layers[0].outputs.features.tolist()
    assert (layer["out"]["n"], layer["out"]["nFeat"]) == (9, 40)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_leaves_the_script_of_a_shard(text):
    script = shard_script("a", {text: [text, 1.5, None]})
    assert script.startswith('shard("a", \'')
    assert "<" not in script
    assert not set("\n\r\u2028\u2029") & set(script[:-1])
    inside = re.fullmatch(r"shard\(\"a\", '((?:[^'\\]|\\.)*)'\);\n", script)[1]
    assert json.loads(re.sub(r"\\(u\w{4}|.)", unescaped, inside)) == {text: [text, 1.5, None]}


# A folder.


def test_a_folder_holds_what_the_page_in_one_file_does(made, folder, data):
    model, tokenizer, source = made
    page = report(model, tokenizer, "a model", OPTIONS, source, progress=False)
    assert data_in(folder) == data_of(page)
    written = (folder / "index.html").read_text()
    assert '<script type="text/plain" data-shard' not in written
    assert "https://" not in written
    sections = r"<section .*?(?=<script type=\"application/json\")"
    assert re.findall(sections, page, re.DOTALL)[0] == re.findall(sections, written, re.DOTALL)[0]
    assert not (folder / "parts").exists()


def test_what_is_kept_of_a_layer_gives_the_same_findings_and_comes_back_from_disk(data, tmp_path):
    kept = tuple(slimmed(reading) for reading in data.features.layers)
    for reading in kept:
        save_reading(tmp_path, reading)
    loaded = tuple(load_reading(tmp_path, layer, data.features.windows) for layer in (0, 1))
    expected = findings(data)
    for layers in (kept, loaded):
        features = replace(data.features, layers=layers)
        assert findings(replace(data, features=features)) == expected
        assert features.first == data.features.first
    for one, other in zip(kept, loaded, strict=True):
        _assert_same(one, other)
        assert _size(one) < _size(data.features.layers[0]) / 2


def _assert_same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        elif is_dataclass(a) and not isinstance(a, Site | Vocabulary):
            _assert_same(a, b)
        elif field.name != "vocabulary":
            assert a == b, field.name


def _size(value):
    """Bytes of the tensors in a dataclass."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, tuple):
        return sum(map(_size, value))
    return sum(_size(getattr(value, field.name)) for field in fields(value)) if is_dataclass(value) else 0


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("n_files", [3, 6, 9])
def test_a_report_that_was_killed_goes_on(made, folder, tmp_path, monkeypatch, n_files):
    model, tokenizer, source = made
    asked = tmp_path / "report", model, tokenizer, "a model", OPTIONS, source
    from analysis.report.shards import folder as module

    write, written, kept = module.write_text, [], []

    def killing(path, text):
        if len(written) == n_files:
            raise Killed
        written.append(path.name)
        write(path, text)

    monkeypatch.setattr(module, "write_text", killing)
    with pytest.raises(Killed):
        report_folder(*asked, progress=False)
    done = json.loads((tmp_path / "report" / MANIFEST).read_text())["layers"]
    assert done == [[], [0], [0, 1]][n_files // 4]
    monkeypatch.setattr(module, "write_text", lambda path, text: (kept.append(path.name), write(path, text)))
    report_folder(*asked, progress=False)
    assert not [name for name in kept if name[:1] in map(str, done)]
    files = {path.relative_to(folder) for path in folder.rglob("*")}
    assert {path.relative_to(tmp_path / "report") for path in (tmp_path / "report").rglob("*")} == files
    for path in files:
        if (folder / path).is_file():
            assert (tmp_path / "report" / path).read_bytes() == (folder / path).read_bytes(), path
    kept.clear()
    report_folder(*asked, progress=False)
    assert not kept


def test_other_settings_and_other_contents_are_refused(made, folder, tmp_path):
    model, tokenizer, source = made
    fewer = replace(source, n_interactions=5)
    with pytest.raises(InputError, match=r"other inputs \(features: n_interactions 20, not 5\)"):
        report_folder(folder, model, tokenizer, "a model", OPTIONS, fewer, progress=False)
    (below, pair) = source.dictionaries
    encoder = pair.inputs.encoder.clone()
    encoder[0, 0] += 1
    changed = replace(
        source, dictionaries=(below, replace(pair, inputs=replace(pair.inputs, encoder=encoder)))
    )
    with pytest.raises(InputError, match=r"features: dictionaries: 1-mlp-in\); give"):
        report_folder(folder, model, tokenizer, "a model", OPTIONS, changed, progress=False)
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="exists already"):
        ReportFolder.open(tmp_path, {})


# In a browser.


@pytest.fixture
def opened(browser, folder):
    """The folder's page in a tab, with what it says and asks for."""
    tab = browser.new_context(viewport={"width": 900, "height": 700}).new_page()
    tab.set_default_timeout(30_000)
    said, requested = watched(tab)
    tab.goto((folder / "index.html").as_uri())
    tab.locator("#feature .contexts li").first.wait_for(state="attached")
    yield tab, requested
    tab.context.close()
    assert said == []


def _names(requested):
    return [url.rsplit("/", 1)[1].split("#")[0] for url in requested]


def test_a_folder_is_read_as_far_as_it_is_looked_at(opened):
    tab, requested = opened
    first = re.search(r"of layer (\d)", tab.locator("#feature-status").text_content())[1]
    assert sorted(_names(requested)) == sorted(
        ["index.html", *(f"{first}-{name}.js" for name in ("in-list", "out-list", "out-0"))]
    )
    tab.locator("#feature .canvas").first.scroll_into_view_if_needed()
    tab.locator("#feature .canvas .main-svg").first.wait_for(state="attached")
    assert _names(requested)[-1] == "plotly.js"
    other = "0" if first == "1" else "1"
    tab.locator("#pick-layer").select_option(other)
    tab.locator("#feature[aria-busy]").wait_for(state="detached")
    tab.locator(f"#feature .kicker:text('layer {other}') ~ *").first.wait_for()
    assert set(_names(requested)[5:]) == {f"{other}-{name}.js" for name in ("in-list", "out-list", "out-0")}
    n_asked = len(requested)
    tab.locator("#pick-layer").select_option(first)
    tab.locator(f"#feature .kicker:text('layer {first}')").wait_for()
    assert len(requested) == n_asked


def test_hostile_names_and_tokens_of_a_folder_are_text(opened):
    tab, _ = opened
    tab.goto(tab.url.split("#")[0] + "#layer-1-out-3")
    tab.locator("#feature-title", has_text="#3 it's </script>").wait_for()
    tab.locator("#pick-list").focus()
    for _ in range(40):
        tab.keyboard.press("ArrowDown")
    tab.locator("#feature:not([aria-busy])").wait_for()
    assert tab.locator("#features script:not([type='application/json']), #features img").count() == 0


class Held(SimpleHTTPRequestHandler):
    """Serves a folder, one file of which has to wait."""

    let_go = Event()

    def do_GET(self):
        if self.path.endswith("/0-in-0.js"):
            self.let_go.wait(30)
        super().do_GET()

    def log_message(self, *_):
        pass


def test_an_answer_that_comes_late_is_dropped(browser, folder):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Held, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        tab = browser.new_page()
        said, _ = watched(tab)
        tab.goto(f"http://127.0.0.1:{server.server_port}/#layer-0-in-1", wait_until="commit")
        tab.locator("#feature[aria-busy] #feature-title", has_text="Input feature #1").wait_for()
        tab.evaluate("location.replace('#layer-1-in-9')")
        tab.locator("#feature:not([aria-busy]) h4", has_text="What it takes part in").wait_for()
        with tab.expect_request_finished(lambda request: request.url.endswith("/0-in-0.js")):
            Held.let_go.set()
        tab.locator("#perspective-shown", has_text="Choose an output feature").wait_for()
        assert tab.locator("#feature-title").inner_text().startswith("Input feature #9")
        assert tab.locator("#feature .kicker").inner_text() == "What the MLP of layer 1 reads (1-mlp-in)"
        tab.close()
        server.shutdown()
    assert said == []


def test_a_missing_file_is_told(browser, folder, tmp_path):
    path = tmp_path / "index.html"
    path.write_bytes((folder / "index.html").read_bytes())
    tab = browser.new_page()
    tab.goto(path.as_uri())
    tab.locator("#feature [role=alert]", has_text="belongs beside this page").wait_for()
    tab.close()


def test_only_rows_in_view_are_elements(browser, tmp_path):
    """A list of 9,000 rows, from the script alone."""
    path = tmp_path / "list.html"
    scripts = "\n".join(map(page_file, ("parts.js", "features/rows.js")))
    path.write_text(
        f"""<!doctype html><meta charset="utf-8"><style>{page_file("features/style.css")}
        #pick-list {{ height: 240px; }}</style><ul id="pick-list" role="listbox" tabindex="0"></ul>
        <script>{scripts}
        const list = document.getElementById("pick-list");
        const rows = new Rows(list, (at) => [`row ${{at}}`]);
        rows.fill(9000);</script>""",
        encoding="utf-8",
    )
    tab = browser.new_page()
    tab.goto(path.as_uri())
    options = tab.locator("[role=option]")
    assert 10 <= options.count() <= 40
    tab.evaluate("rows.choose(8999)")
    marked = tab.locator("[aria-selected=true]")
    assert marked.inner_text() == "row 8999"
    assert (marked.get_attribute("aria-posinset"), marked.get_attribute("aria-setsize")) == ("9000", "9000")
    assert tab.locator("#pick-list").get_attribute("aria-activedescendant") == marked.get_attribute("id")
    assert marked.bounding_box()["y"] + 24 <= tab.locator("#pick-list").bounding_box()["y"] + 242
    tab.evaluate("list.scrollTop = 0")
    tab.locator("[role=option]", has_text=re.compile("^row 0$")).wait_for()
    assert options.count() <= 40
    assert marked.count() == 1  # the active descendant stays in the document
    placed = options.evaluate_all("all => all.map((row) => Number(row.dataset.at))")
    assert placed == sorted(placed)
    tab.close()
