"""Tokenizers and windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.sources import END_OF_TEXT
from finetune.data.windows import Windows, tokenize, train_tokenizer, whole_windows


@settings(deadline=None, max_examples=50)
@given(text=st.text())
def test_tokenizer_is_lossless(text):
    tokenizer = train_tokenizer(["Once upon a time there was a cat."] * 5, 280)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_tokenizer_begins_texts_with_its_first_token(tiny_tokenizer):
    ids = tiny_tokenizer("a cat")["input_ids"]
    assert ids[0] == tiny_tokenizer.bos_token_id
    assert tiny_tokenizer.eos_token == END_OF_TEXT


def test_tokenize_ends_each_document_and_stops_at_the_limit(tiny_tokenizer):
    ids = tokenize(["a cat", "a dog"], tiny_tokenizer)
    cat, dog = (tiny_tokenizer.encode(text, add_special_tokens=False) for text in ("a cat", "a dog"))
    assert ids.tolist() == [*cat, tiny_tokenizer.eos_token_id, *dog, tiny_tokenizer.eos_token_id]
    assert tokenize(["a cat"] * 9, tiny_tokenizer, limit=5).tolist() == [*ids[: len(cat) + 1], *ids][:5]
    assert len(tokenize([], tiny_tokenizer)) == 0


@pytest.mark.parametrize(
    ("first", "expected"), [(None, [[5, 6, 7], [8, 9, 10]]), (1, [[1, 5, 6], [1, 7, 8], [1, 9, 10]])]
)
def test_whole_windows_one_after_the_other(first, expected):
    assert whole_windows(np.arange(5, 12, dtype=np.int32), 3, first).tolist() == expected
    assert whole_windows([], 3, first).shape == (0, 3)


@given(
    length=st.integers(8, 100), passes=st.floats(0.1, 4), context=st.integers(3, 9), seed=st.integers(0, 99)
)
def test_windows_cover_the_stream(length, passes, context, seed):
    stream = np.arange(length) + 10
    windows = Windows([stream], [passes], context=context, first=1, seed=seed)
    step = context - 1
    # A pass holds all whole windows after an offset below one window.
    per_pass = [length // step - 1, length // step]
    assert int(passes) * per_pass[0] <= len(windows) <= int(passes + 1) * per_pass[1]
    for item in windows:
        ids = item["input_ids"]
        assert ids[0] == 1
        assert len(ids) == context
        assert (ids[2:] - ids[1:-1] == 1).all()


def test_windows_of_a_whole_pass_do_not_overlap():
    windows = Windows([np.arange(1000)], [1.0], context=9, first=-1, seed=3)
    seen = np.concatenate([item["input_ids"][1:] for item in windows])
    assert len(np.unique(seen)) == len(seen) >= 1000 - 2 * 8


def test_windows_repeat_with_the_seed():
    def starts(seed):
        return Windows([np.arange(500)], [2.5], context=9, first=0, seed=seed).rows.tolist()

    assert starts(1) == starts(1) != starts(2)
