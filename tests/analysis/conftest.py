"""Tiny random models of every family whose attention is read, and a browser for pages."""

import shutil

import pytest
import torch

from .report.pages import watched


@pytest.fixture(scope="session")
def family_model():
    """Builds a tiny bilinear model of a family in which no weight, norm or bias is trivial."""

    def build(family="Llama", *, n_layers=2, n_kv_heads=2, seed=0, attention="eager", **config):
        import transformers

        model_class = getattr(transformers, f"{family}ForCausalLM")
        sizes = {
            "vocab_size": 50,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": n_kv_heads,
            "head_dim": 6,
            "max_position_embeddings": 32,
            "hidden_act": "linear",
            "tie_word_embeddings": False,
            "attn_implementation": attention,
        }
        model = model_class(model_class.config_class(**(sizes | config))).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data.uniform_(0.5, 2, generator=generator)
            else:
                parameter.data.normal_(0, 0.3, generator=generator)
        return model

    return build


@pytest.fixture(scope="session")
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
    opened = []

    def visit(path, width=1100, height=900, scheme="light"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
        tab = context.new_page()
        tab.set_default_timeout(60_000)
        opened.append((tab, path, *watched(tab)))
        tab.goto(path.as_uri())
        return tab

    yield visit
    for tab, path, said, requested in opened:
        assert said == []
        assert {url.split("#")[0] for url in requested} == {path.as_uri()}
        tab.context.close()
