"""What a config.json asks for is held against the file before memory or time is spent on it."""

import json
import resource
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilinear_lm.checkpoints import checkpoint_info, load_pretrained, load_tokenizer
from bilinear_lm.errors import InputError

from .published_cases import F5
from .published_forward import Case, make
from .tiny_models import tiny, word_tokenizer

HUGE = 10**9


@pytest.fixture
def folder(tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    word_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(read, folder, part):
    start, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as error:
        read(folder)
    assert part in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    # Megabytes, and not the gigabytes and minutes that building would take.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("read", [checkpoint_info, load_pretrained])
def test_more_layers_than_tensors(folder, read):
    edit_config(folder, num_hidden_layers=HUGE)
    refused(read, folder, f"num_hidden_layers {HUGE}, and there are")


@pytest.mark.parametrize("read", [checkpoint_info, load_pretrained, load_tokenizer])
@pytest.mark.parametrize("name", ["num_labels", "num_key_value_heads", "num_experts", "max_window_layers"])
def test_more_of_anything_that_is_counted(folder, read, name):
    edit_config(folder, **{name: HUGE})
    refused(read, folder, f"{name} {HUGE}; expected at most")


def test_a_tokenizer_beside_a_huge_config(folder):
    edit_config(folder, num_hidden_layers=HUGE)
    refused(load_tokenizer, folder, f"num_hidden_layers {HUGE}")


def test_counts_in_a_configuration_inside(folder):
    edit_config(folder, text_config={"num_hidden_layers": HUGE})
    refused(checkpoint_info, folder, f"num_hidden_layers {HUGE}")


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "intermediate_size"])
def test_sizes_that_would_fill_the_memory(folder, name):
    edit_config(folder, **{name: HUGE})
    refused(load_pretrained, folder, "config.json asks for")
    refused(checkpoint_info, folder, "the weights do not fit config.json")


@pytest.mark.parametrize("read", [checkpoint_info, load_pretrained])
def test_the_published_format(tmp_path, read):
    make(Case(F5), tmp_path / "published")
    edit_config(tmp_path / "published", n_layer=HUGE)
    refused(read, tmp_path / "published", f"n_layer {HUGE}, and there are")


def test_info_says_nothing_that_the_weights_contradict(folder):
    for name, value in {"vocab_size": 21, "hidden_size": 10, "intermediate_size": 11}.items():
        before = (folder / "config.json").read_text()
        edit_config(folder, **{name: value})
        refused(checkpoint_info, folder, "has shape")
        (folder / "config.json").write_text(before)
    edit_config(folder, num_hidden_layers=1)
    refused(checkpoint_info, folder, "there are 2 layers, expected 1")


def test_a_long_context_is_no_size(folder):
    edit_config(folder, max_position_embeddings=10_485_760)
    assert checkpoint_info(folder).n_ctx == 10_485_760
    load_pretrained(folder)


def test_info_of_a_config_of_a_hundred_bytes_within_a_gigabyte(folder):
    (folder / "config.json").write_text('{"model_type": "qwen2", "num_hidden_layers": 1000000000}')
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30));"
    code = f"{limited} from bilinear_lm.cli import main; raise SystemExit(main(['info', {str(folder)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def stored_as(folder, edit):
    """The folder of a tied model whose tensors are stored in another way; its state dict."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


SHARED = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("edit", "tied"),
    [
        (lambda tensors: None, True),
        (lambda tensors: tensors.update({"lm_head.weight": tensors.pop(SHARED)}), True),
        (lambda tensors: tensors.update({"lm_head.weight": tensors[SHARED].clone()}), True),
        (lambda tensors: tensors.update({"lm_head.weight": tensors[SHARED] + 1}), False),
    ],
    ids=["embedding", "unembedding", "both, equal", "both, different"],
)
def test_parameters_of_a_tied_model_however_it_is_stored(tmp_path, edit, tied):
    tiny(tie_word_embeddings=True).save_pretrained(tmp_path)
    stored_as(tmp_path, edit)
    info, model = checkpoint_info(tmp_path), load_pretrained(tmp_path)
    assert info.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert info.tied_embeddings is tied
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight) is tied


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_key_value_heads": 0},
        {"head_dim": 0},
        {"vocab_size": -1},
        {"pad_token_id": HUGE},
        {"rope_parameters": {"rope_type": "spiral"}},
        {"dtype": float("nan")},
    ],
)
def test_numbers_that_transformers_stumbles_over(folder, changes, capfd):
    edit_config(folder, **changes)
    refused(load_pretrained, folder, "transformers")
    assert capfd.readouterr().err == ""
