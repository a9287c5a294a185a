"""Names: paths, shipped models and hub repositories."""

import time
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch

from bilinear_lm import shipped, shipped_models
from bilinear_lm.checkpoints import checkpoint_info, load_pretrained, load_tokenizer
from bilinear_lm.errors import InputError

from .published_cases import F5
from .published_forward import Case, make
from .tiny_models import IDS, tiny, word_tokenizer


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose repositories are folders; returns the calls made."""
    calls = []

    def snapshot_download(repo, revision=None, **patterns):
        calls.append((repo, revision, patterns))
        return str(tmp_path / "hub" / repo)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_repository_is_downloaded_and_then_a_folder(hub, tmp_path):
    folder = tmp_path / "hub" / "owner" / "name"
    tiny().save_pretrained(folder)
    word_tokenizer(folder)
    model = load_pretrained("owner/name", revision="v2")
    assert torch.equal(model(IDS).logits, tiny()(IDS).logits)
    assert load_tokenizer("owner/name").encode("b a") == [4, 3]
    assert checkpoint_info("owner/name").name == "owner/name"
    assert [call[:2] for call in hub] == [("owner/name", "v2"), ("owner/name", None), ("owner/name", None)]
    weights, tokenizer = (call[2]["allow_patterns"] for call in hub[:2])
    assert "*.safetensors" in weights
    assert "*.safetensors" not in tokenizer
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in weights + tokenizer)


@pytest.mark.parametrize(
    ("name", "repository", "pad"),
    [
        ("ts-4096", "tdooms/ts-tokenizer-4096", "[EOS]"),
        ("ss-4096", "tdooms/ss-tokenizer-4096", "[EOS]"),
        ("mistral", "mistral-community/Mixtral-8x22B-v0.1", "</s>"),
        ("gpt2", "openai-community/gpt2", "<|endoftext|>"),
    ],
)
def test_the_tokenizer_that_a_published_config_names(name, repository, pad, hub, tmp_path):
    make(Case(F5 | {"tokenizer": name}), tmp_path / "model")
    word_tokenizer(tmp_path / "hub" / repository)
    tokenizer = load_tokenizer(tmp_path / "model")
    assert (tokenizer.pad_token, tokenizer.padding_side) == (pad, "right")
    assert [call[0] for call in hub] == [repository]


def test_a_path_wins_over_the_hub(hub, tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    load_pretrained("owner/name")
    assert hub == []


def test_shipped_models(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "models")
    assert shipped_models() == []
    tiny().save_pretrained(tmp_path / "models" / "stories")
    (tmp_path / "models" / "notes").mkdir()
    assert shipped_models() == ["stories"]
    assert torch.equal(load_pretrained("stories")(IDS).logits, tiny()(IDS).logits)
    assert checkpoint_info("stories").name == "stories"
    with pytest.raises(InputError, match=r"a shipped model \(stories\)"):
        load_pretrained("storeys")


@pytest.mark.parametrize(
    "name",
    [
        "./owner/name",
        "../name",
        "/nowhere/name",
        "~/nowhere",
        "models/a.bin",
        "a/b/c",
        "name",
        ".hidden/x",
        "",
    ],
)
def test_a_missing_path_never_asks_the_hub(name, hub):
    with pytest.raises(InputError, match="no such file or folder"):
        load_pretrained(name)
    assert hub == []


def test_a_missing_path_object_never_asks_the_hub(hub):
    with pytest.raises(InputError, match="no such file or folder"):
        load_pretrained(Path("owner/name"))
    assert hub == []


def test_without_a_network_the_error_is_clear_and_quick(monkeypatch):
    start = time.perf_counter()
    with pytest.raises(InputError, match="owner/no-such-model: no such local path, and the hub") as error:
        load_pretrained("owner/no-such-model")
    # The real look-up, of an address that refuses connections.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="at revision v1 cannot be fetched") as refused:
        load_pretrained("owner/no-such-model", revision="v1")
    with pytest.raises(InputError, match="cannot be fetched"):
        load_tokenizer("owner/no-such-model")
    assert time.perf_counter() - start < 10
    assert "\n" not in str(error.value) + str(refused.value)
