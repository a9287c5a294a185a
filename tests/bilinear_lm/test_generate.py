"""Sampling from a model."""

import pytest
import torch

from bilinear_lm import InputError, sample


@pytest.fixture
def model(make_model, tiny_tokenizer):
    return make_model(d_vocab=len(tiny_tokenizer))


def test_greedy_is_the_likeliest_token_each_time(model, tiny_tokenizer):
    (text,) = sample(model, tiny_tokenizer, "Once upon", temperature=0.0, max_tokens=6)
    ids = [tiny_tokenizer.bos_token_id, *tiny_tokenizer.encode("Once upon", add_special_tokens=False)]
    for _ in range(6):
        with torch.inference_mode():
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] == tiny_tokenizer.eos_token_id:
            break
    assert text == tiny_tokenizer.decode(ids, skip_special_tokens=True)


def test_samples_repeat_with_the_seed_and_fill_the_count(model, tiny_tokenizer):
    def draw(seed):
        return list(sample(model, tiny_tokenizer, count=5, seed=seed, batch_size=2, max_tokens=8))

    assert len(draw(0)) == 5
    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_a_prompt_that_fills_the_context(model, tiny_tokenizer):
    with pytest.raises(InputError, match="leaves no room in a context of 32"):
        list(sample(model, tiny_tokenizer, "dog " * 60))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count=0; expected at least 1"),
        ({"max_tokens": 0}, "max_tokens=0; expected at least 1"),
        ({"temperature": -0.5}, "temperature=-0.5; expected at least 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_settings(model, tiny_tokenizer, change, message):
    with pytest.raises(InputError, match=message):
        list(sample(model, tiny_tokenizer, **change))
