"""Tiny models, a tiny tokenizer, and the folder of real data where there is one."""

import gc
import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"

WORDS = "Once upon a time a cat and a dog ran to the park. They saw a big red ball and were happy. "


def pytest_plugin_registered(plugin):
    """Where tests run, once the options are known; a process that only deals them out needs none of it."""
    if isinstance(plugin, pytest.Config):
        deals_out = getattr(plugin.known_args_namespace, "numprocesses", None)
        if "PYTEST_XDIST_WORKER" in os.environ or not deals_out:
            gc.disable()  # while all is imported and the tests are found
            from . import before_ours  # noqa: F401


def pytest_make_parametrize_id(config, val, argname):
    """Bytes by their number: gzip writes the time into them, and processes must name tests alike."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def imported_for_good():
    """Garbage is not looked for among all that was imported, which takes longest, in some runs twice."""
    gc.freeze()
    gc.enable()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and text, which lie beside the repository where the project is developed."""
    if not SHARED.is_dir():
        pytest.skip("needs the real models and texts of ../shared/data, which are not here")
    return SHARED


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level tokenizer of a few hundred tokens."""
    from finetune.data.windows import train_tokenizer

    return train_tokenizer([WORDS], 300)


@pytest.fixture
def make_model():
    """Builds a tiny Llama with random weights of order one, norm weights and biases among them."""

    def make(
        *,
        gate="linear",
        seed=0,
        n_layers=2,
        norms=True,
        n_kv_heads=2,
        d_vocab=300,
        mlp_bias=False,
        attention_bias=False,
    ):
        import torch
        from transformers import LlamaForCausalLM

        from finetune.pretraining.presets import Preset, llama_config, new_model

        torch.manual_seed(seed)
        preset = Preset(
            d_model=16,
            d_mlp=24,
            n_layers=n_layers,
            n_heads=4,
            n_kv_heads=n_kv_heads,
            n_ctx=32,
            d_vocab=d_vocab,
            norms=norms,
        )
        model = new_model(preset, gate=gate)
        if mlp_bias or attention_bias:
            config = llama_config(preset, gate=gate)
            config.mlp_bias, config.attention_bias = mlp_bias, attention_bias
            model = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if norms or not name.endswith("norm.weight"):
                    parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.3)
        return model.eval()

    return make


@pytest.fixture
def without_shape_checks():
    """Functions as users call them, without the checks of shapes that tests add."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
