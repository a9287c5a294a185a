"""Text that conversions measure on: its windows, and what MLPs read in them."""

import copy
import gzip

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilinear_lm import InputError
from bilinear_lm.glus import find_glus
from bilinear_lm.polynomials.measured import Moments
from finetune import calibration_windows
from finetune.choices import Selection
from finetune.data.calibration import glu_inputs

from ...bilinear_lm.tiny_families import gated

TEXT = "Once upon a time a cat and a dog ran to the park. They saw a big red ball and were happy. "


@pytest.fixture
def text(tmp_path):
    def write(repeats, name="text.txt"):
        (tmp_path / name).write_text(TEXT * repeats)
        return str(tmp_path / name)

    return write


def test_windows_begin_with_the_first_token_and_continue_the_text(text, tiny_tokenizer):
    source = text(200)
    windows = calibration_windows(tiny_tokenizer, [source], n_tokens=320, context=16)
    assert windows.shape[1] == 16
    assert abs(windows.numel() - 320) < 64
    ids = tiny_tokenizer.encode(TEXT * 200, add_special_tokens=False)
    joined = " ".join(map(str, ids))
    for row in windows.tolist():
        assert row[0] == tiny_tokenizer.bos_token_id
        assert " ".join(map(str, row[1:])) in joined
    plain = calibration_windows(tiny_tokenizer, [source], n_tokens=320, context=16, first=False)
    assert (plain != tiny_tokenizer.bos_token_id).all()


def test_seeds_and_sources(text, tiny_tokenizer):
    sources = [text(200, "a.txt"), text(200, "b.txt")]
    first, again, other = (
        calibration_windows(tiny_tokenizer, sources, n_tokens=640, context=16, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first[: len(other)], other[: len(first)])
    assert abs(first.numel() - 640) < 128


def test_a_tokenizer_without_a_first_token(text, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.bos_token = None
    windows = calibration_windows(tokenizer, [text(100)], n_tokens=320, context=16)
    assert windows.shape[1] == 16


def test_the_same_documents_in_other_files(text, tiny_tokenizer, tmp_path):
    documents = [TEXT * count for count in range(3, 12)]
    (tmp_path / "a.txt").write_text("<|endoftext|>\n".join(documents))
    rows = datasets.Dataset.from_dict({"story": documents})
    rows.to_json(tmp_path / "b.jsonl")
    rows.to_csv(tmp_path / "c.csv")
    rows.to_parquet(tmp_path / "d.parquet")
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress((tmp_path / "b.jsonl").read_bytes()))
    rows.save_to_disk(tmp_path / "f")
    expected, *others = (
        calibration_windows(
            tiny_tokenizer,
            [str(path)],
            n_tokens=640,
            context=16,
            selection=Selection(column="text" if path.name == "a.txt" else "story"),
        )
        for path in sorted(tmp_path.iterdir())
    )
    assert len(others) == 5
    assert all(torch.equal(windows, expected) for windows in others)


@pytest.mark.parametrize(
    ("repeats", "options", "said"),
    [
        (0, {}, r"text\.txt: 0 tokens of text, too short for one window of 16"),
        (1, {"context": 400}, "too short for one window of 400"),
        (1, {"n_tokens": 12}, "hold no window of 16; give more text, more tokens or a shorter context"),
        (40, {"n_tokens": 3}, "too short|hold no window of 16"),
    ],
)
def test_too_little_text(text, tiny_tokenizer, repeats, options, said):
    with pytest.raises(InputError, match=said):
        calibration_windows(tiny_tokenizer, [text(repeats)], **{"n_tokens": 320, "context": 16} | options)


def test_no_text(tiny_tokenizer, tmp_path):
    with pytest.raises(InputError, match="no calibration text given"):
        calibration_windows(tiny_tokenizer, [])
    with pytest.raises(InputError, match="nowhere: neither a text file, nor a folder"):
        calibration_windows(tiny_tokenizer, [str(tmp_path / "nowhere")])


@pytest.mark.parametrize("family", ["Llama", "Phi3", "Olmo2"])
def test_inputs_are_those_of_the_module(family):
    model = gated(family)
    windows = torch.randint(64, (5, 12), generator=torch.Generator().manual_seed(0))
    seen = []
    module = model.model.layers[1].mlp
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=windows)
    handle.remove()
    batches = list(glu_inputs(model, find_glus(model)[1], windows, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(batches), seen[0])
    assert not module._forward_pre_hooks


def test_modules_behind_do_not_run_and_the_hook_goes_when_reading_stops():
    model = gated("Llama")
    glu = find_glus(model)[0]
    ran = []
    model.model.layers[1].register_forward_pre_hook(lambda *_: ran.append(1))
    inputs = glu_inputs(model, glu, torch.zeros(4, 6, dtype=torch.long), batch_size=2)
    next(inputs)
    inputs.close()
    assert not ran
    assert not glu.module._forward_pre_hooks


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 5)),
    shift=st.sampled_from([0.0, 3.0, -1e4]),
    pieces=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_moments_are_numpys(shape, shift, pieces, seed):
    points = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift
    found = Moments.of(points.tensor_split(min(pieces, len(points))))
    assert found.count == len(points)
    np.testing.assert_allclose(found.mean, points.mean(dim=0), rtol=1e-12)
    expected = np.atleast_2d(np.cov(points.T, bias=True))
    np.testing.assert_allclose(found.cov, expected, rtol=1e-9, atol=1e-10)


def test_moments_of_nothing():
    with pytest.raises(InputError, match="no points"):
        Moments.of([])
