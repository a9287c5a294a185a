"""A notebook shows results: a graph in a frame, passages coloured, interactions as a table, a figure."""

import re
from base64 import b64decode
from html import unescape

import nbformat
import pytest
from nbclient import NotebookClient

CELLS = [
    """
import bilinear_lm as bl
from analysis import *

model, tokenizer = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
folder, text = bl.shipped_scope("stories")
scope = dictionaries_in(folder, model)
prompt = open_prompt(model, "Her mom gave her a big", scope, tokenizer=tokenizer)
attribution = attribute(prompt, " hug", max_nodes=60)
""",
    "attribution",
    "attribution.graph",
    """
windows = token_windows(tokenizer, text.read_text(encoding="utf-8"), 64)[:12]
top_contexts(model, scope[bl.Site(3, "mlp-out")], windows, k=2, skip=1, tokenizer=tokenizer)
""",
    """
layer = feature_layer(model, 3, scope[bl.Site(3, "mlp-in")], scope[bl.Site(3, "mlp-out")])
strongest_interactions(layer, 540, k=30)
""",
    """
u = token_direction(bl.unembedding(model), prompt.vocabulary.find(" sad"))
spectrum_plot(eigendecompose(bl.mlp_tensor(model, 0), u).values, "the logit of sad")
""",
    "scope[bl.Site(3, 'mlp-out')]",
]


@pytest.fixture(scope="module")
def shown():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    results = [[output for output in cell.outputs if "data" in output] for cell in notebook.cells]
    return [outputs[-1].data if outputs else None for outputs in results]


def test_a_graph_is_drawn_in_a_frame_of_its_own(shown, request, tmp_path):
    for data in shown[1:3]:
        frame = data["text/html"]
        assert frame.startswith('<iframe title="logit 691 @6" sandbox="allow-scripts"')
        page = unescape(re.search(r'srcdoc="(.*)">', frame, re.S)[1])
        assert page.startswith("<!doctype html>")
        assert 'id="circuits"' in page
        assert re.search(r"nodes=(5\d|60) \(", shown[2]["text/plain"])
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8>{shown[2]['text/html']}", encoding="utf-8")
    tab = request.getfixturevalue("browser").new_page()
    tab.goto(path.as_uri())
    inside = tab.frames[1]
    inside.wait_for_selector("#graph-canvas svg .node, #graph-canvas svg g")
    assert inside.locator("#graph-canvas svg").count() == 1
    tab.close()


def test_passages_are_coloured(shown):
    html = shown[3]["text/html"]
    assert html.count('class="text"') >= 10
    assert 'class="p" style="--a:1.00"' in html
    assert "<script" not in html


def test_interactions_are_a_table(shown):
    html = shown[4]["text/html"]
    assert html.count("<tr>") == 21
    assert "<td>540</td><td>191</td><td>538</td>" in html
    assert "and 10 weaker ones" in html


def test_a_figure_shows_without_a_magic_line(shown):
    assert b64decode(shown[5]["image/png"]).startswith(b"\x89PNG")


def test_the_rest_is_told_in_a_few_lines(shown):
    assert shown[6]["text/plain"].startswith("Dictionary(\n    site=3-mlp-out, n_feat=768, d_in=192,")
