"""Loss of a text, against sums written out and a published figure."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from bilinear_lm import InputError, load_pretrained, load_tokenizer, text_loss

TEXT = "Once upon a time a dog ran to the park. " * 12


def require_written_out(found, model, tokenizer, text, size):
    """The sum of the logarithms of each token's probability, over windows of a size."""
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    total = 0.0
    for start in range(0, len(ids), size):
        row = torch.tensor([[tokenizer.bos_token_id, *ids[start : start + size]]])
        with torch.inference_mode():
            logs = model(input_ids=row).logits[0, :-1].log_softmax(-1)
        total -= logs.gather(1, row[0, 1:, None]).sum().item()
    assert found.n_tokens == len(ids)
    assert found.n_bytes == len(text.encode())
    assert found.nats_per_token == pytest.approx(total / len(ids), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / len(text.encode()), rel=1e-5)


@pytest.mark.parametrize(("window", "batch_size"), [(None, 16), (5, 2), (31, 1)])
def test_every_token_is_predicted_once(make_model, tiny_tokenizer, window, batch_size):
    model = make_model(d_vocab=len(tiny_tokenizer))
    found = text_loss(model, tiny_tokenizer, TEXT, window=window, batch_size=batch_size)
    require_written_out(found, model, tiny_tokenizer, TEXT, window or 31)


def test_bad_input(make_model, tiny_tokenizer):
    model = make_model(d_vocab=len(tiny_tokenizer))
    with pytest.raises(InputError, match="is empty"):
        text_loss(model, tiny_tokenizer, "")
    with pytest.raises(InputError, match=r"window of 32 tokens .* exceed the context of 32"):
        text_loss(model, tiny_tokenizer, TEXT, window=32)


@pytest.fixture
def stories260k(shared):
    """The model, its tokenizer, and its validation text."""
    path = shared / "stories260K"
    text = (shared / "text/tinystories/clean_v1_valid.txt").read_text()
    return load_pretrained(path), load_tokenizer(path), text


def test_stories260k_on_the_beginning(stories260k):
    model, tokenizer, text = stories260k
    found = text_loss(model, tokenizer, text[:20_000], window=511)
    exact = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float64).eval()
    require_written_out(found, exact, tokenizer, text[:20_000], 511)
    assert 1 < found.nats_per_token < 2


@pytest.mark.studies
def test_stories260k_on_its_validation_text(stories260k):
    found = text_loss(*stories260k, window=511)
    assert found.nats_per_token == pytest.approx(1.530, abs=5e-4)
    assert found.bits_per_byte == pytest.approx(1.085, abs=5e-4)
