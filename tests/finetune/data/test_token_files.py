"""Token files of a run: read by training and by what the start is measured on, each as if alone."""

import dataclasses

import numpy as np
import pytest
import torch

from finetune import calibration_windows
from finetune.data.token_files import start_windows, token_streams, training_windows


@pytest.fixture
def two_sources(settings, stories):
    """Settings of a run on halves of a text, with fewer tokens to train on than to measure on."""
    told = (stories / "train.txt").read_text().split("<|endoftext|>")
    for name, part in (("a.txt", told[:60]), ("b.txt", told[60:])):
        (stories / name).write_text("<|endoftext|>".join(part))
    data = (str(stories / "a.txt"), str(stories / "b.txt"))
    return dataclasses.replace(settings, data=data, tokens=400, start="fit").with_context(32)


@pytest.mark.parametrize("first", [True, False])
def test_the_start_is_measured_on_the_heads_of_the_sources(two_sources, first, tiny_tokenizer, tmp_path):
    config = dataclasses.replace(two_sources, first_token=first)
    found = start_windows(config, token_streams(config, tmp_path / "run", tiny_tokenizer), tiny_tokenizer)
    expected = calibration_windows(tiny_tokenizer, config.data, n_tokens=1_500, context=32, first=first)
    assert torch.equal(found, expected)
    assert found.numel() > 1_300


def test_training_is_on_no_more_for_it(two_sources, tiny_tokenizer, tmp_path):
    alone = dataclasses.replace(two_sources, start="anneal")
    assert start_windows(alone, [], tiny_tokenizer) is None
    streams = token_streams(alone, tmp_path / "alone", tiny_tokenizer)
    longer = token_streams(two_sources, tmp_path / "run", tiny_tokenizer)
    assert [len(stream) for stream in streams] == [400, 400]
    assert [len(stream) for stream in longer] == [1_125, 1_125]
    expected, found = (training_windows(alone, each, tiny_tokenizer) for each in (streams, longer))
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own["input_ids"], other["input_ids"])


def test_everything_is_read_for_one_pass(two_sources, tiny_tokenizer, tmp_path):
    config = dataclasses.replace(two_sources, tokens=None, calibration_tokens=100)
    streams = token_streams(config, tmp_path / "run", tiny_tokenizer)
    assert min(len(stream) for stream in streams) > 1_125
    assert all(stream.dtype == np.int32 for stream in streams)
