import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import pytest
import torch
from transformers import LlamaForCausalLM

from analysis import effective_rank, eigendecompose
from analysis.report.collect import collect
from analysis.report.options import STORY, ReportOptions
from analysis.report.write import report
from analysis.spectra import strength
from bilinear_lm.errors import InputError
from bilinear_lm.sites import mlp_inputs
from bilinear_lm.text.evaluate import text_loss
from bilinear_lm.weights import attention_weights, embedding, mlp_tensor, unembedding
from finetune.data.windows import train_tokenizer
from finetune.pretraining.presets import Preset, llama_config, new_model

from .pages import watched

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><b>",
    "&amp;",
    '" onmouseover="alert(2)',
    "<!--",
    "${title}",
]
NAME = 'a "model" <i>&</i> $title'
TEXT = 'The cat swims & <script>alert(1)</script> runs.\nThe "dog" <!-- sees </script><b> the sea.'
PRESET = Preset(d_model=12, d_mlp=20, n_layers=2, n_heads=2, n_ctx=96, d_vocab=0)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer([TEXT, STORY], 320)
    tokenizer.add_tokens(HOSTILE)
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    model = new_model(PRESET, d_vocab=len(tokenizer) + 3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5).add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def options():
    return ReportOptions(
        tokens=(*HOSTILE, "a - e, <!--"), n_directions=2, text=TEXT, evaluation_text=TEXT, sample_tokens=12
    )


@pytest.fixture(scope="module")
def data(model, tokenizer, options):
    return collect(model, tokenizer, NAME, options, progress=False)


@pytest.fixture(scope="module")
def page(model, tokenizer, options):
    return report(model, tokenizer, NAME, options, progress=False)


class Elements(HTMLParser):
    """The tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.raw = [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.raw = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.raw = False

    def handle_data(self, data):
        if not self.raw:
            self.text += data


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def spectra(page):
    """The eigenvalues that each figure of them names."""
    for figure in re.findall(r'<div class="spectrum".*?</svg>', page, re.DOTALL):
        titles = re.findall(r"<title>\d+: λ = ([^<]*)</title>", figure)
        yield [float(title.replace("−", "-")) for title in titles]


# What is computed.


def test_directions_are_those_asked_for_then_the_strongest(data, model, tokenizer):
    W_U = unembedding(model)
    words = data.vocabulary.words
    U = (W_U - W_U.mean(1, keepdim=True)).T[words]
    assert [at.layer for at in data.layers] == [0, 1]
    for at in data.layers:
        strengths = strength(mlp_tensor(model, at.layer), U)
        torch.testing.assert_close(at.strengths, strengths.topk(10).values)
        labels = [data.vocabulary.texts[reading.direction.token] for reading in at.directions]
        assert labels[: len(HOSTILE) + 1] == [*HOSTILE, "a"]
        strongest = at.directions[len(HOSTILE) + 1]
        assert strongest.direction.token == at.listed[0] == words[int(strengths.argmax())]
        assert strongest.strength == pytest.approx(float(strengths.max()), rel=1e-4)


def test_eigenvectors_of_a_direction_sum_to_its_output_on_the_text(model, tokenizer):
    options = ReportOptions(tokens=("a",), n_directions=0, n_eigenvectors=12, text=TEXT, sample_tokens=0)
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(TEXT, add_special_tokens=False)]])
    inputs = mlp_inputs(model, ids, [0, 1])[:, 0, 1:]
    for at in collect(model, tokenizer, NAME, options, progress=False).layers:
        (reading,) = at.directions
        u = reading.direction.vector(unembedding(model))
        outputs = mlp_tensor(model, at.layer)(inputs[at.layer]) @ u
        torch.testing.assert_close(reading.outputs, outputs)
        total = sum(part.activations for part in reading.eigenvectors)
        torch.testing.assert_close(total, outputs, rtol=1e-3, atol=1e-3 * float(outputs.abs().max()))
        assert reading.share(12) == pytest.approx(1)


def test_readings_are_embeddings_and_what_heads_write(data, model):
    W_E = embedding(model)
    for at in data.layers:
        attention = attention_weights(model, at.layer)
        reading = at.directions[0]
        u = reading.direction.vector(unembedding(model))
        v = eigendecompose(mlp_tensor(model, at.layer), u, k=1).vectors[0]
        direct, *heads = reading.eigenvectors[0].readings
        torch.testing.assert_close(direct.tokens.top_scores, (W_E @ v).topk(6).values)
        assert [head.head for head in heads] in ([0, 1], [1, 0])
        for head in heads:
            written = W_E @ attention.W_V[head.head] @ attention.W_O[head.head] @ v
            torch.testing.assert_close(head.tokens.bottom_scores, written.topk(6, largest=False).values)
        peaks = [max(float(h.tokens.top_scores[0]), -float(h.tokens.bottom_scores[0])) for h in heads]
        assert peaks == sorted(peaks, reverse=True)


def test_biases_are_read_with_the_constant_input(tokenizer):
    config = llama_config(PRESET, d_vocab=len(tokenizer))
    config.mlp_bias = True
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    options = ReportOptions(tokens=("a",), n_directions=0, n_eigenvectors=13, text=TEXT, sample_tokens=0)
    data = collect(model, tokenizer, NAME, options, progress=False)
    (reading,) = data.layers[0].directions
    assert data.shape.biases
    assert sum(part.constant for part in reading.eigenvectors) == pytest.approx(1, abs=1e-4)
    total = sum(part.activations for part in reading.eigenvectors)
    torch.testing.assert_close(total, reading.outputs, rtol=1e-3, atol=1e-4)
    assert "squared length" in report(model, tokenizer, NAME, options, progress=False)


@pytest.mark.parametrize("norms", [True, False])
def test_half_precision_and_models_without_norms(tokenizer, norms):
    torch.manual_seed(2)
    preset = Preset(**(vars(PRESET) | {"norms": norms}))
    model = new_model(preset, d_vocab=len(tokenizer)).eval().to(torch.bfloat16 if norms else torch.float32)
    options = ReportOptions(n_directions=1, sample_tokens=2, layers=(1,))
    page = report(model, tokenizer, NAME, options, progress=False)
    assert Elements(page).text.count("Layer 1") == 2
    assert ("divides its input by its size" in page) == norms


@pytest.mark.parametrize(("family", "after"), [("Llama", False), ("Gemma2", True), ("Olmo2", True)])
def test_directions_are_read_in_front_of_a_norm_behind_the_mlp(family_model, tokenizer, family, after):
    gate = {"hidden_activation": "linear"} if family == "Gemma2" else {}
    model = family_model(family, vocab_size=len(tokenizer), **gate)
    options = ReportOptions(n_directions=1, sample_tokens=0, layers=(0,), text="a cat")
    page = report(model, tokenizer, NAME, options, progress=False)
    assert ("directions are read at the MLP's output, in front of that norm" in page) == after


def test_a_text_beyond_the_context_is_cut_and_the_page_says_so(model, tokenizer):
    options = ReportOptions(n_directions=1, layers=(0,), text=20 * TEXT, sample_tokens=0)
    n_tokens = len(tokenizer.encode(20 * TEXT, add_special_tokens=False))
    data = collect(model, tokenizer, NAME, options, progress=False)
    assert (len(data.text), data.n_left_out) == (95, n_tokens - 95)
    page = report(model, tokenizer, NAME, options, progress=False)
    assert f"its last {n_tokens - 95:,} tokens are left out" in page


def test_loss_is_on_the_text_unless_another_is_given(data, model, tokenizer):
    assert data.loss == text_loss(model, tokenizer, TEXT)
    options = ReportOptions(n_directions=1, layers=(0,), sample_tokens=0)
    assert collect(model, tokenizer, NAME, options, progress=False).loss == text_loss(model, tokenizer, STORY)


def test_without_a_first_token_there_is_no_loss_and_the_page_says_so(model):
    tokenizer = train_tokenizer([TEXT, STORY], 320)
    tokenizer.bos_token = None
    options = ReportOptions(n_directions=1, layers=(0,), sample_tokens=0)
    page = report(model, tokenizer, NAME, options, progress=False)
    assert "There is no loss here" in page
    assert "marks the beginning" not in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": " \n"}, "the text to colour is empty"),
        ({"n_directions": 0}, "no directions to show"),
        ({"n_eigenvectors": 0}, "n_eigenvectors=0; expected at least 1"),
        ({"layers": (0, 2)}, "layer 2 does not exist; the model has layers 0 to 1"),
        ({"layers": (-1,)}, "layer -1 does not exist"),
        ({"tokens": ("no such token",)}, "is not one token of this model"),
    ],
)
def test_wrong_input(model, tokenizer, wrong, message):
    with pytest.raises(InputError, match=message):
        report(model, tokenizer, NAME, ReportOptions(**wrong), progress=False)


def test_a_model_that_is_not_bilinear(tokenizer):
    model = new_model(PRESET, gate="silu", d_vocab=len(tokenizer))
    with pytest.raises(InputError, match="SiLU"):
        report(model, tokenizer, NAME, progress=False)


def test_importing_the_package_loads_neither_plotly_nor_transformers():
    check = "import sys, analysis; sys.exit(bool({'plotly', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# The page.


def test_numbers_on_the_page_are_those_of_the_weights(page, data, model):
    rows = re.findall(r"<tr><td>(\d+)</td>.*?<td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td></tr>", page)
    drawn = list(spectra(page))
    read = [(at.layer, reading) for at in data.layers for reading in at.directions]
    assert len(rows) == len(drawn) == len(read)
    for row, named, (layer, reading) in zip(rows, drawn, read, strict=True):
        u = reading.direction.vector(unembedding(model))
        tensor = mlp_tensor(model, layer)
        values = eigendecompose(tensor, u).values
        share = float(values[:2].square().sum() / values.square().sum())
        expected = (layer, float(strength(tensor, u)), float(effective_rank(values)), share)
        shown = [float(cell.rstrip("%")) for cell in row]
        assert shown[:3] == pytest.approx(expected[:3], rel=1e-2, abs=0.06)
        assert shown[3] == pytest.approx(100 * share, abs=0.51)
        assert sorted(named) == pytest.approx(sorted(values.tolist()), rel=1e-2)


def test_tokens_of_the_text_carry_their_values(page, data):
    texts = re.findall(r'<p class="text">(.*?)</p>', page, re.DOTALL)
    parts = [reading.outputs for at in data.layers for reading in at.directions]
    assert len(texts) == len(parts) * (1 + data.options.n_eigenvectors)
    for text, outputs in zip(texts[:: 1 + data.options.n_eigenvectors], parts, strict=True):
        titles = [unescape(title) for title in re.findall(r'title="([^"]*)"', text)]
        values = [float(title.rsplit(": ", 1)[1].replace("−", "-")) for title in titles]
        assert values == pytest.approx(outputs.tolist(), rel=1e-2)
        shown = unescape(re.sub(r"<[^>]*>", "", text))
        assert shown == TEXT.replace("\n", "⏎\n")


def test_loss_name_and_sample_are_on_the_page(elements, data):
    assert f"What {NAME} computes" in elements.text
    assert f"{data.loss.nats_per_token:.3f}" in elements.text
    assert f"{data.loss.bits_per_byte:.3f}" in elements.text
    assert data.options.prompt in elements.text


def test_what_comes_from_outside_is_escaped(page, elements):
    for token in HOSTILE:
        assert token.replace(" ", "␣") in elements.text
    scripts = [attributes for tag, attributes in elements.tags if tag == "script"]
    assert [at for at in scripts if at.get("type") != "application/json"] == [{}, {}]
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    assert page.count("alert(1)</script>") == 0


def test_the_page_is_self_contained(page, elements):
    assert len(page) < 400_000
    assert "http://" not in page
    assert "https://" not in page
    linked = [at.get("src") or at.get("href") for _, at in elements.tags if "src" in at or "href" in at]
    assert all(target.startswith(("#", "data:")) for target in linked)


def test_links_lead_somewhere_and_figures_and_tables_say_what_they_show(elements):
    identifiers = [at["id"] for _, at in elements.tags if "id" in at]
    assert len(identifiers) == len(set(identifiers))
    targets = {at["href"][1:] for tag, at in elements.tags if tag == "a"}
    assert targets <= set(identifiers)
    names = [tag for tag, _ in elements.tags]
    assert names.count("figure") == names.count("figcaption")
    assert names.count("table") == names.count("caption")
    assert names.count("h1") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page_offline(browser, page, tmp_path, scheme):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_context(color_scheme=scheme, viewport={"width": 400, "height": 800}).new_page()
    said, requested = watched(tab)
    tab.goto(path.as_uri())
    term = tab.locator("button.term").first
    term.focus()
    tab.keyboard.press("Enter")
    opened = tab.locator(".definition:popover-open")
    name = opened.get_attribute("id")
    box, at = opened.bounding_box(), term.bounding_box()
    tab.keyboard.press("Escape")
    n_open = opened.count()
    tab.locator("nav a").last.click()
    tab.locator("#glossary").scroll_into_view_if_needed()
    nav = tab.locator("nav").bounding_box()
    width = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    tab.context.close()
    assert said == []
    assert requested == [path.as_uri()]
    assert name.startswith("term-")
    assert n_open == 0
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400
    assert min(abs(box["y"] - at["y"] - at["height"]), abs(at["y"] - box["y"] - box["height"])) < 20
    assert nav["y"] == 0
    assert width[0] <= width[1]
